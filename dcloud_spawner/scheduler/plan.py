"""Who starts now: EASY backfilling along the order, around advance reservations.

The queue is placed from its head. The first request that does not fit gets a guard at the
earliest time that the limits of the running work allow. A later one starts now only if it ends
before that time, or the guarded request still fits at that time beside it. The GPUs of an advance
reservation are guarded in the same way; its people start on them in the order of the queue.
Source of the method: Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from dcloud_spawner.scheduler.earliest import Turn, earliest_turn
from dcloud_spawner.scheduler.guard import Guard, Guarding, spread
from dcloud_spawner.scheduler.occupancy import Occupancy, Running
from dcloud_spawner.scheduler.pool import Bools, Grant
from dcloud_spawner.scheduler.reserved import (
    Guards,
    Late,
    covers,
    may_ride,
    returns,
    rows_of,
    unused,
)
from dcloud_spawner.scheduler.snapshot import NEVER, Request, Reservation, Shape


class Door(Protocol):
    """What else may keep a request from starting than that it does not fit."""

    def refuses(self, request: Request) -> bool:
        """Whether it may not start beside what holds something and what was let in before. It is
        passed over then: nothing is kept for it, and nobody waits behind it."""

    def let_in(self, request: Request) -> None:
        """It starts."""


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
    head: Request | None
    """The one that this is promised to."""
    unfit: frozenset[Shape]
    """Shapes that did not fit into what is free; another one that waits would delay the head."""


def make_plan(
    occupancy: Occupancy,
    queue: Sequence[Request],
    now: float,
    reservations: Sequence[Reservation] = (),
    door: Door | None = None,
) -> Plan:
    """Decide for a queue that is already in order. Afterwards ``occupancy`` holds what started.

    Pure but for that: same input, same plan. Whom the ``door`` refuses is in no part of it.
    """
    pending = _Pass(occupancy, now, reservations, door)
    kept = pending.start_in_order(queue)
    return Plan(
        tuple(pending.starts),
        tuple(kept),
        pending.turn.at if pending.turn else None,
        pending.head,
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
        self._pass.start_in_order(queue)

    def would_start(self, request: Request) -> bool:
        """Whether this one, submitted now behind all the others, would start at once."""
        return self._pass.place(request) is not None


class _Placed(NamedTuple):
    grants: tuple[Grant, ...]
    ends_at: float
    reservation: str = ""
    delays_head: bool = False


class _Pass:
    def __init__(
        self,
        occupancy: Occupancy,
        now: float,
        reservations: Sequence[Reservation],
        door: Door | None = None,
    ) -> None:
        self.occupancy = occupancy
        self._door = door
        self.now = now
        self.starts: list[Start] = []
        self.turn: Turn | None = None
        self.head: Request | None = None
        # Within a pass what is free only shrinks: a shape that did not fit once never does, and
        # one that had no room beside the same guards never has.
        self.unfit: set[Shape] = set()
        self._no_room: set[tuple[object, ...]] = set()
        self._no_room_beyond: dict[Shape, float] = {}
        self._never: set[Shape] = set()
        self._reservations = [found for found in reservations if found.ends_at > now]
        self._guards = Guards(occupancy, self._reservations, now)
        self._active = [found for found in self._reservations if covers(found, now)]
        self._people = frozenset(user for found in self._active for user in found.users)
        self._everywhere = np.ones(len(occupancy.pool.full), bool)

    def start_in_order(self, queue: Iterable[Request]) -> list[Request]:
        """Start what fits, in order; returns who goes on waiting."""
        kept: list[Request] = []
        unfit, people = self.unfit, self._people
        for request in queue:
            if request.shape in unfit and request.user not in people:
                kept.append(request)
                continue
            if self._door is not None and self._door.refuses(request):
                continue
            placed = self.place(request)
            if placed is not None:
                self._begin(request, placed)
                if self._door is not None:
                    self._door.let_in(request)
                continue
            kept.append(request)
            if self.turn is None and request.shape not in self._never:
                self._find_turn(request)
        return kept

    def _find_turn(self, request: Request) -> None:
        """The first that does not fit, and that known limits make room for, is the head."""
        self.turn = earliest_turn(
            self.occupancy, request, self.now, self._reservations, self._guards
        )
        if self.turn is None:
            self._never.add(request.shape)
        else:
            self.head = request

    def place(self, request: Request) -> _Placed | None:
        """Where a request starts now without breaking a guard; None when nowhere."""
        ends_at = self.now + request.limit_seconds
        if request.user in self._people:
            for found in self._active:
                if may_ride(found, request, self.now):
                    placed = self._ride(found, request, min(ends_at, found.ends_at))
                    if placed is not None:
                        return placed
        grants = self._place(request.shape, ends_at)
        return _Placed(grants, ends_at) if grants is not None else None

    def _ride(self, found: Reservation, request: Request, ends_at: float) -> _Placed | None:
        """Where somebody starts on a reservation: if need be even where it delays the head, for
        the GPUs were promised to them before."""
        if unused(found, self.occupancy.running, self.now, self.now) < request.gpus:
            return None
        rows = rows_of(found, self.occupancy.pool)
        delays = False
        guards = self._guarding(ends_at)
        key = (request.shape, found.id, *(guard.at for guard in guards))
        if key in self._no_room:
            return None
        grants = self._place_beside(request.shape, guards, rows, found.id)
        if grants is None and self.turn is not None:
            delays, reserved = True, self._concerned(ends_at)
            grants = self._place_beside(request.shape, reserved, rows, found.id)
        if grants is None:
            self._no_room.add(key)
            return None
        return _Placed(grants, ends_at, found.id, delays)

    def _place(self, shape: Shape, ends_at: float) -> tuple[Grant, ...] | None:
        if shape in self.unfit:
            return None
        # More guards leave no more room: whoever runs longer has none either. (Parts are laid one
        # after the other, so of several that cannot be said.)
        single = shape.parts == 1 and (self.head is None or self.head.parts == 1)
        if single and ends_at > self._no_room_beyond.get(shape, NEVER):
            return None
        guards = self._guarding(ends_at)
        if not guards:
            grants = self.occupancy.placer.place(shape)
        elif int(self.occupancy.pool.fits(shape).sum()) < shape.parts:
            grants = None
        else:
            key = (shape, "", *(guard.at for guard in guards))
            if key in self._no_room:
                return None
            grants = self._place_beside(shape, guards, self._everywhere)
            if grants is None:
                self._no_room.add(key)
                self._no_room_beyond[shape] = max(guard.at for guard in guards)
                return None
        if grants is None:
            self.unfit.add(shape)
        return grants

    def _place_beside(
        self, shape: Shape, guards: Sequence[Guarding], among: Bools, riding: str = ""
    ) -> tuple[Grant, ...] | None:
        """One part after the other, each where the guards still hold; all or none."""
        part, pool = shape._replace(parts=1), self.occupancy.pool
        if self._reservations:
            among = among & pool.fits(part)
        choose = partial(self._one, part)
        grants = spread(part, shape.parts, among, guards, choose, pool.layout, riding)
        if grants is None and shape.parts > 1:
            # The best places for the first parts left too little: those that cost least instead.
            choose = partial(self._cheapest, part, guards)
            grants = spread(part, shape.parts, among, guards, choose, pool.layout, riding)
        return grants

    def _guarding(self, ends_at: float) -> list[Guarding]:
        """What something that still runs at its time might delay."""
        guards: list[Guarding] = list(self._guards.ahead(ends_at)) if self._guards else []
        if self.turn is not None and self.turn.at < ends_at:
            guards.append(self.turn.until(ends_at))
        return guards

    def _one(self, part: Shape, among: Bools) -> Grant | None:
        grants = self.occupancy.placer.place(part, among)
        return grants[0] if grants is not None else None

    def _cheapest(self, part: Shape, guards: Sequence[Guarding], among: Bools) -> Grant | None:
        among = among & self.occupancy.pool.fits(part)
        if not among.any():
            return None
        made = (guard.guard if isinstance(guard, Late) else guard for guard in guards)
        loss = sum(guard.loss(part) for guard in made if isinstance(guard, Guard))
        least = np.broadcast_to(np.asarray(loss), among.shape)
        return self._one(part, among & (least == least[among].min()))

    def _concerned(self, ends_at: float) -> list[Guard]:
        """Guards of times at which something that starts now still runs."""
        return self._guards.before(ends_at)

    def _begin(self, request: Request, placed: _Placed) -> None:
        running = Running(
            request.id,
            placed.ends_at,
            placed.grants,
            request.user,
            request.tier,
            placed.reservation,
            self.now,
        )
        concerned = self._concerned(placed.ends_at)  # as they are without it
        self.occupancy.begin(running)
        if placed.reservation:
            # What it leaves unused of what was kept for it may be room for others.
            self._no_room_beyond.clear()
        if placed.delays_head:
            self.turn = None
        for grant in placed.grants:
            for guard in concerned:
                guard.take(grant, placed.reservation)
            if self.turn is not None and self.turn.at < placed.ends_at:
                self.turn.take(grant, placed.reservation)
        if placed.delays_head and self.head is not None:
            self._find_turn(self.head)
        for at in returns(running, self._reservations, self.now):
            self._guards.add(at)
        self.starts.append(Start(request, placed.grants, running, placed.reservation))
