"""Which node and which GPUs: where the least is fragmented.

The measure is in ``usual``: the part of a node's free GPUs that a request drawn from the usual
ones could not use there. A request goes where this grows least. Ties, and what the measure does
not see, are decided by what stays free (least first), so that big holes stay whole; CPU-only work
goes to nodes without GPUs where it can, and several GPUs come from one link domain where they can.
"""

from __future__ import annotations

import numpy as np

from dcloud_spawner.scheduler.pool import Bools, Grant, Ints, Pool
from dcloud_spawner.scheduler.snapshot import WHOLE, Shape
from dcloud_spawner.scheduler.usual import Floats, Usual

LEFT_WEIGHT = 1e-4
"""Decides where the measure does not see what requests need besides GPUs. Where it does, equal
rows are taken in their order, which keeps the last ones empty."""
LINK_WEIGHT = 1e-2
GPU_NODE_WEIGHT = 1e6
SMALL = 16
"""Up to so many rows the scores are looked up one by one."""


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

        self._kind_array: Ints = np.array(self._kinds, np.int64)
        self._by_count = self._fragmented_by_count() if self._counts_whole() else None
        self._counted: list[list[float]] = (
            self._by_count.tolist() if self._by_count is not None else []
        )

    def _counts_whole(self) -> bool:
        layout = self.pool.layout
        shared = layout.whole_may_share or any(group.shared for group in layout.groups)
        return self.usual.counts_whole and not shared

    def _fragmented_by_count(self) -> Floats:
        """The measure for each kind of row, by how many of its GPUs are free."""
        kinds, first = np.unique(self._kind_array, return_index=True)
        counts = np.arange(self.pool.layout.width + 1)
        free = np.where(counts[:, None] > counts[None, :-1], WHOLE, 0)
        nothing = np.zeros(len(counts), np.int64)
        table = np.empty((len(kinds), len(counts)))
        for kind, row in zip(kinds, first, strict=True):
            allowed = np.repeat(self._allowed[[row]], len(counts), axis=0)
            table[kind] = self.usual.fragmented(free, nothing, nothing, allowed)
        return table

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
            found.values[:] = self._computed(shape, np.arange(len(self.pool.full)))
            self._scores[shape] = found
        elif found.read < len(changes):
            self._renew(found, shape, set(changes[found.read :]))
            found.read = len(changes)
        return found.values

    def _renew(self, scores: _Scores, shape: Shape, changed: set[int]) -> None:
        if len(changed) > SMALL:
            rows = np.array(sorted(changed), np.int64)
            scores.values[rows] = self._computed(shape, rows)
            return
        one = self._remembered if self._by_count is None else self._of_counts
        for row in changed:
            scores.values[row] = one(shape, row)

    def _of_counts(self, shape: Shape, row: int) -> float:
        """The same as ``_computed`` for one row, to the last bit, in plain numbers."""
        pool, layout = self.pool, self.pool.layout
        full, gpus = pool.full.item(row), shape.gpus
        left_memory = pool.memory.item(row) - shape.memory_bytes
        left_cpu = pool.cpu.item(row) - shape.cpu_millicores
        if (
            full < gpus
            or left_memory < 0
            or left_cpu < 0
            or not layout.allowed(shape).item(row)
            or shape.milli < WHOLE
        ):
            return np.inf
        left, counted = full - gpus, self._counted[self._kinds[row]]
        score = (counted[left] - counted[full]) / WHOLE
        score += LEFT_WEIGHT * (
            left
            + left_memory / (1 + layout.memory.item(row))
            + left_cpu / (1 + layout.cpu.item(row)) / 16
        )
        if gpus == 0:
            score += GPU_NODE_WEIGHT * (layout.gpu_count.item(row) > 0)
        elif self._link_domains and gpus > 1:
            score += LINK_WEIGHT * (not self._in_one_domain(row, gpus))
        return round(score * 1e9) / 1e9

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
        pool, layout = self.pool, self.pool.layout
        memory, cpu = pool.memory[rows], pool.cpu[rows]
        fits = (
            layout.allowed(shape)[rows]
            & (memory >= shape.memory_bytes)
            & (cpu >= shape.cpu_millicores)
        )
        if shape.gpus and shape.milli == WHOLE:
            fits &= pool.full[rows] >= shape.gpus
        elif shape.gpus:
            fits &= (pool.free[rows] >= layout.share(shape)[rows, None]).any(axis=1)
        scores = np.full(len(rows), np.inf)
        if not fits.any():
            return scores
        rows, memory, cpu = rows[fits], memory[fits], cpu[fits]
        left_memory, left_cpu = memory - shape.memory_bytes, cpu - shape.cpu_millicores
        if self._by_count is not None:
            full, kinds = pool.full[rows], self._kind_array[rows]
            left: Ints = full - shape.gpus
            left_free = left.astype(float)
            score = (self._by_count[kinds, left] - self._by_count[kinds, full]) / WHOLE
        else:
            before, after, left_free = self._before_and_after(shape, rows, left_memory, left_cpu)
            score = (after - before) / WHOLE
        if not self.usual.sees_memory:
            score += LEFT_WEIGHT * (
                left_free
                + left_memory / (1 + layout.memory[rows])
                + left_cpu / (1 + layout.cpu[rows]) / 16
            )
        if shape.gpus == 0:
            score += GPU_NODE_WEIGHT * (layout.gpu_count[rows] > 0)
        elif self._link_domains and shape.gpus > 1:
            score += LINK_WEIGHT * np.array(
                [not self._in_one_domain(int(row), shape.gpus) for row in rows]
            )
        # Rows that are alike shall not differ by how floats were rounded.
        scores[fits] = np.round(score, 9)
        return scores

    def _before_and_after(
        self, shape: Shape, rows: Ints, left_memory: Ints, left_cpu: Ints
    ) -> tuple[Floats, Floats, Floats]:
        """The measure on rows without a shape and with it, and the GPUs left free."""
        pool, allowed = self.pool, self._allowed[rows]
        free: Ints = pool.free[rows]
        before = self.usual.fragmented(free, pool.memory[rows], pool.cpu[rows], allowed)
        if shape.gpus == 0 or shape.milli == WHOLE:
            free = np.asarray(_without(free, shape.gpus), np.int64)
            after = self.usual.fragmented(free, left_memory, left_cpu, allowed)
        else:
            share = pool.layout.share(shape)[rows]
            after = self._after_share(share, free, left_memory, left_cpu, allowed).min(axis=1)
        return before, after, np.asarray(free.sum(axis=1) / WHOLE)

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
