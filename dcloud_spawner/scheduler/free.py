"""What is free on each node, in plain words: for pages, reasons and checks of one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dcloud_spawner.scheduler.snapshot import WHOLE, Accelerator, Shape, Snapshot


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
