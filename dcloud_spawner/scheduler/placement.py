"""Which node and which accelerators. Packs: the node where the least stays free is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dcloud_spawner.scheduler.snapshot import Accelerator, Node, Placement, Request


@dataclass(slots=True)
class FreeNode:
    """What one node has free at some time; changed while a plan is made."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    accelerators: dict[str, Accelerator] = field(default_factory=dict)

    def copy(self) -> FreeNode:
        """An independent copy."""
        return FreeNode(self.name, self.cpu_millicores, self.memory_bytes, dict(self.accelerators))

    def take(self, request: Request, accelerators: Iterable[str]) -> None:
        """Hand out what a request takes."""
        self.cpu_millicores -= request.cpu_millicores
        self.memory_bytes -= request.memory_bytes
        for uuid in accelerators:
            del self.accelerators[uuid]


def candidates(free: FreeNode, request: Request) -> list[Accelerator]:
    """Free accelerators of this node that the request may have."""
    return [
        accelerator
        for accelerator in free.accelerators.values()
        if request.gpu_model is None or accelerator.model == request.gpu_model
    ]


def place(free: Mapping[str, FreeNode], request: Request) -> Placement | None:
    """The best placement now, or None. All accelerators come from one node and, when several,
    are of one model; the fullest node that fits is taken, so that big holes stay whole."""
    best: tuple[tuple[int, int, int, str], Placement] | None = None
    for node in free.values():
        if node.cpu_millicores < request.cpu_millicores or node.memory_bytes < request.memory_bytes:
            continue
        chosen = _choose(candidates(node, request), request.gpus)
        if chosen is None:
            continue
        key = (
            len(node.accelerators) - request.gpus,
            node.memory_bytes,
            node.cpu_millicores,
            node.name,
        )
        if best is None or key < best[0]:
            best = (key, Placement(node.name, chosen))
    return best[1] if best else None


def _choose(free: list[Accelerator], count: int) -> tuple[str, ...] | None:
    if count == 0:
        return ()
    by_model: dict[str, list[Accelerator]] = {}
    for accelerator in free:
        by_model.setdefault(accelerator.model, []).append(accelerator)
    fitting = [group for group in by_model.values() if len(group) >= count]
    if not fitting:
        return None
    group = min(fitting, key=lambda found: (len(found), found[0].model))
    group.sort(key=lambda accelerator: accelerator.index)
    return tuple(accelerator.uuid for accelerator in _most_adjacent(group, count))


def _most_adjacent(group: list[Accelerator], count: int) -> list[Accelerator]:
    """The run of neighbouring indices with the smallest spread: neighbours share a link on the
    boards we know, and the rest stays in one piece."""
    runs = (group[start : start + count] for start in range(len(group) - count + 1))
    return min(runs, key=lambda run: (run[-1].index - run[0].index, run[0].index))


def empty_pool(
    nodes: Mapping[str, Node], accelerators: Mapping[str, Accelerator]
) -> dict[str, FreeNode]:
    """Every node with everything it has that may be offered at all."""
    free = {
        node.name: FreeNode(node.name, node.cpu_millicores, node.memory_bytes)
        for node in nodes.values()
        if not node.drained
    }
    for accelerator in accelerators.values():
        if accelerator.offered and accelerator.node in free:
            free[accelerator.node].accelerators[accelerator.uuid] = accelerator
    return free
