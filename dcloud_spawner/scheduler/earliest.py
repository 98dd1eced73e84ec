"""The earliest time at which a request that does not fit now will, at the latest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dcloud_spawner.scheduler.guard import Before, Demand, Guard, Guarding, spread
from dcloud_spawner.scheduler.joint import Kind
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.pool import Bools, Grant, Pool
from dcloud_spawner.scheduler.reserved import Guards, demands_at, pool_at
from dcloud_spawner.scheduler.snapshot import NEVER, WHOLE, Request, Reservation, Shape


class Turn:
    """The earliest start of a request, guarded: from it on, for as long as its limit, it has to
    fit beside all advance reservations that hold or begin meanwhile."""

    def __init__(
        self, request: Request, guard: Guard, meanwhile: Sequence[Guard], occupancy: Occupancy
    ) -> None:
        """``guard`` is the one at its start: with its own parts when no reservation is in the
        way, else with the reservations only. ``meanwhile`` are those of the pass."""
        self.at = guard.at
        self._guard = guard
        self._beside: tuple[Guard, ...] = (guard, *meanwhile)
        self._part = request.shape._replace(parts=1)
        self._parts = request.parts
        self._placer = occupancy.placer
        self._alone = False
        self._core_of: tuple[int, ...] = ()
        self._core_rows: Bools | None = None

    @classmethod
    def without_reservations(
        cls, request: Request, pool: Pool, at: float, occupancy: Occupancy
    ) -> Turn:
        """Where the request alone is to be guarded."""
        part = request.shape._replace(parts=1)
        demand = Demand(Kind(part, True), request.parts)
        turn = cls(request, Guard(at, pool, [demand]), (), occupancy)
        turn._alone = True
        return turn

    def until(self, ends_at: float) -> Guarding:
        """What guards it from something that runs until a time."""
        return self._guard if self._alone else _Until(self, ends_at)

    def room(self, shape: Shape, among: Bools, ends_at: float, riding: str = "") -> Bools:
        """Those rows on which one part of a shape may go until a time and not delay it."""
        core = self._core()
        if core is None:
            return np.zeros_like(among)
        room, known = among.copy(), dict[tuple[object, ...], bool]()
        concerned = [guard for guard in self._beside if guard.at < ends_at]
        for row in np.flatnonzero(among & core):
            key = self._state(int(row))
            if key not in known:
                grant = self._placer.grant_on(int(row), shape)
                before = [guard.try_out(grant, riding) for guard in concerned]
                known[key] = self.possible()
                for guard, found in zip(concerned, before, strict=True):
                    guard.undo(grant, found)
            room[row] = known[key]
        return room

    def _state(self, row: int) -> tuple[object, ...]:
        """All that an answer for a row depends on."""
        rows = list(self._guard.pool.layout.siblings[row])
        pools = [self._placer.pool, *(guard.pool for guard in self._beside)]
        return (
            rows.index(row),
            tuple(self._placer.kind(row) for row in rows),
            *(pool.free[rows].tobytes() for pool in pools),
            *((int(pool.memory[row]), int(pool.cpu[row])) for pool in pools),
        )

    def possible(self) -> bool:
        """Whether the request can start at its time as things stand."""
        return self._place() is not None

    def _place(self) -> tuple[Grant, ...] | None:
        pool = self._guard.pool
        among = pool.fits(self._part)
        return spread(self._part, self._parts, among, self._beside, self._first, pool.layout)

    def _core(self) -> Bools | None:
        """Rows on nodes that are enough for the request and for the reservations beside it, so
        that what happens on the others does not matter; None when all are not enough."""
        states = tuple(guard.state for guard in self._beside)
        if states != self._core_of:
            self._core_of, self._core_rows = states, self._find_core()
        return self._core_rows

    def _find_core(self) -> Bools | None:
        grants, layout = self._place(), self._guard.pool.layout
        if grants is None:
            return None
        needed = np.isin(layout.node, [layout.node[grant.row] for grant in grants])
        for guard in self._beside:
            before = [guard.try_out(grant) for grant in grants]
            core = guard.core()
            for grant, found in zip(reversed(grants), reversed(before), strict=True):
                guard.undo(grant, found)
            if core is None:
                return np.ones_like(needed)
            needed |= core
        return needed

    def _first(self, among: Bools) -> Grant | None:
        rows = np.flatnonzero(among)
        if not len(rows):
            return None
        row, part = int(rows[0]), self._part
        milli = self._guard.pool.layout.milli(row, part) if part.gpus else WHOLE
        if part.gpus and part.milli < WHOLE:
            gpus: tuple[int, ...] = (int((self._guard.pool.free[row] >= milli).argmax()),)
        else:
            gpus = tuple(np.flatnonzero(self._guard.pool.free[row] == WHOLE)[: part.gpus].tolist())
        return Grant(row, gpus, milli, part.memory_bytes, part.cpu_millicores)

    def take(self, grant: Grant, riding: str = "") -> None:
        """Somebody who still runs at its start was placed. (The guards of the pass are told by
        the pass.)"""
        self._guard.take(grant, riding)

    def try_out(self, grant: Grant, riding: str = "") -> Before:
        """Take for a moment; returns what :meth:`undo` needs."""
        return self._guard.try_out(grant, riding)

    def undo(self, grant: Grant, before: Before) -> None:
        """The opposite of :meth:`try_out`."""
        self._guard.undo(grant, before)


class _Until:
    """A turn, guarded from what runs until a time."""

    def __init__(self, turn: Turn, ends_at: float) -> None:
        self._turn, self._ends_at = turn, ends_at
        self.at = turn.at

    def room(self, shape: Shape, among: Bools, riding: str = "") -> Bools:
        return self._turn.room(shape, among, self._ends_at, riding)

    def try_out(self, grant: Grant, riding: str = "") -> Before:
        return self._turn.try_out(grant, riding)

    def undo(self, grant: Grant, before: Before) -> None:
        self._turn.undo(grant, before)


def earliest_turn(
    occupancy: Occupancy,
    request: Request,
    now: float,
    reservations: Sequence[Reservation] = (),
    guards: Guards | None = None,
) -> Turn | None:
    """The turn of a request at the earliest time that the limits of what runs allow, or None
    when no known limit makes room. What is past its limit counts as ending now, never as free.

    ``guards`` are those of the reservations in this pass.
    """
    to_come = [found for found in reservations if found.ends_at > now]
    first = now
    if request.shape.milli == WHOLE and not occupancy.pool.layout.whole_may_share:
        counted = earliest_by_counting(occupancy, request, now)
        if counted is None:
            return None
        first = counted
        if not to_come:
            pool = pool_at(occupancy, first, now)
            return Turn.without_reservations(request, pool, first, occupancy)
    part = request.shape._replace(parts=1)
    for at, pool in _times(occupancy, to_come, now):
        if at < first or not _fits(pool, part, request.parts):
            continue
        if not to_come:
            return Turn.without_reservations(request, pool.copy(), at, occupancy)
        then = Guard(at, pool.copy(), demands_at(occupancy, to_come, max(at, _after(now)), now))
        meanwhile = guards.between(at, at + request.limit_seconds) if guards else ()
        turn = Turn(request, then, meanwhile, occupancy)
        if turn.possible():
            return turn
    return None


def _after(now: float) -> float:
    """Just after now: what is past its limit is gone then."""
    return float(np.nextafter(now, NEVER))


def _fits(pool: Pool, part: Shape, parts: int) -> bool:
    rows = np.flatnonzero(pool.fits(part))
    if parts == 1:
        return bool(len(rows))
    return len({pool.layout.groups[row].node for row in rows}) >= parts


def _times(
    occupancy: Occupancy, reservations: Sequence[Reservation], now: float
) -> Iterator[tuple[float, Pool]]:
    """Every time at which more may be free than before, with what is free then beside what runs
    (always the same pool)."""
    pool = occupancy.pool.copy()
    running, position = occupancy.running, 0
    times = {now, *(max(found.ends_at, now) for found in running)}
    times |= {found.ends_at for found in reservations}
    for at in sorted(times - {NEVER}):
        while position < len(running) and max(running[position].ends_at, now) <= at:
            for grant in running[position].grants:
                pool.give(grant)
            position += 1
        yield at, pool


def earliest_by_counting(occupancy: Occupancy, request: Request, now: float) -> float | None:
    """The earliest time for whole GPUs or none, from what runs alone. The inner loop of a pass,
    so it counts in plain integers instead of asking arrays one by one."""
    shape, pool = request.shape, occupancy.pool
    layout = pool.layout
    fitting = {layout.groups[row].node for row in pool.fits(shape).nonzero()[0]}
    if len(fitting) >= shape.parts:
        return now
    allowed = layout.allowed(shape).tolist()
    full, memory, cpu = pool.full.tolist(), pool.memory.tolist(), pool.cpu.tolist()
    siblings, groups = layout.siblings, layout.groups
    gpus, asked_memory, asked_cpu = shape.gpus, shape.memory_bytes, shape.cpu_millicores
    for running in occupancy.running:
        if running.ends_at == NEVER:
            break
        for grant in running.grants:
            if grant.milli == WHOLE:
                full[grant.row] += len(grant.gpus)
            for row in siblings[grant.row]:
                memory[row] += grant.memory_bytes
                cpu[row] += grant.cpu_millicores
                if (
                    full[row] >= gpus
                    and allowed[row]
                    and memory[row] >= asked_memory
                    and cpu[row] >= asked_cpu
                ):
                    fitting.add(groups[row].node)
        if len(fitting) >= shape.parts:
            return max(running.ends_at, now)
    return None
