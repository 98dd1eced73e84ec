"""What is free on each node, in plain words: for pages, reasons and checks of one node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dcloud_spawner.scheduler.snapshot import WHOLE, Accelerator, Shape, Snapshot

MOST_OPENINGS = 100
"""So many kinds of room are told to a page; who fits only into another one reads "waits"."""


class Asks(Protocol):
    """What decides where something that nobody has asked for yet would fit, on one node."""

    @property
    def gpus(self) -> int: ...
    @property
    def gpu_model(self) -> str | None: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def cpu_millicores(self) -> int: ...


@dataclass(slots=True)
class FreeNode:
    """What one node has free."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    labels: frozenset[str] = frozenset()
    accelerators: dict[str, Accelerator] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Whole GPUs (or instances) free by model; slots of shared GPUs are not among them."""

    def count(self, model: str | None = None) -> int:
        """The most whole GPUs of one model that one request can get here."""
        if model is not None:
            return self.counts.get(model, 0)
        return max(self.counts.values(), default=0)

    def fits(self, shape: Shape) -> bool:
        """Whether one part of a shape fits here."""
        return (
            self.cpu_millicores >= shape.cpu_millicores
            and self.memory_bytes >= shape.memory_bytes
            and shape.labels <= self.labels
            and (shape.gpus == 0 or self._has(shape))
        )

    def holds(self, wish: Asks) -> bool:
        """Whether a wish for whole GPUs of one model fits here now."""
        return self.fits(
            Shape(
                wish.gpus,
                WHOLE,
                wish.gpu_model,
                wish.memory_bytes,
                wish.cpu_millicores,
                1,
                frozenset(),
            )
        )

    def covers(self, other: FreeNode) -> bool:
        """Whether every wish that fits on the other one fits here."""
        return (
            self.memory_bytes >= other.memory_bytes
            and self.cpu_millicores >= other.cpu_millicores
            and all(self.counts.get(model, 0) >= count for model, count in other.counts.items())
        )

    def _has(self, shape: Shape) -> bool:
        if shape.milli == WHOLE:
            return self.count(shape.model) >= shape.gpus
        return any(
            found.milli >= shape.milli and shape.model in (None, found.model)
            for found in self.accelerators.values()
            if found.parent
        )


def free_now(snapshot: Snapshot) -> dict[str, FreeNode]:
    """What every node that takes work has free at the time of a snapshot."""
    free = {
        node.name: FreeNode(node.name, node.cpu_millicores, node.memory_bytes, node.labels)
        for node in snapshot.nodes.values()
        if not node.drained
    }
    held = {uuid for holding in snapshot.holdings for uuid in holding.accelerators}
    for holding in snapshot.holdings:
        node = free.get(holding.node)
        if node is not None:
            node.cpu_millicores -= holding.cpu_millicores
            node.memory_bytes -= holding.memory_bytes
    for uuid, found in snapshot.accelerators.items():
        if found.offered and found.node in free and uuid not in held:
            node = free[found.node]
            node.accelerators[uuid] = found
            if not found.parent:
                node.counts[found.model] = node.counts.get(found.model, 0) + 1
    return free


def fits(free: Mapping[str, FreeNode], shape: Shape) -> bool:
    """Whether all parts of a shape fit, each on a node of its own."""
    found = 0
    for node in free.values():
        found += node.fits(shape)
        if found >= shape.parts:
            return True
    return False


def openings(nodes: Iterable[FreeNode]) -> tuple[FreeNode, ...]:
    """The kinds of room: nodes whose free resources no other node has too. A wish fits
    somewhere exactly when it fits into one of these."""
    kept: list[FreeNode] = []
    for node in sorted(nodes, key=_size, reverse=True):
        if len(kept) == MOST_OPENINGS:
            break
        if not any(other.covers(node) for other in kept):
            kept.append(node)
    return tuple(kept)


def _size(node: FreeNode) -> tuple[int, int, int, str]:
    return (sum(node.counts.values()), node.memory_bytes, node.cpu_millicores, node.name)
