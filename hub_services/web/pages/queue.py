"""What the queue page shows to one viewer. Pure: a board goes in, words come out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from dcloud_spawner.form.words import count_words, gpus_words, length_words
from dcloud_spawner.live.availability import ModelAvailability
from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.scheduler.reasons import of_somebody
from dcloud_spawner.scheduler.schedule import GIB, ends_at
from dcloud_spawner.store.listing import Record
from dcloud_spawner.store.reservations import OPEN_RESERVATIONS
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.web.board import Board
from hub_services.web.pages.chart import StepChart
from hub_services.web.viewer import Viewer
from hub_services.web.waiting import reasons_of

SHOWN = 100
"""Rows of others; one's own are always there."""
AHEAD = timedelta(hours=24)
"""How far the forecast looks."""
PIPS = 8
"""More squares than this nobody counts."""


@dataclass(frozen=True)
class WaitingRow:
    """One request in the queue."""

    place: int | None
    who: str
    mine: bool
    known: bool
    """Whether the viewer may see more than size, due and state."""
    size: str
    more: str
    """Memory, cores and hours."""
    pips: int
    due_at: datetime
    id: str = ""
    server: str = ""
    tier: str = ""
    why_due: str = ""
    submitted_at: datetime | None = None
    waits: str = ""
    expected_from: datetime | None = None
    expected_to: datetime | None = None
    latest_at: datetime | None = None
    reasons: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    note: str = ""
    """Who keeps it on hold or moved it, and why."""
    on_hold: bool = False
    """An administrator keeps it from starting."""
    blocked: bool = False
    """A limit or a budget does."""


@dataclass(frozen=True)
class RunningRow:
    """One server that holds something."""

    who: str
    mine: bool
    size: str
    more: str
    pips: int
    state: str
    ends_at: datetime | None
    since: datetime | None
    where: str = ""
    notice_at: datetime | None = None
    notice: str = ""


@dataclass(frozen=True)
class ReservedTime:
    """GPUs that are kept for somebody within the day of the chart."""

    size: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class Ahead:
    """The next day."""

    chart: StepChart | None
    reserved: tuple[ReservedTime, ...]
    """What is kept for somebody, soonest first."""
    gpus: int


@dataclass(frozen=True)
class QueuePage:
    """Everything on it."""

    viewer: Viewer
    models: tuple[ModelAvailability, ...]
    free: int
    total: int
    out: int
    waiting: tuple[WaitingRow, ...]
    hidden: int
    """Requests that wait and are not listed."""
    length: int
    longest_wait: str
    running: tuple[RunningRow, ...]
    running_hidden: int
    record: Record
    ahead: Ahead
    tab: str
    news: str
    """What is said aloud when it changes."""

    @property
    def own(self) -> WaitingRow | None:
        """The viewer's request that comes first."""
        return next((row for row in self.waiting if row.mine), None)


def queue_page(board: Board, viewer: Viewer) -> QueuePage:
    """The page for one viewer."""
    state, rows, holding = board.state, board.waiting, board.holding
    listed = [workload for _, workload in rows[:SHOWN]]
    shown = holding[:SHOWN]
    if viewer.name in board.users:
        listed += [workload for _, workload in rows[SHOWN:] if viewer.owns(workload.user)]
        shown += [workload for workload in holding[SHOWN:] if viewer.owns(workload.user)]
    waiting = tuple(_waiting(workload, state, viewer) for workload in listed)
    models = board.pool.models
    first = min((workload.submitted_at for _, workload in rows), default=None)
    total = sum(model.total for model in models)
    return QueuePage(
        viewer=viewer,
        models=models,
        free=sum(model.free for model in models),
        total=total,
        out=sum(model.unhealthy for model in models),
        waiting=waiting,
        hidden=len(rows) - len(listed),
        length=len(rows),
        longest_wait=_minutes(first, state.at) if first else "",
        running=tuple(_running(workload, board, viewer) for workload in shown),
        running_hidden=len(holding) - len(shown),
        record=state.record,
        ahead=Ahead(board.chart, _reserved(board), total),
        tab=_tab(waiting),
        news=_news(waiting),
    )


def _minutes(then: datetime, now: datetime) -> str:
    """A length from a minute on: seconds would make another page every second."""
    seconds = (now - then).total_seconds()
    return length_words(seconds) if seconds >= 60 else ""


def who(workload: Workload, viewer: Viewer) -> str:
    """The name where it may be shown."""
    if viewer.owns(workload.user):
        return "You"
    return workload.user if viewer.administrator else "Somebody"


def size_words(workload: Workload) -> str:
    """What it asks for in a few words: ``2 × A100``, or memory where there is no GPU."""
    if workload.gpus:
        return gpus_words(workload.gpus, workload.gpu_model)
    return f"{workload.memory_bytes / GIB:g} GiB, no GPU"


def more_words(workload: Workload) -> str:
    """The rest: memory, cores, hours."""
    cores = count_words(workload.cpu_millicores / 1000, "core")
    return f"{workload.memory_bytes / GIB:g} GiB, {cores}, {workload.limit_seconds / 3600:g} h"


def _waiting(workload: Workload, state: PoolState, viewer: Viewer) -> WaitingRow:
    mine, found = viewer.owns(workload.user), state.place_of(workload.id)
    place = found.place if found else None
    if not viewer.may_see(workload.user):
        return WaitingRow(
            place=place,
            who=who(workload, viewer),
            mine=False,
            known=False,
            size=size_words(workload),
            more=more_words(workload),
            pips=min(workload.gpus, PIPS),
            due_at=workload.due_at,
            # Else one would stand before those who are due earlier, and nobody knew why.
            note="Moved to the head" if workload.moved_at is not None else "",
            on_hold=workload.held_at is not None,
            blocked=_blocked(workload),
        )
    reasons = reasons_of(workload, state)
    return WaitingRow(
        place=place,
        who=who(workload, viewer),
        mine=mine,
        known=True,
        size=size_words(workload),
        more=more_words(workload),
        pips=min(workload.gpus, PIPS),
        due_at=workload.due_at,
        id=workload.id,
        server=workload.server_name,
        tier=workload.tier,
        why_due=_why_due(workload),
        submitted_at=workload.submitted_at,
        waits=_minutes(workload.submitted_at, state.at),
        expected_from=None if place is None else workload.expected_from,
        expected_to=None if place is None else workload.expected_to,
        latest_at=None if place is None else workload.latest_start_at,
        reasons=reasons if mine else tuple(map(of_somebody, reasons)),
        alternatives=tuple(workload.alternatives) if mine else (),
        note=_note(workload, named=viewer.administrator),
        on_hold=workload.held_at is not None,
        blocked=_blocked(workload),
    )


def _blocked(workload: Workload) -> bool:
    return bool(workload.blocked) and workload.held_at is None


def _why_due(workload: Workload) -> str:
    words = f"{length_words(workload.slack_seconds)} after it was submitted, for its size and tier"
    if workload.fair_seconds:
        words += f", and {length_words(workload.fair_seconds)} for what its user had lately"
    return words


def _note(workload: Workload, *, named: bool) -> str:
    if workload.held_at is not None:
        by = f" by {workload.held_by}" if named and workload.held_by else ""
        return f"On hold{by}: {workload.held_reason}"
    if workload.moved_at is not None:
        by = f" by {workload.moved_by}" if named and workload.moved_by else ""
        return f"Moved to the head{by}: {workload.moved_reason}"
    return ""


def _running(workload: Workload, board: Board, viewer: Viewer) -> RunningRow:
    known = viewer.may_see(workload.user)
    gpus = board.state.held.get(workload.id, ())
    words = {State.ADMITTED: "Starting", State.STARTING: "Starting", State.STOPPING: "Ending"}
    held = gpus_words(len(gpus), gpus[0].model) if gpus else size_words(workload)
    numbers = ", ".join(str(row.index) for row in gpus)
    noun = "GPU" if len(gpus) == 1 else "GPUs"
    return RunningRow(
        who=who(workload, viewer),
        mine=viewer.owns(workload.user),
        size=held,
        more=more_words(workload),
        pips=min(workload.gpus, PIPS),
        state=words.get(workload.state, "Running"),
        ends_at=None if workload.state is State.STOPPING else ends_at(workload, board.state.at),
        since=workload.ready_at or workload.admitted_at,
        where=(f"{workload.node}, {noun} {numbers}" if gpus else workload.node or "")
        if known
        else "",
        notice_at=workload.notice_at if known else None,
        notice=workload.notice_detail if known else "",
    )


def _reserved(board: Board) -> tuple[ReservedTime, ...]:
    return tuple(
        ReservedTime(gpus_words(each.gpus, each.gpu_model), each.starts_at, each.ends_at)
        for each in board.reservations
        if each.state in OPEN_RESERVATIONS and each.starts_at < board.state.at + AHEAD
    )


def _tab(waiting: tuple[WaitingRow, ...]) -> str:
    places = [row.place for row in waiting if row.mine and row.place is not None]
    return f"Place {min(places)}, queue" if places else "Queue"


def _news(waiting: tuple[WaitingRow, ...]) -> str:
    own = [row for row in waiting if row.mine]
    if not own:
        return ""
    first = own[0]
    if first.blocked:
        return "Your request may not start yet."
    return "Your request is on hold." if first.on_hold else f"You are at place {first.place}."
