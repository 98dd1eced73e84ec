"""What is free where, and the kinds of room that there are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dcloud_spawner.scheduler.snapshot import Snapshot

MOST_OPENINGS = 100
"""So many kinds of room are told to a page; who fits only into another one reads "waits"."""


class Asks(Protocol):
    """What decides where something fits."""

    @property
    def gpus(self) -> int: ...
    @property
    def gpu_model(self) -> str | None: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def cpu_millicores(self) -> int: ...


@dataclass(frozen=True, slots=True)
class NodeFree:
    """What one node that takes work has free."""

    name: str
    gpus: Mapping[str, int]
    """Free GPUs by model."""
    memory_bytes: int
    cpu_millicores: int

    def holds(self, wish: Asks) -> bool:
        """Whether a wish fits here now, with GPUs of one model."""
        if self.memory_bytes < wish.memory_bytes or self.cpu_millicores < wish.cpu_millicores:
            return False
        if wish.gpus == 0:
            return True
        if wish.gpu_model is not None:
            return self.gpus.get(wish.gpu_model, 0) >= wish.gpus
        return max(self.gpus.values(), default=0) >= wish.gpus

    def covers(self, other: NodeFree) -> bool:
        """Whether everything that fits on the other one fits here."""
        return (
            self.memory_bytes >= other.memory_bytes
            and self.cpu_millicores >= other.cpu_millicores
            and all(self.gpus.get(model, 0) >= count for model, count in other.gpus.items())
        )


def free_of_nodes(snapshot: Snapshot) -> tuple[NodeFree, ...]:
    """What each node that takes work has free at the time of a snapshot."""
    held = {uuid for holding in snapshot.holdings for uuid in holding.accelerators}
    memory: Counter[str] = Counter()
    cores: Counter[str] = Counter()
    for holding in snapshot.holdings:
        memory[holding.node] += holding.memory_bytes
        cores[holding.node] += holding.cpu_millicores
    gpus: dict[str, Counter[str]] = {name: Counter() for name in snapshot.nodes}
    for uuid, found in snapshot.accelerators.items():
        if found.offered and uuid not in held and found.node in gpus:
            gpus[found.node][found.model] += 1
    return tuple(
        NodeFree(
            node.name,
            dict(gpus[node.name]),
            node.memory_bytes - memory[node.name],
            node.cpu_millicores - cores[node.name],
        )
        for node in snapshot.nodes.values()
        if not node.drained
    )


def openings(nodes: Sequence[NodeFree]) -> tuple[NodeFree, ...]:
    """The kinds of room: nodes whose free resources no other node has too. A wish fits
    somewhere exactly when it fits into one of these."""
    kept: list[NodeFree] = []
    for node in sorted(nodes, key=_size, reverse=True):
        if len(kept) == MOST_OPENINGS:
            break
        if not any(other.covers(node) for other in kept):
            kept.append(node)
    return tuple(kept)


def _size(node: NodeFree) -> tuple[int, int, int, str]:
    return (sum(node.gpus.values()), node.memory_bytes, node.cpu_millicores, node.name)
