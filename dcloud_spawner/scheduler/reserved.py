"""Advance reservations inside a pass: GPUs kept for some people from a time to a time.

A reservation names no GPUs. A guard at each time at which one begins sees to it that all that
hold at that time fit together beside what runs then; a guard now does so for what the people of
those that have begun do not use yet. Whoever starts on one takes its GPUs out of that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from dcloud_spawner.scheduler.guard import Before, Demand, Guard
from dcloud_spawner.scheduler.joint import Kind
from dcloud_spawner.scheduler.occupancy import Occupancy, Running, end_of
from dcloud_spawner.scheduler.pool import Bools, Grant, Pool
from dcloud_spawner.scheduler.snapshot import NEVER, WHOLE, Request, Reservation, Shape


def unit_of(reservation: Reservation) -> Shape:
    """One GPU of a reservation, with its memory and cores."""
    return Shape(
        1,
        WHOLE,
        reservation.gpu_model,
        reservation.memory_bytes,
        reservation.cpu_millicores,
        1,
        frozenset(),
    )


def covers(reservation: Reservation, at: float) -> bool:
    """Whether a reservation holds its GPUs at a time."""
    return reservation.starts_at <= at < reservation.ends_at


def unused(reservation: Reservation, running: Sequence[Running], at: float, now: float) -> int:
    """GPUs of a reservation that nobody uses at a time, if what runs now uses up its limit. What
    is past its limit is there now, and gone at once after."""
    used = sum(
        len(grant.gpus)
        for found in running
        if found.reservation == reservation.id and (at <= now or found.ends_at > at)
        for grant in found.grants
    )
    return max(0, reservation.gpus - used)


def may_ride(reservation: Reservation, request: Request, at: float) -> bool:
    """Whether a request is of those people, and could use GPUs of a reservation at a time."""
    return (
        covers(reservation, at)
        and request.user in reservation.users
        and request.gpu_milli == WHOLE
        and 0 < request.gpus <= reservation.gpus
        and (
            None in (reservation.gpu_model, request.gpu_model)
            or reservation.gpu_model == request.gpu_model
        )
    )


class Late:
    """A guard that is made when it is first needed: what ends before its time does not change it,
    and for whom another one has no room it need not be asked."""

    __slots__ = ("_guard", "_make", "at")

    def __init__(self, at: float, make: Callable[[float], Guard]) -> None:
        self.at = at
        self._make = make
        self._guard: Guard | None = None

    @property
    def guard(self) -> Guard:
        """The guard itself."""
        if self._guard is None:
            self._guard = self._make(self.at)
        return self._guard

    def room(self, shape: Shape, among: Bools, riding: str = "") -> Bools:
        """As the guard's."""
        return self.guard.room(shape, among, riding)

    def try_out(self, grant: Grant, riding: str = "") -> Before:
        """As the guard's."""
        return self.guard.try_out(grant, riding)

    def undo(self, grant: Grant, before: Before) -> None:
        """As the guard's."""
        self.guard.undo(grant, before)


class Guards:
    """The guards of all reservations in a pass. Before something starts, those of times at which
    it still runs are to be made (:meth:`before`), and told of it."""

    def __init__(
        self, occupancy: Occupancy, reservations: Sequence[Reservation], now: float
    ) -> None:
        self._occupancy = occupancy
        self._to_come = [found for found in reservations if found.ends_at > now]
        self._now = now
        times = {max(found.starts_at, now) for found in self._to_come}
        if times:
            for running in occupancy.running:
                times |= returns(running, self._to_come, now)
        self._times = sorted(times)
        self._planned = [Late(at, self._make) for at in self._times]
        self._added: list[Late] = []

    def __bool__(self) -> bool:
        return bool(self._planned)

    def ahead(self, at: float) -> list[Late]:
        """Those of times before another one, and always that of now, in the order of time."""
        now = self._now
        first = max(bisect_left(self._times, at), bisect_right(self._times, now))
        added = [late for late in self._added if late.at < at or late.at <= now]
        return self._planned[:first] + added

    def before(self, at: float) -> list[Guard]:
        """The same, made."""
        return [late.guard for late in self.ahead(at)]

    def between(self, after: float, at: float) -> list[Guard]:
        """Those of times after one and before another, made."""
        return [late.guard for late in self.ahead(at) if after < late.at < at]

    def add(self, at: float) -> None:
        """One more, as things are now."""
        late = Late(at, self._make)
        self._added.append(late)
        _ = late.guard

    def _make(self, at: float) -> Guard:
        return guard_at(self._occupancy, self._to_come, at, self._now)


def all_kept(occupancy: Occupancy, reservations: Sequence[Reservation], now: float) -> bool:
    """Whether every reservation can be kept, together and beside what runs, if everybody uses up
    the limit."""
    return all(guard.holds for guard in Guards(occupancy, reservations, now).before(NEVER))


def returns(running: Running, reservations: Sequence[Reservation], now: float) -> set[float]:
    """When a reservation gets back what somebody had of it with less than was kept: the
    difference must not have gone to others meanwhile."""
    if not running.reservation:
        return set()
    gpus = sum(len(grant.gpus) for grant in running.grants)
    memory = sum(grant.memory_bytes for grant in running.grants)
    cpu = sum(grant.cpu_millicores for grant in running.grants)
    return {
        running.ends_at
        for found in reservations
        if found.id == running.reservation
        and now < running.ends_at < found.ends_at
        and (memory < gpus * found.memory_bytes or cpu < gpus * found.cpu_millicores)
    }


def guard_at(
    occupancy: Occupancy, reservations: Sequence[Reservation], at: float, now: float
) -> Guard:
    """The guard of all reservations that hold at a time."""
    pool = occupancy.pool.copy() if at <= now else pool_at(occupancy, at, now)
    return Guard(at, pool, demands_at(occupancy, reservations, at, now))


def demands_at(
    occupancy: Occupancy, reservations: Sequence[Reservation], at: float, now: float
) -> list[Demand]:
    """What all reservations that hold at a time want besides what is used of them."""
    holding = [found for found in reservations if covers(found, at)]
    if not holding:
        return []
    riding = [running for running in occupancy.running if running.reservation]
    return [
        Demand(Kind(unit_of(found), False), count, found.id)
        for found in sorted(holding, key=lambda found: (found.starts_at, found.id))
        if (count := unused(found, riding, at, now))
    ]


def pool_at(occupancy: Occupancy, at: float, now: float) -> Pool:
    """What is free at a later time if everybody uses up the limit, and nobody new starts."""
    pool = occupancy.pool.copy()
    ended = bisect_right(occupancy.running, max(at, now), key=end_of)
    pool.give_all([grant for found in occupancy.running[:ended] for grant in found.grants])
    return pool


def lay_down(
    occupancy: Occupancy, reservations: Sequence[Reservation], now: float
) -> list[Running]:
    """Take what is unused of the reservations that have begun out of the pool, as if somebody
    held it; for who looks for room without a plan. Give it back with ``occupancy.end``."""
    laid = []
    for demand in demands_at(occupancy, reservations, now, now):
        for _ in range(demand.units):
            grants = occupancy.placer.place(demand.kind.unit)
            if grants is None:
                break
            laid.append(Running(f"reservation {demand.reservation}", now, grants))
            occupancy.begin(laid[-1])
    return laid


def rows_of(reservation: Reservation, pool: Pool) -> Bools:
    """Rows on which the GPUs of a reservation may lie."""
    return pool.layout.allowed(unit_of(reservation))
