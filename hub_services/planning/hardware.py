"""The hardware of a what-if: as it is, and with something more or less. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.scheduler.snapshot import Accelerator, Node

MOST = 100_000
"""GPUs and nodes of a pool that is typed in; a mistyped number shall not fill the memory."""


@dataclass(frozen=True)
class Hardware:
    """Nodes as the scheduler may use them, and the accelerators on them."""

    nodes: tuple[Node, ...]
    accelerators: tuple[Accelerator, ...]

    @property
    def gpus_on_a_node(self) -> int:
        """The most that one node has."""
        return max(self.count_by_node().values(), default=0)

    def count_by_node(self, model: str | None = None) -> Counter[str]:
        """Accelerators of each node, of one model or of all; nodes with none are not in it."""
        return Counter(
            each.node for each in self.accelerators if model is None or each.model == model
        )

    def models(self) -> Counter[str]:
        """How many there are of each model."""
        return Counter(each.model for each in self.accelerators)


@dataclass(frozen=True)
class Change:
    """More or less of something."""

    gpus: int = 0
    model: str = ""
    """Which GPUs; a part of the name suffices. Empty: what there is most of."""
    nodes: int = 0


def apply(hardware: Hardware, change: Change) -> tuple[Hardware, tuple[str, ...]]:
    """The changed hardware, and a sentence for each thing that was assumed.

    GPUs come into the nodes that have such already, those with the fewest first; their memory
    and cores stay as they are. New nodes are like the one that has the most such GPUs; with
    ``gpus`` as well, these GPUs are what is in them. Raises InvalidChoice.
    """
    model = full_name(hardware, change.model)
    said: list[str] = []
    if change.nodes < 0:
        hardware = _without_nodes(hardware, -change.nodes, model if change.model else None, said)
    elif change.nodes > 0:
        bare = change.gpus > 0
        hardware, names = _with_nodes(hardware, change.nodes, model, bare, said)
        if bare:
            return _with_gpus(hardware, change.gpus, model, names, said), tuple(said)
    if change.gpus > 0:
        having = hardware.count_by_node(model)
        names = [name for name, _ in having.most_common()] or [_largest(hardware).name]
        hardware = _with_gpus(hardware, change.gpus, model, names, said)
    elif change.gpus < 0:
        hardware = _without_gpus(hardware, -change.gpus, model, said)
    return hardware, tuple(said)


def full_name(hardware: Hardware, part: str) -> str:
    """The model that a part of its name means; the part itself when there is no such GPU yet."""
    models = hardware.models()
    if not part:
        return models.most_common(1)[0][0] if models else "GPU"
    if part in models:
        return part
    found = sorted(model for model in models if part.casefold() in model.casefold())
    if len(found) > 1:
        raise InvalidChoice(
            f"{part!r} could be {' or '.join(found)}.", hint="Give the whole name.", field="model"
        )
    return found[0] if found else part


def typed_pool(text: str) -> Hardware:
    """Hardware from ``72x8`` or ``4x8:A100``: so many nodes with so many GPUs each, of which
    only the GPUs are scarce. Raises InvalidChoice."""
    match = re.fullmatch(r"(\d+)x(\d+)(?::(.{1,128}))?", text.strip())
    nodes, gpus = (int(match[1]), int(match[2])) if match else (0, 0)
    if match is None or not 0 < nodes * max(gpus, 1) <= MOST:
        raise InvalidChoice(
            f"pool: {text[:40]!r} is no pool.",
            hint="Write NODESxGPUS, for example 72x8, or 4x8:A100 with a model.",
            field="pool",
        )
    plenty = Node("", cpu_millicores=2**50, memory_bytes=2**60)
    made = [replace(plenty, name=f"node-{number:05}") for number in range(nodes)]
    model = match[3] or "GPU"
    return Hardware(
        tuple(made),
        tuple(
            Accelerator(f"{node.name}/{gpu}", node.name, gpu, model)
            for node in made
            for gpu in range(gpus)
        ),
    )


def _largest(hardware: Hardware) -> Node:
    return max(hardware.nodes, key=lambda node: (node.memory_bytes, node.name))


def _with_gpus(
    hardware: Hardware, count: int, model: str, names: Sequence[str], said: list[str]
) -> Hardware:
    """GPUs one after the other, each into that of the named nodes that has the fewest."""
    if len(hardware.accelerators) + count > MOST:
        raise InvalidChoice(f"gpus: {count} are too many.", hint="", field="gpus")
    before = hardware.count_by_node()
    now = Counter({name: before[name] for name in names})
    made = []
    for number in range(count):
        name = min(names, key=lambda name: (now[name], name))
        made.append(Accelerator(f"added-{number}", name, 1000 + number, model))
        now[name] += 1
    touched = sorted({each.node for each in made})
    each = ", ".join(f"{name} has {now[name]} instead of {before[name]}" for name in touched[:4])
    more = f", and {len(touched) - 4} more nodes" if len(touched) > 4 else ""
    said.append(f"{count} more {model}: {each}{more}. Memory and cores of nodes stay as they are.")
    return replace(hardware, accelerators=(*hardware.accelerators, *made))


def _without_gpus(hardware: Hardware, count: int, model: str, said: list[str]) -> Hardware:
    """GPUs one after the other, each out of the node that has the most of that model."""
    mine = [each for each in hardware.accelerators if each.model == model]
    if len(mine) < count:
        raise InvalidChoice(
            f"gpus: there are {len(mine)} {model}, not {count}.",
            hint="Take away at most what there is.",
            field="gpus",
        )
    counts = hardware.count_by_node(model)
    gone: set[str] = set()
    for _ in range(count):
        name = max(counts, key=lambda name: (counts[name], name))
        last = max(
            (each for each in mine if each.node == name and each.uuid not in gone),
            key=lambda each: (each.index, each.uuid),
        )
        gone.add(last.uuid)
        counts[name] -= 1
    said.append(f"{count} fewer {model}, each from the node that has the most of them.")
    left = tuple(each for each in hardware.accelerators if each.uuid not in gone)
    return replace(hardware, accelerators=left)


def _with_nodes(
    hardware: Hardware, count: int, model: str, bare: bool, said: list[str]
) -> tuple[Hardware, list[str]]:
    having = hardware.count_by_node(model)
    like = max(hardware.nodes, key=lambda node: (having[node.name], node.memory_bytes, node.name))
    inside = [each for each in hardware.accelerators if each.node == like.name]
    if count * max(len(inside), 1) > MOST:
        raise InvalidChoice(f"nodes: {count} are too many.", hint="", field="nodes")
    names = [f"added-{number:03}" for number in range(count)]
    copies = (
        ()
        if bare
        else tuple(
            replace(each, uuid=f"{name}/{each.uuid}", node=name, parent=_of(name, each.parent))
            for name in names
            for each in inside
        )
    )
    what = "memory and cores" if bare else f"memory, cores and {len(inside)} GPUs"
    said.append(f"{count} more nodes with the {what} of {like.name}.")
    nodes = (*hardware.nodes, *(replace(like, name=name) for name in names))
    return Hardware(nodes, (*hardware.accelerators, *copies)), names


def _of(node: str, parent: str) -> str:
    return f"{node}/{parent}" if parent else ""


def _without_nodes(hardware: Hardware, count: int, model: str | None, said: list[str]) -> Hardware:
    having = hardware.count_by_node(model)
    mine = [node.name for node in hardware.nodes if model is None or having[node.name]]
    if len(mine) < count or len(hardware.nodes) <= count:
        raise InvalidChoice(
            f"nodes: there are {len(mine)} such nodes, and one must be left.",
            hint="Take away fewer.",
            field="nodes",
        )
    gone = set(sorted(mine)[-count:])
    said.append(f"Without {', '.join(sorted(gone)[:5])}{', …' if count > 5 else ''}.")
    return Hardware(
        tuple(node for node in hardware.nodes if node.name not in gone),
        tuple(each for each in hardware.accelerators if each.node not in gone),
    )
