"""Whether units of several kinds fit into what is free together. Exact, in plain integers.

Each node can take some mixes of units; a mix is kept when no other mix of that node has at least
as much of every kind. What a set of nodes can take is the sum of one mix of each: node by node
the sums are collected that nothing beats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dcloud_spawner.scheduler.snapshot import WHOLE, Shape

Mix = tuple[int, ...]
"""Units of each kind."""

MOST_SUMS = 2000
"""Beyond so many the largest are followed; the answer may then be no where yes was right."""


class Kind(NamedTuple):
    """Units of one shape; ``spread`` allows one on each node."""

    unit: Shape
    spread: bool


class RoomOfRow(NamedTuple):
    """What like GPUs of a node have free."""

    allowed: tuple[bool, ...]
    """For each kind."""
    full: int
    """GPUs that are wholly free."""
    shares: tuple[int, ...]
    """How many units of each kind fit that are shares."""


class RoomOfNode(NamedTuple):
    """What a node has free."""

    rows: tuple[RoomOfRow, ...]
    memory_bytes: int
    cpu_millicores: int


class Together:
    """Units of some kinds, never more than ``most`` of each."""

    def __init__(self, kinds: Sequence[Kind], most: Sequence[int]) -> None:
        self._kinds = tuple(kinds)
        self._most = tuple(most)
        self._mixes: dict[RoomOfNode, tuple[Mix, ...]] = {}

    def fit(self, nodes: Iterable[RoomOfNode], wanted: Sequence[int]) -> bool:
        """Whether so many units of each kind fit."""
        return self.first_enough(nodes, wanted) is not None

    def first_enough(self, nodes: Iterable[RoomOfNode], wanted: Sequence[int]) -> int | None:
        """How many of the nodes, from the first on, are enough for so many units; None when all
        are not."""
        goal = tuple(wanted)
        reached: set[Mix] = {(0,) * len(goal)}
        if goal in reached:
            return 0
        for number, node in enumerate(nodes, start=1):
            mixes = self._mixes_of(node)
            if len(mixes) == 1 and not any(mixes[0]):
                continue
            reached = {
                tuple(map(min, map(sum, zip(before, more, strict=True)), goal))
                for before in reached
                for more in mixes
            }
            if goal in reached:
                return number
            reached = _unbeaten(reached)
        return None

    def _mixes_of(self, node: RoomOfNode) -> tuple[Mix, ...]:
        if node not in self._mixes:
            self._mixes[node] = tuple(sorted(_unbeaten(set(self._possible(node, 0, ())))))
        return self._mixes[node]

    def _possible(self, node: RoomOfNode, kind: int, counts: Mix) -> Iterator[Mix]:
        """Every mix that fits on a node, from one kind on."""
        if kind == len(self._kinds):
            yield counts
            return
        unit, spread = self._kinds[kind]
        most = 1 if spread else self._most[kind]
        rows = [row for row in range(len(node.rows)) if node.rows[row].allowed[kind]]
        for taken, left in _ways(node, kind, unit, rows, most):
            yield from self._possible(left, kind + 1, (*counts, taken))


def _ways(
    node: RoomOfNode, kind: int, unit: Shape, rows: Sequence[int], most: int
) -> Iterator[tuple[int, RoomOfNode]]:
    """Numbers of units on these rows of a node, and what is left then."""
    if not rows or not most:
        yield 0, node
        return
    row, others = rows[0], rows[1:]
    found = node.rows[row]
    for count in range(min(most, _units(node, found, kind, unit)) + 1):
        shares = list(found.shares)
        shares[kind] -= count if unit.milli < WHOLE else 0
        full = found.full - (count * unit.gpus if unit.milli == WHOLE else 0)
        left = RoomOfNode(
            (
                *node.rows[:row],
                RoomOfRow(found.allowed, full, tuple(shares)),
                *node.rows[row + 1 :],
            ),
            node.memory_bytes - count * unit.memory_bytes,
            node.cpu_millicores - count * unit.cpu_millicores,
        )
        for more, rest in _ways(left, kind, unit, others, most - count):
            yield count + more, rest


def _units(node: RoomOfNode, row: RoomOfRow, kind: int, unit: Shape) -> int:
    if node.memory_bytes < unit.memory_bytes or node.cpu_millicores < unit.cpu_millicores:
        return 0
    limits = [1 << 20]
    if unit.gpus:
        limits.append(row.shares[kind] if unit.milli < WHOLE else row.full // unit.gpus)
    if unit.memory_bytes:
        limits.append(node.memory_bytes // unit.memory_bytes)
    if unit.cpu_millicores:
        limits.append(node.cpu_millicores // unit.cpu_millicores)
    return max(0, min(limits))


def _unbeaten(mixes: set[Mix]) -> set[Mix]:
    """Those that no other one equals or beats in every kind."""
    kept: list[Mix] = []
    for mix in sorted(mixes, key=lambda mix: (-sum(mix), mix)):
        if not any(all(map(int.__ge__, other, mix)) for other in kept):
            kept.append(mix)
            if len(kept) == MOST_SUMS:
                break
    return set(kept)
