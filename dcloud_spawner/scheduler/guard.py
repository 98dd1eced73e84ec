"""What must stay possible at a later time, and where others may go without preventing it.

The request at the head that does not fit has a guard at the earliest time at which it will;
advance reservations have one at each time at which one begins, and one now for those that have
begun. What is wanted is not laid on certain GPUs: it may move until somebody really starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dcloud_spawner.scheduler.joint import Kind, RoomOfNode, RoomOfRow, Together, together
from dcloud_spawner.scheduler.pool import Bools, Grant, Ints, Layout, Pool
from dcloud_spawner.scheduler.snapshot import WHOLE, Shape

PLENTY = 1 << 40


class Demand(NamedTuple):
    """So many units that have to fit, for a reservation or for the head."""

    kind: Kind
    units: int
    reservation: str = ""


class Before(NamedTuple):
    """What a guard goes back to."""

    wanted: list[int]
    state: int


class Guarding(Protocol):
    """Something that must stay possible."""

    at: float

    def room(self, shape: Shape, among: Bools, riding: str = "") -> Bools: ...
    def try_out(self, grant: Grant, riding: str = "") -> Before: ...
    def undo(self, grant: Grant, before: Before) -> None: ...


class Guard:
    """Units that have to fit together into what is free at a time. What does not fit from the
    beginning is given up; the rest stays guarded."""

    def __init__(self, at: float, future: Pool, demands: Sequence[Demand]) -> None:
        """``future`` is what is free then; it becomes the guard's own."""
        self.at = at
        self.pool = future
        self._kinds = tuple(dict.fromkeys(demand.kind for demand in demands))
        self._kind_of = {
            demand.reservation: self._kinds.index(demand.kind)
            for demand in demands
            if demand.reservation
        }
        most = [0] * len(self._kinds)
        for demand in demands:
            most[self._kinds.index(demand.kind)] += demand.units
        self._one = _Units(future, self._kinds[0]) if len(self._kinds) == 1 else None
        several = len(self._kinds) > 1
        units = tuple(kind.unit for kind in self._kinds)
        self._together = (together if several else Together)(self._kinds, tuple(most))
        self._allowing = future.layout.allowing(units) if several else ()
        shares = any(unit.milli < WHOLE and unit.gpus for unit in units)
        self._no_shares = None if shares else (0,) * len(units)
        self._nodes: list[RoomOfNode] | None = None
        self._numbers: list[int] = []
        """Of the nodes, as ``Together`` numbers what they can take."""
        self._cores: dict[tuple[int, ...], Bools | None] = {}
        self._takes = 0
        self.state = 0
        """Another number after each take; the same one again when that was undone."""
        self._wanted = self._possible(most)
        self.holds = self._wanted == most
        """Whether all units fitted when it was made."""

    def _possible(self, most: list[int]) -> list[int]:
        """As much as fits of what is wanted, the first kinds first."""
        if self._one:
            return [min(most[0], self._one.total)]
        if not any(most):
            return list(most)
        self._rooms()
        if self._together.fits(self._numbers, most):
            return list(most)
        wanted = [0] * len(most)
        for kind, count in enumerate(most):
            wanted[kind] = count
            while wanted[kind] and not self._together.fits(self._numbers, wanted):
                wanted[kind] -= 1
        return wanted

    def room(self, shape: Shape, among: Bools, riding: str = "") -> Bools:
        """Those rows on which one part of a shape may go, and the units would still fit.
        ``among`` are rows on which it fits now; ``riding`` is the reservation it uses up."""
        wanted = self._without(shape.gpus, riding)
        if not any(wanted):
            return among
        if self._one:
            return among & self._one.room(shape, wanted[0])
        rooms, layout, core = self._rooms(), self.pool.layout, self._core(wanted)
        if core is None:
            return np.zeros_like(among)
        room, known = among.copy(), dict[tuple[RoomOfNode, int], bool]()
        for row in np.flatnonzero(among & core):
            node = int(layout.node[row])
            position = layout.siblings[row].index(row)
            key = (rooms[node], position)
            if key not in known:
                after = self._together.number(self._less(rooms[node], position, shape))
                others = [*self._numbers[:node], after, *self._numbers[node + 1 :]]
                known[key] = self._together.fits(others, wanted)
            room[row] = known[key]
        return room

    def loss(self, shape: Shape) -> Ints:
        """How many units less fit when one part of a shape goes to each row; nothing when there
        are several kinds of units."""
        if self._one:
            return self._one.loss(shape)
        return np.zeros(len(self.pool.layout.groups), np.int64)

    def core(self) -> Bools | None:
        """Rows on nodes that are enough by themselves: what happens on the others does not
        matter. None when all are not enough."""
        return self._core(self._wanted)

    def _core(self, wanted: Sequence[int]) -> Bools | None:
        layout = self.pool.layout
        if not any(wanted):
            return np.zeros(len(layout.groups), bool)
        if self._one:
            return self._one.core(wanted[0])
        key = (self.state, *wanted)
        if key not in self._cores:
            self._rooms()
            enough = self._together.first_enough(self._numbers, wanted)
            self._cores[key] = None if enough is None else np.asarray(layout.node < enough)
        return self._cores[key]

    def _without(self, gpus: int, riding: str) -> list[int]:
        if riding not in self._kind_of:
            return self._wanted
        wanted = list(self._wanted)
        kind = self._kind_of[riding]
        wanted[kind] = max(0, wanted[kind] - gpus)
        return wanted

    def take(self, grant: Grant, riding: str = "") -> None:
        """Somebody who still runs at that time was placed."""
        self._wanted = self._without(len(grant.gpus), riding)
        self._takes += 1
        self.state = self._takes
        self.pool.take(grant)
        self._read(grant)

    def try_out(self, grant: Grant, riding: str = "") -> Before:
        """Take for a moment; returns what :meth:`undo` needs."""
        before = Before(self._wanted, self.state)
        self.take(grant, riding)
        return before

    def undo(self, grant: Grant, before: Before) -> None:
        """The opposite of :meth:`try_out`."""
        self._wanted, self.state = before
        self.pool.give(grant)
        self._read(grant)

    def _read(self, grant: Grant) -> None:
        self.pool.changes.clear()  # nobody reads on in them
        if self._one:
            self._one.read()
        elif self._nodes is not None:
            node = self.pool.layout.groups[grant.row].node
            self._nodes[node] = self._room_of(self.pool.layout.siblings[grant.row])
            self._numbers[node] = self._together.number(self._nodes[node])

    def _rooms(self) -> list[RoomOfNode]:
        if self._nodes is None:
            pool, layout = self.pool, self.pool.layout
            full, memory, cpu = pool.full.tolist(), pool.memory.tolist(), pool.cpu.tolist()
            self._nodes = [RoomOfNode((), 0, 0)] * len(layout.nodes)
            for node, rows in layout.rows_of_nodes:
                self._nodes[node] = self._room(rows, full, memory[rows[0]], cpu[rows[0]])
            self._numbers = [self._together.number(node) for node in self._nodes]
        return self._nodes

    def _room_of(self, rows: Sequence[int]) -> RoomOfNode:
        pool = self.pool
        full = {row: pool.full.item(row) for row in rows}
        return self._room(rows, full, pool.memory.item(rows[0]), pool.cpu.item(rows[0]))

    def _room(
        self, rows: Sequence[int], full: Mapping[int, int] | Sequence[int], memory: int, cpu: int
    ) -> RoomOfNode:
        allowing = self._allowing
        if self._no_shares is not None:
            found = [RoomOfRow(allowing[row], full[row], self._no_shares) for row in rows]
        else:
            units = [kind.unit for kind in self._kinds]
            found = [
                RoomOfRow(
                    allowing[row], full[row], tuple(self._shares(row, unit) for unit in units)
                )
                for row in rows
            ]
        return RoomOfNode(tuple(found), memory, cpu)

    def _shares(self, row: int, unit: Shape) -> int:
        if unit.milli == WHOLE or not unit.gpus:
            return 0
        return int((self.pool.free[row] // self.pool.layout.milli(row, unit)).sum())

    def _less(self, node: RoomOfNode, position: int, shape: Shape) -> RoomOfNode:
        """What a node has free after one part of a shape went to one of its rows."""
        row = node.rows[position]
        full, shares = row.full, row.shares
        if shape.gpus and shape.milli == WHOLE:
            full -= shape.gpus
        elif shape.gpus:
            shares = tuple(max(0, found - 1) for found in shares)
        return RoomOfNode(
            (
                *node.rows[:position],
                RoomOfRow(row.allowed, full, shares),
                *node.rows[position + 1 :],
            ),
            node.memory_bytes - shape.memory_bytes,
            node.cpu_millicores - shape.cpu_millicores,
        )


class _Units:
    """How many units of one kind fit on each node, as arrays."""

    def __init__(self, pool: Pool, kind: Kind) -> None:
        self._pool = pool
        self._unit = kind.unit
        self._most = 1 if kind.spread else PLENTY
        layout = pool.layout
        self._node, self._first = layout.node, layout.first
        self._single = len(layout.groups) == int(self._first.sum())
        self._allowed = layout.allowed(self._unit)
        self._share = layout.share(self._unit)[:, None]
        self.read()

    def read(self) -> None:
        """Count anew, after the pool changed."""
        pool = self._pool
        self._units = self._units_of(pool.full)
        self._node_units = self._units
        if not self._single:
            counts = np.bincount(self._node, self._units).astype(np.int64)
            self._node_units = counts[self._node]
        self._capacity = self._limited(self._node_units, pool.memory, pool.cpu)
        # A node that is over its limits fits nothing, not even what asks for none of it.
        over = (pool.memory < self._unit.memory_bytes) | (pool.cpu < self._unit.cpu_millicores)
        self._capacity[over] = 0
        self.total = int(self._capacity[self._first].sum())

    def _units_of(self, full: Ints) -> Ints:
        if self._unit.gpus == 0:
            return np.where(self._allowed, PLENTY >> 20, 0)
        if self._unit.milli < WHOLE:
            return np.where(self._allowed, (self._pool.free // self._share).sum(axis=1), 0)
        return np.where(self._allowed, full // self._unit.gpus, 0)

    def _limited(self, units: Ints, memory: Ints, cpu: Ints) -> Ints:
        """Units on each row's node, by GPUs, memory and cores."""
        if self._unit.memory_bytes:
            units = np.minimum(units, memory // self._unit.memory_bytes)
        if self._unit.cpu_millicores:
            units = np.minimum(units, cpu // self._unit.cpu_millicores)
        units = np.maximum(units, 0)
        return units if self._most == PLENTY else np.minimum(units, self._most)

    def core(self, wanted: int) -> Bools | None:
        """Rows on the first nodes that have so many units; None when all have less."""
        if self.total < wanted:
            return None
        upto = np.cumsum(np.where(self._first, self._capacity, 0))
        last = int(np.searchsorted(upto, wanted))
        return np.isin(self._node, self._node[: last + 1])

    def room(self, shape: Shape, wanted: int) -> Bools:
        """Rows on which one part of a shape may go, so that so many units still fit."""
        return np.asarray(self.total - self.loss(shape) >= wanted)

    def loss(self, shape: Shape) -> Ints:
        """How many units less fit when one part of a shape goes to each row."""
        if shape.gpus == 0 or self._unit.gpus == 0:
            after = self._units
        elif self._unit.milli < WHOLE:
            # Without slots a share may cost one unit less than this; with slots it is exact.
            up = 0 if shape.milli == WHOLE else self._share[:, 0] - 1
            lost = (self._pool.layout.share(shape) + up) // self._share[:, 0]
            after = np.where(self._allowed, np.maximum(self._units - lost * shape.gpus, 0), 0)
        else:
            # A share may begin a GPU that was whole: counted as if it always did.
            after = self._units_of(np.maximum(self._pool.full - shape.gpus, 0))
        capacity = self._limited(
            self._node_units - self._units + after,
            self._pool.memory - shape.memory_bytes,
            self._pool.cpu - shape.cpu_millicores,
        )
        return self._capacity - capacity


def spread(
    part: Shape,
    parts: int,
    among: Bools,
    guards: Sequence[Guarding],
    choose: Callable[[Bools], Grant | None],
    layout: Layout,
    riding: str = "",
) -> tuple[Grant, ...] | None:
    """Places for all parts, each on a node of its own and where the guards still hold, or None.
    Nothing stays taken."""
    grants: list[Grant] = []
    undo: list[tuple[Guarding, Grant, Before]] = []
    for _ in range(parts):
        for guard in guards:
            if not among.any():
                break
            among = guard.room(part, among, riding)
        grant = choose(among)
        if grant is None:
            break
        grants.append(grant)
        if len(grants) < parts:
            undo += [(guard, grant, guard.try_out(grant, riding)) for guard in guards]
            among = among.copy()
            among[list(layout.siblings[grant.row])] = False
    for guard, grant, before in reversed(undo):
        guard.undo(grant, before)
    return tuple(grants) if len(grants) == parts else None
