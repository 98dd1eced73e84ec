"""The lab's own past and present hardware, as a what-if takes them. Blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dcloud_spawner.engines.base import Health
from dcloud_spawner.errors import Conflict
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler.runtimes import Ended, RunTimes
from dcloud_spawner.scheduler.schedule import read_hardware
from dcloud_spawner.store import nodes
from dcloud_spawner.store.history import first_submission, submitted_since
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.loadtest.names import is_simulated
from hub_services.planning.hardware import Hardware
from hub_services.planning.whatif import FEWEST, History, Work

WARM_UP = timedelta(days=3)
"""What was asked for so long before the period may still hold something when it begins."""


def read_hardware_now(platform: Platform, now: datetime) -> Hardware:
    """What the deployment has. Drained nodes and GPUs count, as they come back; what is out of
    order or gone does not. Raises Conflict when there is no node."""
    with platform.database.reading() as connection:
        snapshot = read_hardware(connection, platform.capacity, now)
        rows = nodes.all_nodes(connection)
        healthy = {
            row.uuid for row in nodes.all_accelerators(connection) if row.health is Health.OK
        }
    newest = max((row.seen_at for row in rows), default=now)
    there = {row.name for row in rows if row.seen_at >= newest}
    if not there:
        raise Conflict(
            "No node is known here yet, so there is nothing to plan with.",
            hint="Run `dcloud up`, or name a pool with --pool.",
            code="no_hardware",
        )
    return Hardware(
        tuple(
            replace(node, drained=False)
            for name, node in sorted(snapshot.nodes.items())
            if name in there
        ),
        tuple(
            replace(found, offered=True)
            for uuid, found in sorted(snapshot.accelerators.items())
            if uuid in healthy and found.node in there
        ),
    )


def read_history(platform: Platform, days: float, now: datetime) -> History:
    """Requests of the last days. Raises Conflict, and says how many there are, when they are
    too few to say anything."""
    since = now - timedelta(days=days)
    with platform.database.reading() as connection:
        rows = submitted_since(connection, since - WARM_UP)
        first = first_submission(connection)
    history = history_of(rows, since, now)
    if history.counted < FEWEST:
        began = f"the first ever was on {first:%Y-%m-%d}" if first else "there never was one"
        raise Conflict(
            f"There is too little history: {history.counted} requests that started or still wait "
            f"in the last {days:g} days ({began}), and {FEWEST} are the least.",
            hint="Take more days, wait for more history, or replay a trace file.",
            code="too_little_history",
        )
    return history


def history_of(rows: Sequence[Workload], since: datetime, now: datetime) -> History:
    """Rows of workloads as a what-if takes them. Pure."""
    real = [row for row in rows if not is_simulated(row.user) and row.keeps_place_for is None]
    left = [row for row in real if row.state is State.ENDED and row.admitted_at is None]
    usual = RunTimes(_ended(real))
    used = [row for row in real if row.state is not State.ENDED or row.admitted_at is not None]
    counted = [row for row in used if row.submitted_at >= since]
    unfinished = sum(row.state is not State.ENDED for row in used)
    simulated = sum(is_simulated(row.user) for row in rows if row.submitted_at >= since)
    early = sum(row.submitted_at >= since for row in left)
    notes = []
    if early:
        notes.append(
            f"{early} requests left the queue before their turn; they are left out, as nobody "
            "knows how long they would have run."
        )
    if unfinished:
        notes.append(
            f"{unfinished} have not ended; their length is the usual one of their like so far."
        )
    if simulated:
        notes.append(f"{simulated} requests of load tests are left out.")
    first = min((row.submitted_at for row in counted), default=now)
    return History(
        works=tuple(_work(row, usual, since, now) for row in used),
        days=(now - max(since, first)) / timedelta(days=1),
        notes=tuple(notes),
    )


def _ended(rows: Iterable[Workload]) -> list[Ended]:
    return [
        Ended(row.gpus, row.limit_seconds, _held(row, row.ended_at))
        for row in rows
        if row.admitted_at is not None and row.ended_at is not None
    ]


def _held(row: Workload, until: datetime) -> float:
    assert row.admitted_at is not None
    return max(0.0, (until - row.admitted_at).total_seconds())


def _work(row: Workload, usual: RunTimes, since: datetime, now: datetime) -> Work:
    waited = None
    if row.admitted_at is not None:
        waited = max(0.0, (row.admitted_at - row.submitted_at).total_seconds())
    if row.admitted_at is not None and row.ended_at is not None:
        runtime = _held(row, row.ended_at)
    else:
        so_far = _held(row, now) if row.admitted_at is not None else 0.0
        runtime = usual.runtime_seconds(row.gpus, row.limit_seconds, used_seconds=so_far)
    return Work(
        row.id,
        row.user,
        row.gpus,
        row.gpu_model,
        row.memory_bytes,
        row.cpu_millicores,
        row.limit_seconds,
        runtime,
        row.submitted_at.timestamp(),
        fair_seconds=row.fair_seconds,
        tier=row.tier,
        waited_seconds=waited,
        counted=row.submitted_at >= since,
    )
