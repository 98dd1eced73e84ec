"""What people ask for, and how fragmented a row is by it.

The measure is that of FGD (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing
Workloads with Fragmentation Gradient Descent", USENIX ATC 2023): the part of a node's free GPUs
that a request drawn from the usual ones could not use there; with two additions of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcloud_spawner.scheduler.pool import Bools, Ints
from dcloud_spawner.scheduler.snapshot import WHOLE, Shape

Floats = NDArray[np.float64]

USUAL: tuple[tuple[Shape, float], ...] = tuple(
    (Shape(gpus, WHOLE, None, 0, 0, 1, frozenset()), weight)
    for gpus, weight in ((1, 0.5), (2, 0.2), (4, 0.2), (8, 0.1))
)
"""What people ask for, and how often, until there is a history to go by. Eight is among them so
that small work does not begin a whole node where it could fill up another."""

PATIENCE = 0.05
"""How likely a GPU that is partly free stays as it is, beside the next request being one for it."""


class Usual:
    """Usual requests with their frequencies, as arrays, and the fragmentation by them."""

    def __init__(self, classes: Sequence[tuple[Shape, float]] = USUAL) -> None:
        whole = sum(weight for _, weight in classes) or 1.0
        self.weights: Floats = np.array([weight / whole for _, weight in classes], float)
        self.gpus: Ints = np.array([shape.gpus for shape, _ in classes], np.int64)
        self.memory: Ints = np.array([shape.memory_bytes for shape, _ in classes], np.int64)
        self.cpu: Ints = np.array([shape.cpu_millicores for shape, _ in classes], np.int64)
        self.shapes = tuple(shape for shape, _ in classes)
        sizes, self.size_of = np.unique(
            np.array([shape.milli for shape in self.shapes], np.int64), return_inverse=True
        )
        self.sizes: Ints = sizes
        self.sees_memory = bool(self.memory.any() or self.cpu.any())
        """Whether the measure knows what requests need besides GPUs."""
        on_gpus = self.weights * self.gpus * [shape.milli / WHOLE for shape in self.shapes]
        self._per_gpu = [
            float((need * self.weights)[self.gpus > 0].sum() / (on_gpus.sum() or 1.0))
            for need in (self.memory, self.cpu)
        ]
        self._lost = self._lost_by_free()
        self.counts_whole = not self.sees_memory and self._lost is None
        """Whether of GPUs that are given out whole only the number matters that is free."""

    def fragmented(self, free: Ints, memory: Ints, cpu: Ints, allowed: Bools) -> Floats:
        """What is lost of the free GPUs of each row, in thousandths of GPUs: the sum of

        - FGD's measure, the mean over usual requests: for one that cannot run on a row, or asks
          for no GPU, all its free GPUs are fragments; else those too small for it.
        - What the row has no memory or cores left for, at what is usual for each GPU. FGD sees
          it only when not even the next request has enough.
        - What stays free of each GPU in the end when shares go on coming, see ``_lost_by_free``.
          FGD does not look beyond the next one.

        ``free`` is rows x GPUs; ``allowed`` rows x classes. Both additions are ours; what they
        are worth: docs/queue.md.
        """
        total = free.sum(axis=1)
        usable = free[:, :, None] >= self.sizes
        kept = (free[:, :, None] * usable).sum(axis=1)[:, self.size_of]
        runs = (usable.sum(axis=1)[:, self.size_of] >= self.gpus) & (self.gpus > 0) & allowed
        if self.sees_memory:
            runs &= (memory[:, None] >= self.memory) & (cpu[:, None] >= self.cpu)
        lost = total - (np.where(runs, kept, 0) * self.weights).sum(axis=1)
        stranded = np.zeros(len(total))
        for left, per_gpu in zip((memory, cpu), self._per_gpu, strict=True):
            if per_gpu:
                stranded = np.maximum(stranded, total - left * (WHOLE / per_gpu))
        lost += stranded
        if self._lost is not None:
            lost += self._lost[free].sum(axis=1)
        return np.asarray(lost)

    def _lost_by_free(self) -> Floats | None:
        """By what a GPU has free: how much of that stays free when usual requests that still fit
        on it come one after the other, and none may come with the weight ``PATIENCE``. None
        where nobody asks for shares: then the answer is the same for every GPU."""
        coming = [
            (size, float((self.weights * self.gpus)[self.size_of == index].sum()))
            for index, size in enumerate(self.sizes.tolist())
        ]
        coming = [(size, weight) for size, weight in coming if weight]
        if all(size == WHOLE for size, _ in coming):
            return None
        lost = np.zeros(WHOLE + 1)
        for free in range(1, WHOLE + 1):
            fitting = [(size, weight) for size, weight in coming if size <= free]
            left = PATIENCE * free + sum(weight * lost[free - size] for size, weight in fitting)
            lost[free] = left / (PATIENCE + sum(weight for _, weight in fitting))
        return lost
