"""Which node and which GPUs: where the least is fragmented.

The measure is that of FGD (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing
Workloads with Fragmentation Gradient Descent", USENIX ATC 2023): the part of a node's free GPUs
that a request drawn from the usual ones could not use there. A request goes where this grows
least. Ties, and what the measure does not see, are decided by what stays free (least first), so
that big holes stay whole; CPU-only work goes to nodes without GPUs where it can, and several
GPUs come from one link domain where they can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcloud_spawner.scheduler.pool import Bools, Grant, Ints, Pool
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
LEFT_WEIGHT = 1e-4
"""Decides where the measure does not see what requests need besides GPUs. Where it does, equal
rows are taken in their order, which keeps the last ones empty."""
LINK_WEIGHT = 1e-2
GPU_NODE_WEIGHT = 1e6
SMALL = 16
"""Up to so many rows the scores are looked up one by one."""


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


class _Scores:
    """The score of one shape on every row, renewed where rows changed."""

    __slots__ = ("read", "values")

    def __init__(self, values: Floats, read: int) -> None:
        self.values = values
        self.read = read


class Placer:
    """Finds the best rows of one pool. It remembers scores, and reads on in the pool's changes."""

    def __init__(
        self, pool: Pool, usual: Usual | None = None, *, link_domains: bool = True
    ) -> None:
        self.pool = pool
        self.usual = usual or Usual()
        self._link_domains = link_domains and any(
            link for group in pool.layout.groups for link in group.links
        )
        self._scores: dict[Shape, _Scores] = {}
        self._known: dict[tuple[object, ...], float] = {}
        self._allowed: Bools = np.array(
            [pool.layout.allowed(shape) for shape in self.usual.shapes], bool
        ).T.reshape(len(pool.layout.groups), len(self.usual.shapes))
        kinds: dict[tuple[object, ...], int] = {}
        self._kinds = [
            kinds.setdefault(self._fixed(row), len(kinds)) for row in range(len(self._allowed))
        ]

    def _fixed(self, row: int) -> tuple[object, ...]:
        """Everything about a row that never changes and that a score depends on."""
        layout = self.pool.layout
        group = layout.groups[row]
        return (
            group.model,
            group.slot or group.shared,
            layout.nodes[group.node].labels,
            group.links if self._link_domains else (),
            int(layout.memory[row]),
            int(layout.cpu[row]),
            len(group.gpus),
        )

    def place(self, shape: Shape, among: Bools | None = None) -> tuple[Grant, ...] | None:
        """The best place for a shape now, one grant for each part, or None."""
        if len(self.pool.full) == 1 and shape.parts == 1:
            fits = self.pool.fits(shape)
            return (self.grant_on(0, shape),) if fits[0] and (among is None or among[0]) else None
        scores = self._score(shape)
        if among is not None:
            scores = np.where(among, scores, np.inf)
        if shape.parts == 1:
            best = int(scores.argmin()) if scores.size else -1
            if best < 0 or scores[best] == np.inf:
                return None
            return (self.grant_on(best, shape),)
        best_rows: list[int] = []
        nodes: set[int] = set()
        groups = self.pool.layout.groups
        for row in np.argsort(scores, kind="stable"):
            if len(best_rows) == shape.parts or scores[row] == np.inf:
                break
            if groups[row].node not in nodes:
                nodes.add(groups[row].node)
                best_rows.append(int(row))
        if len(best_rows) < shape.parts:
            return None
        return tuple(self.grant_on(row, shape) for row in best_rows)

    def _score(self, shape: Shape) -> Floats:
        """Scores of a shape, lower is better, infinite where it does not fit."""
        changes = self.pool.changes
        found = self._scores.get(shape)
        if found is None:
            found = _Scores(np.empty(len(self.pool.full)), len(changes))
            found.values[:] = self._fresh(shape, np.arange(len(self.pool.full)))
            self._scores[shape] = found
        elif found.read < len(changes):
            rows = np.array(sorted(set(changes[found.read :])), np.int64)
            found.values[rows] = self._fresh(shape, rows)
            found.read = len(changes)
        return found.values

    def _fresh(self, shape: Shape, rows: Ints) -> Floats:
        if len(rows) <= SMALL:
            return np.array([self._remembered(shape, int(row)) for row in rows])
        return self._computed(shape, rows)

    def _remembered(self, shape: Shape, row: int) -> float:
        """The score of one row: rows in like states have the like score."""
        pool = self.pool
        key = (
            shape,
            self._kinds[row],
            pool.free[row].tobytes(),
            int(pool.memory[row]),
            int(pool.cpu[row]),
        )
        score = self._known.get(key)
        if score is None:
            if len(self._known) > 200_000:
                self._known.clear()
            score = float(self._computed(shape, np.array([row], np.int64))[0])
            self._known[key] = score
        return score

    def _computed(self, shape: Shape, rows: Ints) -> Floats:
        pool = self.pool
        free, memory, cpu = pool.free[rows], pool.memory[rows], pool.cpu[rows]
        allowed = self._allowed[rows]
        fits = (
            pool.layout.allowed(shape)[rows]
            & (memory >= shape.memory_bytes)
            & (cpu >= shape.cpu_millicores)
        )
        if shape.gpus and shape.milli == WHOLE:
            fits &= (free == WHOLE).sum(axis=1) >= shape.gpus
        elif shape.gpus:
            fits &= (free >= pool.layout.share(shape)[rows, None]).any(axis=1)
        scores = np.full(len(rows), np.inf)
        if not fits.any():
            return scores
        free, memory, cpu, allowed = free[fits], memory[fits], cpu[fits], allowed[fits]
        left_memory, left_cpu = memory - shape.memory_bytes, cpu - shape.cpu_millicores
        before = self.usual.fragmented(free, memory, cpu, allowed)
        if shape.gpus == 0 or shape.milli == WHOLE:
            after_free = _without(free, shape.gpus)
            after = self.usual.fragmented(after_free, left_memory, left_cpu, allowed)
        else:
            share = pool.layout.share(shape)[rows][fits]
            after = self._after_share(share, free, left_memory, left_cpu, allowed).min(axis=1)
            after_free = free
        score = (after - before) / WHOLE
        if not self.usual.sees_memory:
            score += LEFT_WEIGHT * (
                after_free.sum(axis=1) / WHOLE
                + left_memory / (1 + pool.layout.memory[rows][fits])
                + left_cpu / (1 + pool.layout.cpu[rows][fits]) / 16
            )
        if shape.gpus == 0:
            score += GPU_NODE_WEIGHT * (pool.layout.gpu_count[rows][fits] > 0)
        elif self._link_domains and shape.gpus > 1:
            score += LINK_WEIGHT * np.array(
                [not self._in_one_domain(int(row), shape.gpus) for row in rows[fits]]
            )
        # Rows that are alike shall not differ by how floats were rounded.
        scores[fits] = np.round(score, 9)
        return scores

    def _after_share(
        self, share: Ints, free: Ints, memory: Ints, cpu: Ints, allowed: Bools
    ) -> Floats:
        """Fragmentation after a share (so much on each row) was taken of each GPU; infinite for
        one that has less."""
        rows, width = free.shape
        each = np.repeat(free, width, axis=0).reshape(rows, width, width)
        diagonal = np.arange(width)
        each[:, diagonal, diagonal] -= share[:, None]
        after: Ints = np.maximum(each, 0).reshape(rows * width, width)
        result = self.usual.fragmented(
            after,
            np.repeat(memory, width),
            np.repeat(cpu, width),
            np.repeat(allowed, width, axis=0),
        ).reshape(rows, width)
        return np.where(free >= share[:, None], result, np.inf)

    def kind(self, row: int) -> int:
        """Rows of one kind differ in nothing but what is free."""
        return self._kinds[row]

    def grant_on(self, row: int, shape: Shape) -> Grant:
        """One part of a shape on a row where it fits."""
        milli = self.pool.layout.milli(row, shape) if shape.gpus else WHOLE
        gpus = self._gpus(row, shape)
        return Grant(row, gpus, milli, shape.memory_bytes, shape.cpu_millicores)

    def _gpus(self, row: int, shape: Shape) -> tuple[int, ...]:
        if shape.gpus == 0:
            return ()
        pool = self.pool
        if shape.milli < WHOLE:
            rows = np.array([row], np.int64)
            after = self._after_share(
                pool.layout.share(shape)[rows],
                pool.free[rows],
                pool.memory[rows] - shape.memory_bytes,
                pool.cpu[rows] - shape.cpu_millicores,
                self._allowed[rows],
            )[0]
            # Of GPUs that are alike by the measure, the fullest that holds it.
            return (int(np.lexsort((pool.free[row], after))[0]),)
        full = np.flatnonzero(pool.free[row] == WHOLE)
        if shape.gpus == 1 or len(full) == shape.gpus:
            return tuple(full[: shape.gpus].tolist())
        return self._near(row, full.tolist(), shape.gpus)

    def _near(self, row: int, full: list[int], count: int) -> tuple[int, ...]:
        """GPUs of one link domain, of the smallest that has enough free; else the run of
        neighbours with the smallest spread, for neighbours share a link on the boards we know."""
        links = self.pool.layout.groups[row].links
        domains: dict[str, list[int]] = {}
        for gpu in full:
            if links and links[gpu]:
                domains.setdefault(links[gpu], []).append(gpu)
        enough = [gpus for gpus in domains.values() if len(gpus) >= count]
        if enough:
            full = min(enough, key=lambda gpus: (len(gpus), gpus[0]))
        ends = np.array(full)
        start = int((ends[count - 1 :] - ends[: len(ends) - count + 1]).argmin())
        return tuple(full[start : start + count])

    def _in_one_domain(self, row: int, count: int) -> bool:
        links = self.pool.layout.groups[row].links
        free = [links[gpu] for gpu in np.flatnonzero(self.pool.free[row] == WHOLE) if links[gpu]]
        return any(free.count(link) >= count for link in set(free))


def _without(free: Ints, count: int) -> Ints:
    """The free thousandths after the first ``count`` wholly free GPUs of each row went."""
    if count == 0:
        return free
    whole = free == WHOLE
    return np.where(whole & (whole.cumsum(axis=1) <= count), 0, free)
