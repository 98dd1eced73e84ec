"""Which node and which accelerators. Packs: the node where the least stays free is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    best = min(_options(free, request), key=lambda option: option.rank, default=None)
    return best.placement(request.gpus) if best else None


def placements(free: Mapping[str, FreeNode], request: Request) -> list[Placement]:
    """Every placement that makes a difference to others, the best first: one for each node and
    model. Which accelerators of one model it takes decides for nobody whether they fit."""
    options = sorted(_options(free, request), key=lambda option: option.rank)
    return [option.placement(request.gpus) for option in options]


@dataclass(frozen=True, slots=True)
class _Option:
    rank: tuple[int, int, int, str, int, str]
    node: str
    group: list[Accelerator]
    """Free accelerators of one model, at least as many as asked for."""

    def placement(self, count: int) -> Placement:
        if count == 0:
            return Placement(self.node, ())
        # Instances of one MIG GPU share an index: the UUID makes the order certain.
        group = sorted(self.group, key=lambda found: (found.index, found.uuid))
        return Placement(self.node, tuple(found.uuid for found in _most_adjacent(group, count)))


def _options(free: Mapping[str, FreeNode], request: Request) -> Iterator[_Option]:
    for node in free.values():
        if node.cpu_millicores < request.cpu_millicores or node.memory_bytes < request.memory_bytes:
            continue
        left = len(node.accelerators) - request.gpus
        for model, group in _groups(candidates(node, request), request.gpus).items():
            rank = (left, node.memory_bytes, node.cpu_millicores, node.name, len(group), model)
            yield _Option(rank, node.name, group)


def _groups(free: list[Accelerator], count: int) -> dict[str, list[Accelerator]]:
    """Free accelerators by model, where one model has enough of them."""
    if count == 0:
        return {"": []}
    by_model: dict[str, list[Accelerator]] = {}
    for accelerator in free:
        by_model.setdefault(accelerator.model, []).append(accelerator)
    return {model: group for model, group in by_model.items() if len(group) >= count}


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
