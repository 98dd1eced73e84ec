"""Who holds what of a pool, and until when at the latest."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.placement import Placer
from dcloud_spawner.scheduler.pool import Grant, Pool
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.scheduler.usual import Usual


@dataclass(slots=True, eq=False)
class Running:
    """Something that holds grants until a time, as far as its limit tells."""

    id: str
    ends_at: float
    grants: tuple[Grant, ...]
    user: str = ""
    tier: str = ""
    reservation: str = ""
    started_at: float = 0.0


def end_of(running: Running) -> float:
    """What an occupancy is sorted by."""
    return running.ends_at


class Occupancy:
    """A pool with what runs on it, in the order of their ends."""

    def __init__(self, pool: Pool, usual: Usual | None = None) -> None:
        self.pool = pool
        self.placer = Placer(pool, usual)
        self.running: list[Running] = []

    def begin(self, running: Running) -> None:
        """Something takes its grants."""
        for grant in running.grants:
            self.pool.take(grant)
        insort(self.running, running, key=end_of)

    def end(self, running: Running) -> None:
        """Something gives its grants back."""
        for grant in running.grants:
            self.pool.give(grant)
        index = bisect_left(self.running, running.ends_at, key=end_of)
        while self.running[index] is not running:
            index += 1
        del self.running[index]


def occupancy_of(snapshot: Snapshot, names: PoolNames, usual: Usual | None = None) -> Occupancy:
    """What a snapshot shows as held."""
    occupancy = Occupancy(Pool(names.layout), usual)
    held: Sequence[Running] = [
        Running(
            holding.id,
            holding.ends_at,
            names.grants(holding),
            holding.user,
            holding.tier,
            holding.reservation,
            holding.started_at,
        )
        for holding in snapshot.holdings
    ]
    for running in held:
        for grant in running.grants:
            occupancy.pool.take(grant)
    occupancy.running = sorted(held, key=end_of)
    return occupancy
