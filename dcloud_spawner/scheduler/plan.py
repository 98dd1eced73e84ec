"""Who starts now: EASY backfilling along the order, around advance reservations.

The queue is placed from its head. The first request that does not fit gets a guard at the
earliest time that the limits of the running work allow. A later one starts now only if it ends
before that time, or the guarded request still fits at that time beside it.
Source of the method: Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcloud_spawner.scheduler.earliest import earliest_guard
from dcloud_spawner.scheduler.guard import Guard
from dcloud_spawner.scheduler.occupancy import Occupancy, Running
from dcloud_spawner.scheduler.pool import Grant
from dcloud_spawner.scheduler.reserved import Reserved, guards_of, hold_active
from dcloud_spawner.scheduler.snapshot import Request, Reservation, Shape


@dataclass(frozen=True, slots=True)
class Start:
    """A request that starts now, and where."""

    request: Request
    grants: tuple[Grant, ...]
    running: Running
    """As it holds its grants now. Its end may be earlier than its own limit, for what starts on
    an advance reservation ends with it."""
    reservation: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of one pass."""

    starts: tuple[Start, ...]
    kept: tuple[Request, ...]
    """Who goes on waiting, head first."""
    head_at: float | None
    """When the first of them that does not fit can start at the latest; None: nobody knows."""
    unfit: frozenset[Shape]
    """Shapes that did not fit into what is free; another one that waits would delay the head."""


def make_plan(
    occupancy: Occupancy,
    queue: Sequence[Request],
    now: float,
    reservations: Sequence[Reservation] = (),
) -> Plan:
    """Decide for a queue that is already in order. Afterwards ``occupancy`` holds what started.

    Pure but for that: same input, same plan.
    """
    pending = _Pass(occupancy, now, reservations)
    queue = pending.start_on_reservations(queue)
    kept = pending.start_in_order(queue)
    pending.release_reservations()
    return Plan(
        tuple(pending.starts),
        tuple(kept),
        pending.head.at if pending.head else None,
        frozenset(pending.unfit),
    )


class Standing:
    """How things stand after a pass over a queue: what would start besides, delaying nobody."""

    def __init__(
        self,
        occupancy: Occupancy,
        queue: Sequence[Request],
        now: float,
        reservations: Sequence[Reservation] = (),
    ) -> None:
        self._pass = _Pass(occupancy, now, reservations)
        self._pass.start_in_order(self._pass.start_on_reservations(queue))

    def would_start(self, request: Request) -> bool:
        """Whether this one, submitted now behind all the others, would start at once. What may
        use an advance reservation that has begun starts even when this says no."""
        return self._pass.would_start(request)


class _Pass:
    def __init__(
        self, occupancy: Occupancy, now: float, reservations: Sequence[Reservation]
    ) -> None:
        self.occupancy = occupancy
        self.now = now
        self.starts: list[Start] = []
        # Within a pass what is free only shrinks: a shape that did not fit once never does, and
        # one that had no room beside the same guards never has.
        self.unfit: set[Shape] = set()
        self._no_room: set[tuple[Shape, int]] = set()
        self.head: Guard | None = None
        self._active: list[Reserved] = hold_active(occupancy, reservations, now)
        self._reservations = reservations
        self._guards: list[Guard] = guards_of(occupancy, reservations, now)

    def start_on_reservations(self, queue: Sequence[Request]) -> Sequence[Request]:
        """Start who may use an advance reservation that has begun; returns the others."""
        if not self._active:
            return queue
        others = []
        for request in queue:
            for reserved in self._active:
                grants = reserved.place(self.occupancy, request)
                if grants is not None:
                    self._begin(request, grants, reserved.reservation)
                    break
            else:
                others.append(request)
        return others

    def release_reservations(self) -> None:
        """Take the unused rest of the reservations out again: they belong to no workload."""
        for reserved in self._active:
            reserved.release(self.occupancy)

    def start_in_order(self, queue: Iterable[Request]) -> list[Request]:
        """Start what fits, in order; returns who goes on waiting."""
        kept: list[Request] = []
        unfit = self.unfit
        for request in queue:
            shape = request.shape
            if shape in unfit:
                kept.append(request)
                continue
            grants = self._place(request)
            if grants is not None:
                self._begin(request, grants)
                continue
            kept.append(request)
            if self.head is None:
                self.head = earliest_guard(self.occupancy, request, self.now, self._reservations)
                if self.head is not None:
                    self._guards.append(self.head)
        return kept

    def would_start(self, request: Request) -> bool:
        """Whether a request would be placed now; nothing is."""
        grants = self._place(request)
        if grants is None:
            return False
        for guard in self._guards:
            if guard.at < self.now + request.limit_seconds:
                for grant in grants:
                    guard.give(grant)
        return True

    def _place(self, request: Request) -> tuple[Grant, ...] | None:
        """Where a request starts now without breaking a guard; None when nowhere."""
        shape, ends_at = request.shape, self.now + request.limit_seconds
        concerned = 0
        for index, guard in enumerate(self._guards):
            if guard.at < ends_at:
                concerned |= 1 << index
        placer = self.occupancy.placer
        if not concerned:
            grants = placer.place(shape)
            if grants is None:
                self.unfit.add(shape)
            return grants
        key = (shape, concerned)
        if key in self._no_room:
            return None
        guards = [guard for index, guard in enumerate(self._guards) if concerned >> index & 1]
        grants = self._place_beside(shape, guards)
        if grants is None:
            self._no_room.add(key)
            if not self._fits_at_all(shape):
                self.unfit.add(shape)
        return grants

    def _fits_at_all(self, shape: Shape) -> bool:
        return int(self.occupancy.pool.fits(shape).sum()) >= shape.parts

    def _place_beside(self, shape: Shape, guards: list[Guard]) -> tuple[Grant, ...] | None:
        """One part after the other, each where the guards still hold; all or none."""
        pool, part = self.occupancy.pool, shape._replace(parts=1)
        grants: list[Grant] = []
        for _ in range(shape.parts):
            among = guards[0].room(part)
            for guard in guards[1:]:
                among &= guard.room(part)
            for grant in grants:
                among[list(pool.layout.siblings[grant.row])] = False
            placed = self.occupancy.placer.place(part, among)
            if placed is None:
                for grant in grants:
                    for guard in guards:
                        guard.give(grant)
                return None
            grants.append(placed[0])
            for guard in guards:
                guard.take(placed[0])
        return tuple(grants)

    def _begin(
        self, request: Request, grants: tuple[Grant, ...], reservation: Reservation | None = None
    ) -> None:
        ends_at = self.now + request.limit_seconds
        if reservation is not None:
            ends_at = min(ends_at, reservation.ends_at)
        running = Running(
            request.id,
            ends_at,
            grants,
            request.user,
            request.tier,
            reservation.id if reservation else "",
            self.now,
        )
        self.occupancy.begin(running)
        if reservation is not None:
            for guard in self._guards:
                if guard.at < ends_at:
                    for grant in grants:
                        guard.take(grant)
        self.starts.append(Start(request, grants, running, running.reservation))
