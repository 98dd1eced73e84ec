"""``dcloud status``: engine, GPUs and who holds them, the queue, the servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection

from dcloud_spawner.budget_funds import read_funds
from dcloud_spawner.engines.base import Health
from dcloud_spawner.engines.select import select_engine
from dcloud_spawner.errors import DCloudError
from dcloud_spawner.form.datasets import done_words
from dcloud_spawner.form.words import left_figure
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.reasons import of_somebody, on_hold
from dcloud_spawner.scheduler.schedule import as_request
from dcloud_spawner.store import accounts, dataset_choices, leases, nodes, workloads
from dcloud_spawner.store.dataset_choices import Mounted
from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.cli.deployment import Deployment
from hub_services.cli.preparation import ImageProgress, images_in_preparation
from hub_services.cli.processes import long_running
from hub_services.cli.storage import StorageStatus, look
from hub_services.cli.stored import database_exists, reading
from hub_services.cli.supervision import Supervisor
from hub_services.cli.up import hub_answers

GIB = 2**30
UUID_LETTERS = 12
"""Enough to tell GPUs apart in a table; ``--json`` has the whole."""


@dataclass(frozen=True)
class ProgramStatus:
    """One program of the platform."""

    name: str
    state: str
    pid: int
    started_at: datetime | None


@dataclass(frozen=True)
class GpuStatus:
    """One accelerator: ``server`` holds it, empty when free."""

    node: str
    index: int
    uuid: str
    model: str
    memory_bytes: int
    health: str
    reason: str
    server: str


@dataclass(frozen=True)
class DatasetStatus:
    """One dataset of a server: its folder under ~/datasets, and how far its mount is."""

    folder: str
    dataset: str
    version: int | None
    mode: str
    state: str
    message: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class ServerStatus:
    """One workload that has not ended. ``place`` and ``reasons`` only while it waits; ``blocked``
    is the code of a limit or budget that keeps it from starting, else empty."""

    server: str
    user: str
    state: str
    profile: str
    gpus: int
    memory_bytes: int
    cpu_millicores: int
    node: str | None
    place: int | None
    reasons: Sequence[str]
    submitted_at: datetime
    since: datetime
    latest_start_at: datetime | None
    blocked: str = ""
    datasets: Sequence[DatasetStatus] = ()


@dataclass(frozen=True)
class LowAccount:
    """An account with a budget that has few credits left, or soon none."""

    name: str
    kind: str
    budget: str
    level: str
    left_microcredits: int
    ends_at: datetime | None
    """When nothing is left at this pace."""


@dataclass(frozen=True)
class Status:
    """Everything ``dcloud status`` shows; ``--json`` writes exactly this."""

    url: str
    hub_answers: bool
    engine: str
    engine_problem: str
    weaker_isolation: str
    simulated_gpus: bool
    programs: Sequence[ProgramStatus]
    storage: StorageStatus
    images: Sequence[ImageProgress]
    gpus: Sequence[GpuStatus]
    queue: Sequence[ServerStatus]
    servers: Sequence[ServerStatus]
    low_accounts: Sequence[LowAccount]
    at: datetime


def gather(deployment: Deployment) -> Status:
    """Ask everything once. What does not answer is said, not raised."""
    settings = deployment.settings
    engine_name: str = settings.engine
    weaker = problem = ""
    try:
        engine = select_engine(settings)
        engine_name, weaker = engine.name, engine.weaker_isolation
        engine.ping()
    except DCloudError as error:
        problem = str(error)
    gpus: Sequence[GpuStatus] = ()
    open_workloads: Sequence[Workload] = ()
    low: Sequence[LowAccount] = ()
    mounts: Mapping[str, Sequence[Mounted]] = {}
    if database_exists(settings):
        with reading(settings) as connection:
            open_workloads = workloads.open_workloads(connection)
            gpus = _gpus(connection, {each.id: each for each in open_workloads})
            low = _low_accounts(connection, datetime.now(UTC))
            mounts = dataset_choices.mounted(connection)
    waiting = [each for each in open_workloads if each.state is State.QUEUED]
    in_line = [as_request(each) for each in waiting if not each.blocked]
    order = {each.id: number for number, each in enumerate(ordered(in_line), 1)}
    waiting.sort(key=lambda each: (order.get(each.id, len(waiting)), each.sequence))
    return Status(
        url=settings.bind_url,
        hub_answers=hub_answers(deployment),
        engine=engine_name,
        engine_problem=problem,
        weaker_isolation=weaker,
        simulated_gpus=settings.simulated_gpus,
        programs=_programs(deployment),
        storage=look(settings),
        images=images_in_preparation(settings) if engine_name == "docker" else (),
        gpus=gpus,
        queue=[server_status(each, mounts, order.get(each.id)) for each in waiting],
        servers=[
            server_status(each, mounts) for each in open_workloads if each.state is not State.QUEUED
        ],
        low_accounts=low,
        at=datetime.now(UTC),
    )


def _low_accounts(connection: Connection, now: datetime) -> Sequence[LowAccount]:
    return [
        LowAccount(
            name=found.account.name,
            kind=found.account.kind,
            budget=found.account.budget.value,
            level=found.runway.level.value,
            left_microcredits=found.runway.left_microcredits,
            ends_at=found.runway.ends_at,
        )
        for found in read_funds(connection, now)
        if found.runway.level is not None
    ]


def _gpus(connection: Connection, by_id: Mapping[str, Workload]) -> Sequence[GpuStatus]:
    holders = leases.holders(connection)
    found = []
    for row in nodes.all_accelerators(connection):
        holder = by_id.get(holders.get(row.uuid, ""))
        found.append(
            GpuStatus(
                node=row.node,
                index=row.index,
                uuid=row.uuid,
                model=row.model,
                memory_bytes=row.memory_bytes,
                health=row.health.value,
                reason=row.health_reason,
                server=holder.server if holder else "",
            )
        )
    return found


def _programs(deployment: Deployment) -> Sequence[ProgramStatus]:
    known = Supervisor(deployment).programs()
    found = []
    for name in (*long_running(deployment.settings), "images"):
        state = known.get(name)
        if state is None:
            found.append(ProgramStatus(name, "not running", 0, None))
            continue
        started = datetime.fromtimestamp(state.started, UTC) if state.started else None
        word = state.state.lower()
        if name == "images" and state.state == "EXITED":
            word = "done" if state.exit_status == 0 else "failed"
        found.append(ProgramStatus(name, word, state.pid, started))
    return found


def server_status(
    workload: Workload, mounts: Mapping[str, Sequence[Mounted]], place: int | None = None
) -> ServerStatus:
    """One workload that has not ended, with what it has under ~/datasets."""
    since = {
        State.RUNNING: workload.ready_at,
        State.STARTING: workload.starting_at,
        State.ADMITTED: workload.admitted_at,
        State.STOPPING: workload.stopping_at,
    }.get(workload.state)
    return ServerStatus(
        server=workload.server,
        user=workload.user,
        state=workload.state.value,
        profile=workload.profile,
        gpus=workload.gpus,
        memory_bytes=workload.memory_bytes,
        cpu_millicores=workload.cpu_millicores,
        node=workload.node,
        place=place,
        reasons=_reasons(workload),
        submitted_at=workload.submitted_at,
        since=since or workload.submitted_at,
        latest_start_at=None if workload.blocked else workload.latest_start_at,
        blocked=workload.blocked if workload.state is State.QUEUED else "",
        datasets=[_dataset(each) for each in mounts.get(workload.id, ())],
    )


def _dataset(mount: Mounted) -> DatasetStatus:
    return DatasetStatus(
        folder=mount.name,
        dataset=mount.reference,
        version=mount.version,
        mode=mount.mode,
        state=mount.state.value,
        message=mount.message,
        done_bytes=mount.done_bytes,
        total_bytes=mount.total_bytes,
    )


def _reasons(workload: Workload) -> Sequence[str]:
    if workload.held_at is not None:
        return (on_hold(workload.held_reason),)
    if workload.blocked:
        return (f"Blocked ({workload.blocked}). {of_somebody(workload.blocked_reason)}",)
    return tuple(map(of_somebody, workload.reasons))


def as_json(status: Status) -> dict[str, object]:
    """For ``json.dumps(..., default=str)``: times become ISO texts."""
    return asdict(status)


def show(console: Console, status: Status) -> None:
    """Print the tables."""
    word = "[green]answers[/green]" if status.hub_answers else "[red]does not answer[/red]"
    console.print(f"[bold]{status.url}[/bold]  {word}", highlight=False)
    engine = f"engine: {status.engine}"
    if status.weaker_isolation:
        engine += f" ({status.weaker_isolation})"
    if status.engine_problem:
        engine += f"  [red]{status.engine_problem}[/red]"
    console.print(engine, highlight=False)
    programs = ", ".join(f"{each.name} {each.state}" for each in status.programs)
    console.print(f"programs: {programs}", highlight=False)
    words = escape(status.storage.words)
    console.print(
        f"storage: {f'[red]{words}[/red]' if status.storage.problem else words}", highlight=False
    )
    for image in status.images:
        console.print(
            f"image {image.image}: {image.state}, {image.progress:.0%}. {image.message}",
            highlight=False,
        )
    console.print()
    _show_gpus(console, status)
    if status.queue:
        console.print(_queue_table(status), "")
    else:
        console.print("Nobody waits.\n")
    console.print(_server_table(status) if status.servers else "No server runs.")
    for line in dataset_lines((*status.queue, *status.servers)):
        console.print(line, highlight=False)
    if status.low_accounts:
        console.print()
    for low in status.low_accounts:
        console.print(_low_line(low), highlight=False)


def _show_gpus(console: Console, status: Status) -> None:
    if not status.gpus:
        console.print("No GPU has been found.\n")
        return
    if status.simulated_gpus:
        console.print("[yellow]The GPUs are simulated.[/yellow]")
    table = _table("GPUs", "node", "#", "model", "memory", "health", "held by", "UUID")
    for gpu in status.gpus:
        ok = gpu.health == Health.OK.value
        health = "ok" if ok else f"[red]{gpu.health}:[/red] {gpu.reason}"
        table.add_row(
            gpu.node,
            str(gpu.index),
            gpu.model.removeprefix("NVIDIA "),
            f"{gpu.memory_bytes / GIB:.0f} GiB",
            health,
            gpu.server or ("free" if ok else ""),
            gpu.uuid[:UUID_LETTERS],
        )
    console.print(table, "")


def _low_line(low: LowAccount) -> str:
    """One account with few credits left."""
    word = "account of" if low.kind == accounts.USER else "project"
    left = f"{left_figure(low.left_microcredits)} credits left"
    if low.left_microcredits <= 0:
        left = f"[red]no credits left[/red] ({left_figure(low.left_microcredits)})"
    ends = f", used up {_clock(low.ends_at)}" if low.ends_at and low.left_microcredits > 0 else ""
    return f"{word} {escape(low.name)}: {left}{ends} ({low.budget} budget)"


def _queue_table(status: Status) -> Table:
    table = _table("Queue", "place", "server", "GPUs", "waits", "starts at the latest", "why")
    for each in status.queue:
        table.add_row(
            str(each.place or ""),
            each.server,
            str(each.gpus),
            length(status.at - each.submitted_at),
            _clock(each.latest_start_at),
            " ".join(each.reasons),
        )
    return table


def _server_table(status: Status) -> Table:
    table = _table("Servers", "server", "state", "for", "profile", "GPUs", "memory", "cores")
    for each in status.servers:
        table.add_row(
            each.server,
            each.state,
            length(status.at - each.since),
            each.profile,
            str(each.gpus),
            f"{each.memory_bytes / GIB:g} GiB",
            f"{each.cpu_millicores / 1000:g}",
        )
    return table


def dataset_lines(servers: Sequence[ServerStatus]) -> Iterator[str]:
    """Datasets that are not there yet, or no longer."""
    for server in servers:
        for found in server.datasets:
            if found.state == MountState.READY.value:
                continue
            copied = found.mode == "cached" and found.done_bytes
            how_far = f", {done_words(found.done_bytes, found.total_bytes)}" if copied else ""
            said = f". {found.message}" if found.message else ""
            version = f" v{found.version}" if found.version else ""
            yield escape(
                f"dataset {found.dataset}{version} of {server.server}: {found.state}{how_far}{said}"
            )


_NEVER_FOLDED = {"UUID", "place", "#", "memory", "state", "GPUs"}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _NEVER_FOLDED)
    return table


def length(duration: timedelta) -> str:
    """A duration as the pages write it: 1 h 43 min."""
    seconds = max(0, int(duration.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _clock(at: datetime | None) -> str:
    return f"{at.astimezone():%a %H:%M}" if at else "not known"
