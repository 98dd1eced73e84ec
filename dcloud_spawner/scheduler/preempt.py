"""Which running work has to end early so that the head of the queue can start.

Only what runs in a tier that is marked preemptible, and only for a request of a higher one: the
tier with the smaller factor. So whoever was stopped and asks again can never stop in turn what
it was stopped for, and nothing goes round in circles.

Only for the head, for what is given back goes to the head first. What ends before the notice
would run out is waited for instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from dcloud_spawner.scheduler.occupancy import Occupancy, Running
from dcloud_spawner.scheduler.plan import make_plan
from dcloud_spawner.scheduler.reserved import lay_down
from dcloud_spawner.scheduler.snapshot import Request, Reservation


@dataclass(frozen=True, slots=True)
class Preemption:
    """The rule of a deployment; without a preemptible tier nothing is ever stopped early."""

    preemptible: frozenset[str] = frozenset()
    factors: Mapping[str, float] = field(default_factory=dict)
    """Of the slack by tier: the smaller, the higher the tier."""
    notice_seconds: float = 120.0

    def may_stop(self, running: Running, request: Request) -> bool:
        """Whether a request may have something stopped. What runs on an advance reservation is
        left alone."""
        return (
            running.tier in self.preemptible
            and not running.reservation
            and self._factor(running.tier) > self._factor(request.tier)
        )

    def _factor(self, tier: str) -> float:
        return self.factors.get(tier, 1.0)

    def lowest_first(self, running: Running) -> tuple[float, int, float]:
        """The order in which work is chosen: lowest tier, fewest GPUs, youngest."""
        gpus = sum(len(grant.gpus) for grant in running.grants)
        return (-self._factor(running.tier), gpus, -running.started_at)


def choose_victims(
    rule: Preemption,
    occupancy: Occupancy,
    head: Request,
    now: float,
    reservations: Sequence[Reservation] = (),
    noticed: Collection[str] = (),
) -> frozenset[str]:
    """Ids of what has to end so that the head of the queue starts: no more than needed, and none
    when it would start anyway or not even then.

    ``noticed`` were told before: they are chosen first, so that nobody is told for nothing, and
    whoever of them is not in the answer may stay. ``occupancy`` is left as it was.
    """
    if not rule.preemptible or head.shape.parts != 1:
        return frozenset()
    candidates = [running for running in occupancy.running if rule.may_stop(running, head)]
    if not candidates:
        return frozenset()
    until = now + rule.notice_seconds
    soon = [
        running
        for running in occupancy.running
        if running.ends_at <= until and running.id not in noticed
    ]
    with _without(occupancy, soon):
        if _starts(occupancy, head, now, reservations):
            return frozenset()
        leaving = set(map(id, soon))
        left = [running for running in candidates if id(running) not in leaving]
        kept = lay_down(occupancy, reservations, now)
        sets = _sets(rule, occupancy, head, left, noticed)
        for unused in kept:
            occupancy.end(unused)
        for chosen in sets:
            with _without(occupancy, chosen):
                if _starts(occupancy, head, now, reservations):
                    return frozenset(running.id for running in chosen)
    return frozenset()


def _starts(
    occupancy: Occupancy, head: Request, now: float, reservations: Sequence[Reservation]
) -> bool:
    """Whether the policy itself would start it."""
    plan = make_plan(occupancy, [head], now, reservations)
    for start in plan.starts:
        occupancy.end(start.running)
    return bool(plan.starts)


@contextmanager
def _without(occupancy: Occupancy, gone: Sequence[Running]) -> Iterator[None]:
    for running in gone:
        occupancy.end(running)
    try:
        yield
    finally:
        for running in gone:
            occupancy.begin(running)


def _sets(
    rule: Preemption,
    occupancy: Occupancy,
    head: Request,
    candidates: Sequence[Running],
    noticed: Collection[str],
) -> list[list[Running]]:
    """For each node the least that makes the head fit there; the least harm first."""
    by_node: dict[int, list[Running]] = {}
    groups = occupancy.pool.layout.groups
    for running in candidates:
        if running.grants:
            by_node.setdefault(groups[running.grants[0].row].node, []).append(running)

    def preferred(running: Running) -> tuple[bool, float, int, float]:
        return (running.id not in noticed, *rule.lowest_first(running))

    def harm(chosen: list[Running]) -> tuple[float, ...]:
        new = [preferred(running) for running in chosen if running.id not in noticed]
        return (
            max((tier for _, tier, _, _ in new), default=-1e9),
            sum(gpus for _, _, gpus, _ in new),
            len(new),
            max((young for _, _, _, young in new), default=-1e18),
        )

    found = []
    for running_there in by_node.values():
        chosen = _least(occupancy, head, sorted(running_there, key=preferred))
        if chosen:
            found.append(chosen)
    return sorted(found, key=harm)


def _least(occupancy: Occupancy, head: Request, candidates: list[Running]) -> list[Running]:
    """The first candidates of one node that make room, without those that then prove to be
    superfluous; empty when all of them do not."""
    pool = occupancy.pool
    chosen: list[Running] = []
    for running in candidates:
        chosen.append(running)
        pool.give_all(running.grants)
        if pool.fits(head.shape).any():
            break
    else:
        for running in chosen:
            _take(occupancy, running)
        return []
    needed = []
    for running in reversed(chosen):
        _take(occupancy, running)
        if not pool.fits(head.shape).any():
            pool.give_all(running.grants)
            needed.append(running)
    for running in needed:
        _take(occupancy, running)
    return needed


def _take(occupancy: Occupancy, running: Running) -> None:
    for grant in running.grants:
        occupancy.pool.take(grant)
