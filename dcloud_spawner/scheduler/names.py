"""Between the names of nodes and accelerators, and the rows and positions of a pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dcloud_spawner.scheduler.pool import Grant, Group, Layout, Pool
from dcloud_spawner.scheduler.snapshot import (
    WHOLE,
    Accelerator,
    Holding,
    Node,
    Placement,
    Snapshot,
)


class PoolNames:
    """The layout of a pool made from what exists, and the way back to its names."""

    def __init__(
        self, nodes: Mapping[str, Node], accelerators: Iterable[Accelerator], *, ideal: bool = False
    ) -> None:
        """``ideal`` counts what is drained or out of order as there: it may come back."""
        working = sorted(
            (node for node in nodes.values() if ideal or not node.drained),
            key=lambda node: node.name,
        )
        position = {node.name: index for index, node in enumerate(working)}
        groups: dict[tuple[int, str, int], dict[str, list[Accelerator]]] = {}
        for found in accelerators:
            if found.node in position and (ideal or found.offered):
                slot = found.milli if found.parent else 0
                key = (position[found.node], found.model, slot)
                gpus = groups.setdefault(key, {})
                gpus.setdefault(found.parent or found.uuid, []).append(found)
        for index in set(range(len(working))) - {node for node, _, _ in groups}:
            groups[index, "", 0] = {}
        self._slots: dict[tuple[int, int], tuple[str, ...]] = {}
        """Names of the accelerators on each GPU: itself when it is given out whole."""
        self._where: dict[str, tuple[int, int]] = {}
        self._milli: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        rows: list[Group] = []
        for row, key in enumerate(sorted(groups)):
            gpus = groups[key]
            # Instances of one MIG GPU share an index: the UUID makes the order certain.
            names = sorted(gpus, key=lambda name: (gpus[name][0].index, name))
            for gpu, name in enumerate(names):
                slots = sorted(gpus[name], key=lambda slot: slot.uuid)
                self._slots[row, gpu] = tuple(slot.uuid for slot in slots)
                for each in slots:
                    self._where[each.uuid] = (row, gpu)
                    self._milli[each.uuid] = each.milli
            links = tuple(gpus[name][0].link_domain for name in names)
            node, model, slot = key
            sizes = tuple(slot * len(gpus[name]) for name in names) if slot else ()
            rows.append(Group(node, model, slot > 0, tuple(names), links, slot, sizes))
            self._rows.setdefault(working[node].name, row)
        self.layout = Layout(working, rows)
        self._taken: set[str] = set()

    def grants(self, holding: Holding) -> tuple[Grant, ...]:
        """What a holding takes of the rows; nothing of a node that takes no work, for what it
        gives back there is nobody's."""
        row = self._rows.get(holding.node)
        if row is None:
            return ()
        self._taken.update(holding.accelerators)
        grants = [Grant(row, (), WHOLE, holding.memory_bytes, holding.cpu_millicores)]
        whole: dict[int, list[int]] = {}
        for uuid in holding.accelerators:
            where = self._where.get(uuid)
            if where is None:
                continue  # out of order or drained: it is on no row
            if self._milli[uuid] == WHOLE:
                whole.setdefault(where[0], []).append(where[1])
            else:
                grants.append(Grant(where[0], (where[1],), self._milli[uuid], 0, 0))
        grants += [Grant(row, tuple(gpus), WHOLE, 0, 0) for row, gpus in whole.items()]
        return tuple(grants)

    def placement(self, grant: Grant) -> Placement:
        """The names of what was granted; of a shared GPU, a slot that nobody holds."""
        uuids = []
        for gpu in grant.gpus:
            slots = self._slots[grant.row, gpu]
            uuid = next(slot for slot in slots if slot not in self._taken)
            self._taken.add(uuid)
            uuids.append(uuid)
        return Placement(self.layout.nodes[self.layout.groups[grant.row].node].name, tuple(uuids))


def empty_pool(
    nodes: Mapping[str, Node], accelerators: Iterable[Accelerator], *, ideal: bool = False
) -> Pool:
    """Everything there is, free."""
    return Pool(PoolNames(nodes, accelerators, ideal=ideal).layout)


def free_pool(snapshot: Snapshot) -> Pool:
    """What is free at the time of a snapshot."""
    names = PoolNames(snapshot.nodes, snapshot.accelerators.values())
    pool = Pool(names.layout)
    for holding in snapshot.holdings:
        for grant in names.grants(holding):
            pool.take(grant)
    return pool
