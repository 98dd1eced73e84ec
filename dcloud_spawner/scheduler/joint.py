"""Whether units of several kinds fit into what is free together. Exact, in plain integers.

Each node can take some mixes of units; a mix is kept when no other mix of that node has at least
as much of every kind. What a set of nodes can take is the sum of one mix of each: node by node
the sums are collected that nothing beats.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dcloud_spawner.scheduler.snapshot import WHOLE, Shape

Mix = tuple[int, ...]
"""Units of each kind."""

MOST_SUMS = 2000
"""Beyond so many the largest are followed; the answer may then be no where yes was right."""

MOST_KNOWN = 20_000
"""So many states of a node, and so many answers, are remembered for the same units."""

MOST_TOGETHER = 256
"""For so many sets of units."""

FEW_NODES = 64
"""Of more nodes the first ones are mostly enough: looking at them is quicker than remembering."""


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
    """Units of some kinds, never more than ``most`` of each. Nodes are told apart by what they can
    take: each such list of mixes has a number."""

    def __init__(self, kinds: Sequence[Kind], most: Sequence[int]) -> None:
        self._kinds = tuple(kinds)
        self._most = tuple(most)
        self._number_of_node: dict[RoomOfNode, int] = {}
        self._number_of_mixes: dict[tuple[Mix, ...], int] = {}
        self._mixes: list[tuple[Mix, ...]] = []
        self._known: dict[tuple[tuple[int, ...], Mix], bool] = {}

    @property
    def is_full(self) -> bool:
        """Whether it remembers so much that another one shall begin."""
        return len(self._number_of_node) > MOST_KNOWN

    def number(self, node: RoomOfNode) -> int:
        """The number of what a node can take."""
        found = self._number_of_node.get(node)
        if found is None:
            mixes = tuple(sorted(_unbeaten(set(self._possible(node, 0, ())))))
            with _numbering:
                found = self._number_of_mixes.get(mixes)
                if found is None:
                    found = len(self._mixes)
                    self._mixes.append(mixes)
                    self._number_of_mixes[mixes] = found
            self._number_of_node[node] = found
        return found

    def fit(self, nodes: Iterable[RoomOfNode], wanted: Sequence[int]) -> bool:
        """Whether so many units of each kind fit."""
        return self.fits([self.number(node) for node in nodes], wanted)

    def fits(self, numbers: Sequence[int], wanted: Sequence[int]) -> bool:
        """The same for nodes of these numbers."""
        if len(numbers) > FEW_NODES:
            return self.first_enough(numbers, wanted) is not None
        key = (tuple(sorted(numbers)), tuple(wanted))
        found = self._known.get(key)
        if found is None:
            if len(self._known) > MOST_KNOWN:
                self._known.clear()
            found = self.first_enough(numbers, wanted) is not None
            self._known[key] = found
        return found

    def first_enough(self, numbers: Sequence[int], wanted: Sequence[int]) -> int | None:
        """How many of the nodes, from the first on, are enough for so many units (not always the
        least number that is); None when all are not."""
        goal = left = tuple(wanted)
        if not any(goal):
            return 0
        # Mostly there is room however it is laid: each node takes the most of what is left.
        for count, number in enumerate(numbers, start=1):
            left = _less(left, self._mixes[number])
            if not any(left):
                return count
        return self._first_enough([self._mixes[number] for number in numbers], goal)

    def _first_enough(self, of_nodes: Sequence[Sequence[Mix]], goal: Mix) -> int | None:
        """The same by trying every way that may still lead there."""
        behind = _most_from(of_nodes, len(goal))
        if any(map(int.__lt__, behind[0], (*goal, sum(goal)))):
            return None
        reached: set[Mix] = {(0,) * len(goal)}
        for number, mixes in enumerate(of_nodes, start=1):
            if len(mixes) == 1 and not any(mixes[0]):
                continue
            reached = {
                tuple(map(min, map(sum, zip(before, more, strict=True)), goal))
                for before in reached
                for more in mixes
            }
            if goal in reached:
                return number
            *each, most = behind[number]
            least, total = tuple(map(int.__sub__, goal, each)), sum(goal) - most
            reached = _unbeaten(
                {mix for mix in reached if sum(mix) >= total and all(map(int.__ge__, mix, least))}
            )
        return None

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


def together(kinds: tuple[Kind, ...], most: tuple[int, ...]) -> Together:
    """The same for the same units: a forecast asks about them in each of its passes."""
    found = _together.get((kinds, most))
    if found is None or found.is_full:
        if len(_together) >= MOST_TOGETHER:
            _together.clear()
        found = _together[kinds, most] = Together(kinds, most)
    return found


_together: dict[tuple[tuple[Kind, ...], tuple[int, ...]], Together] = {}
_numbering = threading.Lock()


def _less(left: Mix, mixes: Sequence[Mix]) -> Mix:
    """What is left of units after the mix that takes the most of them."""
    best, most = left, 0
    for mix in mixes:
        taken = tuple(map(min, left, mix))
        if (count := sum(taken)) > most:
            best, most = tuple(map(int.__sub__, left, taken)), count
    return best


def _most_from(of_nodes: Sequence[Sequence[Mix]], kinds: int) -> list[Mix]:
    """The most of each kind, and of all together, on all nodes from each one on."""
    found = [(0,) * (kinds + 1)]
    for mixes in reversed(of_nodes):
        here = (*map(max, zip(*mixes, strict=True)), max(map(sum, mixes)))
        found.append(tuple(map(int.__add__, found[-1], here)))
    return found[::-1]


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
