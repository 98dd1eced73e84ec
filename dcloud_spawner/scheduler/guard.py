"""What must stay possible at a later time, and where others may go without preventing it.

The request at the head that does not fit has a guard at the earliest time at which it will; an
advance reservation has one at its beginning.
"""

from __future__ import annotations

import numpy as np

from dcloud_spawner.scheduler.pool import Bools, Grant, Ints, Pool
from dcloud_spawner.scheduler.snapshot import WHOLE, Shape

PLENTY = 1 << 40


class Guard:
    """So many units of a shape that have to fit into what is free at a time."""

    def __init__(
        self, at: float, future: Pool, unit: Shape, count: int, *, one_on_each_node: bool
    ) -> None:
        self.at = at
        self._future = future
        self._unit = unit
        self._count = count
        self._most = 1 if one_on_each_node else PLENTY
        layout = future.layout
        self._node = np.array([group.node for group in layout.groups], np.int64)
        self._first = np.zeros(len(self._node), bool)
        self._first[np.unique(self._node, return_index=True)[1]] = True
        self._allowed = layout.allowed(unit)
        self._read()

    @property
    def holds(self) -> bool:
        """Whether the units fit as things stand."""
        return self._total >= self._count

    def _read(self) -> None:
        self._units = self._units_of(self._future.full)
        self._node_units = np.bincount(self._node, self._units).astype(np.int64)[self._node]
        self._capacity = self._limited(self._node_units, self._future.memory, self._future.cpu)
        self._total = int(self._capacity[self._first].sum())

    def _units_of(self, full: Ints) -> Ints:
        if self._unit.gpus == 0:
            return np.where(self._allowed, PLENTY >> 20, 0)
        if self._unit.milli < WHOLE:
            return np.where(self._allowed, (self._future.free // self._unit.milli).sum(axis=1), 0)
        return np.where(self._allowed, full // self._unit.gpus, 0)

    def _limited(self, units: Ints, memory: Ints, cpu: Ints) -> Ints:
        """Units on each row's node, by GPUs, memory and cores."""
        if self._unit.memory_bytes:
            units = np.minimum(units, memory // self._unit.memory_bytes)
        if self._unit.cpu_millicores:
            units = np.minimum(units, cpu // self._unit.cpu_millicores)
        return np.clip(units, 0, self._most)

    def room(self, shape: Shape) -> Bools:
        """Rows on which one part of a shape may go, and the units would still fit."""
        if shape.gpus == 0 or self._unit.gpus == 0:
            after = self._units
        elif self._unit.milli < WHOLE:
            lost = -(-shape.milli // self._unit.milli) * shape.gpus
            after = np.where(self._allowed, np.maximum(self._units - lost, 0), 0)
        else:
            # A share may begin a GPU that was whole: counted as if it always did.
            after = self._units_of(np.maximum(self._future.full - shape.gpus, 0))
        capacity = self._limited(
            self._node_units - self._units + after,
            self._future.memory - shape.memory_bytes,
            self._future.cpu - shape.cpu_millicores,
        )
        return np.asarray(self._total - self._capacity + capacity >= self._count)

    def take(self, grant: Grant) -> None:
        """Somebody who still runs at that time was placed."""
        self._future.take(grant)
        self._read()

    def give(self, grant: Grant) -> None:
        """The opposite of :meth:`take`."""
        self._future.give(grant)
        self._read()
