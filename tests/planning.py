"""A pass over a picture, told in names instead of rows, and its replay with everybody using up
the whole limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import ordered
from dcloud_spawner.scheduler.plan import Plan, make_plan
from dcloud_spawner.scheduler.snapshot import NEVER, Holding, Request, Snapshot
from tests.values import left_at


@dataclass(frozen=True)
class Outcome:
    """What a pass decided."""

    plan: Plan
    begun: tuple[Holding, ...]
    """What starts, one holding for each node that it spans."""

    @property
    def started(self) -> list[str]:
        """Who starts, in the order of the decisions."""
        return [start.request.id for start in self.plan.starts]

    @property
    def told(self) -> object:
        """Everything that was decided, for comparison."""
        kept = [request.id for request in self.plan.kept]
        return self.started, self.begun, kept, self.plan.head_at


def plan_of(pool: Snapshot) -> Outcome:
    """One pass."""
    names = PoolNames(pool.nodes, pool.accelerators.values())
    occupancy = occupancy_of(pool, names)
    plan = make_plan(occupancy, ordered(pool.queue), pool.at, pool.reservations)
    begun = []
    for start in plan.starts:
        for grant in start.grants:
            placement = names.placement(grant)
            begun.append(
                Holding(
                    start.request.id,
                    start.request.user,
                    placement.node,
                    placement.accelerators,
                    start.request.memory_bytes,
                    start.request.cpu_millicores,
                    start.running.ends_at,
                    start.request.tier,
                    start.reservation,
                    pool.at,
                )
            )
    return Outcome(plan, tuple(begun))


def running_after(pool: Snapshot, outcome: Outcome) -> list[Holding]:
    """Who holds something when a pass is over."""
    return [*pool.holdings, *outcome.begun]


def head_of(outcome: Outcome) -> Request | None:
    """The first who waits and whom a known limit makes room for, as far as a plan tells."""
    if outcome.plan.head_at is None:
        return None
    return outcome.plan.head


@dataclass(frozen=True)
class Step:
    """One pass of a replay, as things were just before it."""

    pool: Snapshot
    outcome: Outcome


def replay(pool: Snapshot, arrivals: Sequence[tuple[float, Request]] = ()) -> list[Step]:
    """Every pass until nothing happens any more: at each end of something, each beginning and
    end of a reservation, and each arrival."""
    steps = []
    coming = sorted(arrivals, key=lambda arrival: arrival[0])
    while True:
        outcome = plan_of(pool)
        steps.append(Step(pool, outcome))
        running = running_after(pool, outcome)
        queue = tuple(found for found in pool.queue if found.id not in outcome.started)
        times = [max(held.ends_at, pool.at) for held in running]
        times += [time for found in pool.reservations for time in (found.starts_at, found.ends_at)]
        times += [at for at, _ in coming]
        late = any(held.ends_at <= pool.at for held in running)
        times = [at for at in times if at < NEVER and (at > pool.at or (late and at == pool.at))]
        if not times:
            return steps
        at = min(times)
        while coming and coming[0][0] <= at:
            queue += (coming.pop(0)[1],)
        left = tuple(left_at(running, at, pool.at))
        pool = replace(pool, at=at, holdings=left, queue=queue)


def starts(steps: Sequence[Step]) -> dict[str, float]:
    """When each request of a replay started."""
    return {identifier: step.pool.at for step in steps for identifier in step.outcome.started}
