"""What is free, as arrays: one row for each group of like GPUs on a node.

A GPU has thousandths free, so that whole GPUs, slots of shared GPUs and the shares of a trace
are one case. A node whose GPUs are of two models has two rows, which share its memory and cores;
a node without GPUs has one row with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcloud_spawner.scheduler.snapshot import WHOLE, Node, Shape

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Grant(NamedTuple):
    """What somebody takes on one row: so much of each of these GPUs, memory and cores."""

    row: int
    gpus: tuple[int, ...]
    milli: int
    memory_bytes: int
    cpu_millicores: int


class Group(NamedTuple):
    """Like GPUs of one node, as they are made into one row."""

    node: int
    model: str
    shared: bool
    """Whether its GPUs are given out in shares; then nobody gets a whole one."""
    gpus: tuple[str, ...]
    """Names of the GPUs, in the order of their index."""
    links: tuple[str, ...] = ()
    """Link domain of each; empty where none is known."""
    slot: int = 0
    """Thousandths that a share gets here, whatever less it asked for; 0: just what it asked."""
    sizes: tuple[int, ...] = ()
    """Thousandths of each GPU that are given out, where that is not the whole of each."""


class Layout:
    """What does not change while a plan is made: nodes, rows, models, labels, names.

    ``whole_may_share`` is for traces in which every GPU may be given out whole or in shares.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        groups: Sequence[Group],
        *,
        whole_may_share: bool = False,
    ) -> None:
        self.nodes = tuple(nodes)
        self.groups = tuple(groups)
        self.whole_may_share = whole_may_share
        self.width = max((len(group.gpus) for group in groups), default=0)
        self.memory = np.array([nodes[group.node].memory_bytes for group in groups], np.int64)
        self.cpu = np.array([nodes[group.node].cpu_millicores for group in groups], np.int64)
        self.gpu_count = np.array([len(group.gpus) for group in groups], np.int64)
        self.free = np.zeros((len(groups), self.width), np.int64)
        for row, group in enumerate(groups):
            self.free[row, : len(group.gpus)] = group.sizes or WHOLE
        self.slot = np.array([group.slot for group in groups], np.int64)
        by_node: dict[int, list[int]] = {}
        for row, group in enumerate(groups):
            by_node.setdefault(group.node, []).append(row)
        self.siblings = [tuple(by_node[group.node]) for group in groups]
        self.rows_of_nodes = tuple((node, tuple(rows)) for node, rows in by_node.items())
        """Rows of each node that has any."""
        self.node: Ints = np.array([group.node for group in groups], np.int64)
        """Node of each row."""
        self.first: Bools = np.zeros(len(groups), bool)
        """The first row of each node: what is counted by node is counted there."""
        self.first[np.unique(self.node, return_index=True)[1]] = True
        self._masks: dict[tuple[str | None, bool, int, frozenset[str]], Bools] = {}
        self._allowing: dict[tuple[Shape, ...], list[tuple[bool, ...]]] = {}

    def allowed(self, shape: Shape) -> Bools:
        """Rows that a shape may use at all: model, labels, whole or shared GPUs."""
        key = (shape.model, shape.gpus == 0, shape.milli, shape.labels)
        if key not in self._masks:
            self._masks[key] = np.array([self._allows(row, shape) for row in self.groups], bool)
        return self._masks[key]

    def allowing(self, shapes: tuple[Shape, ...]) -> Sequence[tuple[bool, ...]]:
        """For each row, which of some shapes may use it at all."""
        found = self._allowing.get(shapes)
        if found is None:
            masks = [self.allowed(shape) for shape in shapes]
            rows = range(len(self.groups))
            found = [tuple(bool(mask[row]) for mask in masks) for row in rows]
            self._allowing[shapes] = found
        return found

    def _allows(self, group: Group, shape: Shape) -> bool:
        if not shape.labels <= self.nodes[group.node].labels:
            return False
        if shape.gpus == 0:
            return True
        if shape.model is not None and group.model != shape.model:
            return False
        if group.slot and shape.milli > group.slot:
            return False
        return self.whole_may_share or group.shared == (shape.milli < WHOLE)

    def share(self, shape: Shape) -> Ints:
        """Thousandths of one GPU that a share gets on each row."""
        return np.maximum(self.slot, shape.milli)

    def milli(self, row: int, shape: Shape) -> int:
        """Thousandths of each GPU that a shape gets on a row where it may go."""
        return int(self.slot[row]) or shape.milli


class Pool:
    """What is free on each row now; changed by :meth:`take` and :meth:`give`."""

    __slots__ = ("changes", "cpu", "free", "full", "layout", "memory")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.memory = layout.memory.copy()
        self.cpu = layout.cpu.copy()
        self.free = layout.free.copy()
        """Thousandths free of each GPU, rows x GPUs; 0 where a row has fewer."""
        self.full: Ints = (self.free == WHOLE).sum(axis=1, dtype=np.int64)
        """GPUs of each row that are wholly free."""
        self.changes: list[int] = []
        """Every row that changed, in order: who remembers something about rows reads on here."""

    def copy(self) -> Pool:
        """An independent copy, with no changes yet."""
        other = Pool.__new__(Pool)
        other.layout = self.layout
        other.memory, other.cpu = self.memory.copy(), self.cpu.copy()
        other.free, other.full = self.free.copy(), self.full.copy()
        other.changes = []
        return other

    def fits(self, shape: Shape) -> Bools:
        """Rows on which one part of a shape fits now."""
        fits = (
            self.layout.allowed(shape)
            & (self.memory >= shape.memory_bytes)
            & (self.cpu >= shape.cpu_millicores)
        )
        if shape.gpus and shape.milli == WHOLE:
            fits &= self.full >= shape.gpus
        elif shape.gpus:
            fits &= (self.free >= self.layout.share(shape)[:, None]).any(axis=1)
        return fits

    def take(self, grant: Grant) -> None:
        """Give out a grant."""
        self._add(grant, -1)

    def give(self, grant: Grant) -> None:
        """Take a grant back."""
        self._add(grant, 1)

    def give_all(self, grants: Sequence[Grant]) -> None:
        """Take many grants back at once."""
        whole = [grant for grant in grants if grant.milli == WHOLE]
        rows = [grant.row for grant in whole for _ in grant.gpus]
        gpus = [gpu for grant in whole for gpu in grant.gpus]
        if rows:
            self.free[rows, gpus] = WHOLE
            np.add.at(self.full, rows, 1)
        siblings = self.layout.siblings
        sized = [grant for grant in whole if grant.memory_bytes or grant.cpu_millicores]
        if sized:
            at = [row for grant in sized for row in siblings[grant.row]]
            self.changes += at
            for array, amounts in (
                (self.memory, [g.memory_bytes for g in sized for _ in siblings[g.row]]),
                (self.cpu, [g.cpu_millicores for g in sized for _ in siblings[g.row]]),
            ):
                np.add.at(array, at, amounts)
        self.changes += rows
        for grant in grants:
            if grant.milli != WHOLE:
                self.give(grant)

    def _add(self, grant: Grant, sign: int) -> None:
        for row in self.layout.siblings[grant.row]:
            self.memory[row] += sign * grant.memory_bytes
            self.cpu[row] += sign * grant.cpu_millicores
            self.changes.append(row)
        row, count = grant.row, len(grant.gpus)
        if grant.milli == WHOLE:
            if count:
                self.free[row, list(grant.gpus)] = 0 if sign < 0 else WHOLE
                self.full[row] += sign * count
            return
        for gpu in grant.gpus:
            before = int(self.free[row, gpu])
            after = before + sign * grant.milli
            self.free[row, gpu] = after
            self.full[row] += (after == WHOLE) - (before == WHOLE)
