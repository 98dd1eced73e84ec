"""The figures of a load test: from what was seen and the platform's own rows. Pure.

Every time in seconds. Percentiles are of what happened: a request that still waited at the end
has no wait yet, so those are counted beside, with the shortest and longest they have waited.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.loadtest.journal import Call, Journal, Machine
from hub_services.loadtest.run import Outcome

WINDOWS = 40
"""Points of the curve of the hub's answers."""

KINDS = {
    "probe": "The hub's smallest answer",
    "look": "Looking at one's server",
    "ask": "Asking for a server",
    "cancel": "Leaving the queue",
    "stop": "Stopping a server",
    "server": "The server inside, through the proxy",
}
PULSE = ("probe", "look")
"""Questions that need nothing but the hub itself."""


@dataclass(frozen=True)
class Spread:
    """Percentiles of one quantity, and of how many values."""

    n: int
    median: float
    p90: float
    p95: float
    p99: float
    largest: float


@dataclass(frozen=True)
class SizeFigures:
    """Requests for one number of GPUs."""

    gpus: int
    asked: int
    admitted: int
    still_waiting: int
    wait: Spread | None
    start: Spread | None
    """From admission to a server that answers."""


@dataclass(frozen=True)
class Window:
    """The hub's pulse in one part of the run; ``at`` is its middle."""

    at: float
    n: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Figures:
    """The whole report as data; ``report.json`` is exactly this."""

    run: str
    began_at: datetime
    seconds: float
    interrupted: bool
    users: int
    minutes_asked: float
    seed: int
    bounds: Sequence[str]
    asked: int
    served: int
    cancelled: int
    still_waiting: int
    sizes: Sequence[SizeFigures]
    all_sizes: SizeFigures
    failures: Sequence[tuple[str, str, int]]
    """Step, reason, how often."""
    answers: dict[str, Spread]
    """By kind of question, see KINDS."""
    errors: dict[str, int]
    """Answers of 500 and above, and none at all, by kind."""
    pulse: Sequence[Window]
    pool: Sequence[dict[str, float]]
    gpu_share_used: float | None
    """GPU-seconds in hand of those there were, 0 to 1."""
    leases_checked: int
    containers_checked: int
    used_twice: Sequence[str]
    left_behind: str
    machine: Machine
    kinds: dict[str, str] = field(default_factory=lambda: dict(KINDS))

    def as_json(self) -> dict[str, object]:
        """For ``json.dumps``."""
        return {**asdict(self), "began_at": self.began_at.isoformat()}


def spread(values: Iterable[float]) -> Spread | None:
    """Percentiles by the nearest rank; None without a value."""
    ordered = sorted(values)
    if not ordered:
        return None

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Spread(len(ordered), rank(0.5), rank(0.9), rank(0.95), rank(0.99), ordered[-1])


def figures(outcome: Outcome) -> Figures:
    """Everything the report shows."""
    journal = outcome.journal
    assert outcome.ended_at is not None
    seconds = (outcome.ended_at - outcome.began_at).total_seconds()
    calls = [call for call in journal.calls if call.kind in KINDS and call.at <= seconds]
    rows = outcome.rows
    return Figures(
        run=outcome.run.id,
        began_at=outcome.began_at,
        seconds=seconds,
        interrupted=outcome.interrupted,
        users=outcome.wanted.users,
        minutes_asked=outcome.wanted.seconds / 60,
        seed=outcome.wanted.seed,
        bounds=outcome.bounds.sentences,
        asked=journal.asked,
        served=journal.served,
        cancelled=journal.cancelled,
        still_waiting=sum(row.state is State.QUEUED for row in rows),
        sizes=[
            _size(gpus, [row for row in rows if row.gpus == gpus])
            for gpus in sorted({row.gpus for row in rows})
        ],
        all_sizes=_size(-1, rows),
        failures=_failures(journal),
        answers={
            kind: found
            for kind in KINDS
            if (found := spread(call.seconds for call in calls if call.kind == kind))
        },
        errors=dict(Counter(call.kind for call in calls if _broken(call))),
        pulse=pulse([call for call in calls if call.kind in PULSE], seconds),
        pool=[asdict(sample) for sample in journal.pool],
        gpu_share_used=_share_used(journal),
        leases_checked=len(outcome.leases),
        containers_checked=journal.container_checks,
        used_twice=journal.used_twice,
        left_behind=outcome.left.sentence(),
        machine=Machine(os.cpu_count() or 1, outcome.load_before, outcome.load_after),
    )


def _size(gpus: int, rows: Sequence[Workload]) -> SizeFigures:
    return SizeFigures(
        gpus=gpus,
        asked=len(rows),
        admitted=sum(row.admitted_at is not None for row in rows),
        still_waiting=sum(row.state is State.QUEUED for row in rows),
        wait=_between(rows, lambda row: row.submitted_at, lambda row: row.admitted_at),
        start=_between(rows, lambda row: row.admitted_at, lambda row: row.ready_at),
    )


def _between(
    rows: Sequence[Workload],
    begin: Callable[[Workload], datetime | None],
    end: Callable[[Workload], datetime | None],
) -> Spread | None:
    pairs = [(begin(row), end(row)) for row in rows]
    return spread((b - a).total_seconds() for a, b in pairs if a is not None and b is not None)


def _failures(journal: Journal) -> Sequence[tuple[str, str, int]]:
    counted = Counter((each.step, each.reason) for each in journal.failures)
    return [(step, reason, count) for (step, reason), count in counted.most_common()]


def _broken(call: Call) -> bool:
    return call.status == 0 or call.status >= 500


def pulse(calls: Sequence[Call], seconds: float) -> Sequence[Window]:
    """The hub's answers in equal parts of the run, no part shorter than a second."""
    width = max(1.0, seconds / WINDOWS)
    parts: dict[int, list[float]] = {}
    for call in calls:
        parts.setdefault(int(call.at / width), []).append(call.seconds)
    found = []
    for part, values in sorted(parts.items()):
        seen = spread(values)
        assert seen is not None
        found.append(Window((part + 0.5) * width, seen.n, seen.median, seen.p95, seen.p99))
    return found


def _share_used(journal: Journal) -> float | None:
    offered = sum(sample.gpus for sample in journal.pool)
    return sum(sample.gpus_used for sample in journal.pool) / offered if offered else None
