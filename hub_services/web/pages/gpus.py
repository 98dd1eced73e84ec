"""What the page of nodes and GPUs shows to administrators. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dcloud_spawner.engines.base import Health
from dcloud_spawner.form.words import count_words, listed
from dcloud_spawner.live.availability import model_words
from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.scheduler.schedule import GIB, ends_at
from dcloud_spawner.store.nodes import AcceleratorRow, NodeRow
from dcloud_spawner.store.workloads import Workload
from hub_services.web.board import Board
from hub_services.web.viewer import Viewer

NODES_SHOWN = 64
"""More would be slow to draw and nobody would read them; the API reaches all."""


@dataclass(frozen=True)
class Tile:
    """One GPU."""

    uuid: str
    index: int
    model: str
    state: str
    """free, busy, draining (somebody is still on it), out (drained and empty), fault, or off
    (its node takes no work)."""
    who: str
    ends_at: datetime | None
    note: str
    drained: bool
    runs: str
    """Who runs there, in a sentence, for the question before it is drained."""


@dataclass(frozen=True)
class NodePart:
    """One node with its GPUs."""

    name: str
    about: str
    drained: bool
    note: str
    runs: str
    tiles: tuple[Tile, ...]

    @property
    def trouble(self) -> bool:
        """Whether anything of it is out of service."""
        return self.drained or any(tile.state in ("fault", "out", "off") for tile in self.tiles)


@dataclass(frozen=True)
class GpusPage:
    """Everything on it."""

    viewer: Viewer
    nodes: tuple[NodePart, ...]
    hidden: int
    """Nodes that are not listed."""
    total: int
    free: int
    busy: int
    out: int
    faulty: int
    tab: str = "GPUs"
    news: str = ""


def gpus_page(board: Board, viewer: Viewer) -> GpusPage:
    """The page; only administrators see it, so it names everybody."""
    state = board.state
    by_id = {workload.id: workload for workload in state.servers.values()}
    holders = {
        row.uuid: by_id[identifier]
        for identifier, rows in state.held.items()
        if identifier in by_id
        for row in rows
    }
    parts = tuple(_node(node, state, holders) for node in board.nodes)
    states = [tile.state for node in parts for tile in node.tiles]
    if len(parts) > NODES_SHOWN:  # what needs a look comes first
        parts = tuple(sorted(parts, key=lambda node: (not node.trouble, node.name)))
    return GpusPage(
        viewer=viewer,
        nodes=parts[:NODES_SHOWN],
        hidden=max(0, len(parts) - NODES_SHOWN),
        total=len(states),
        free=states.count("free"),
        busy=states.count("busy"),
        out=sum(states.count(state) for state in ("draining", "out", "off")),
        faulty=states.count("fault"),
    )


def _node(node: NodeRow, state: PoolState, holders: dict[str, Workload]) -> NodePart:
    rows = sorted(
        (row for row in state.accelerators.values() if row.node == node.name),
        key=lambda row: row.index,
    )
    here = [workload for workload in state.servers.values() if workload.node == node.name]
    tiles = tuple(_tile(row, node, state, holders.get(row.uuid)) for row in rows)
    return NodePart(
        name=node.name,
        about=_about(node, rows, sum(tile.state == "free" for tile in tiles), state),
        drained=node.drained,
        note=_note(node.drained_by, node.drained_reason) if node.drained else "",
        runs=_runs(here, state.at),
        tiles=tiles,
    )


def _about(node: NodeRow, rows: list[AcceleratorRow], free: int, state: PoolState) -> str:
    """Memory and cores are those that are offered, as everywhere where one chooses."""
    models = {row.model: 0 for row in rows}
    for row in rows:
        models[row.model] += 1
    gpus = listed([f"{count} × {model_words(model)}" for model, count in models.items()])
    offered = state.snapshot.nodes.get(node.name, node)
    cores = count_words(offered.cpu_millicores / 1000, "core")
    cores = f"{cores}, {round(offered.memory_bytes / GIB, 1):g} GiB"
    return f"{gpus}, {free} free, {cores}" if gpus else f"no GPU, {cores}"


def _tile(row: AcceleratorRow, node: NodeRow, state: PoolState, holder: Workload | None) -> Tile:
    note = ""
    if row.health is not Health.OK:
        kind, note = "fault", row.health_reason
    elif row.drained:
        kind = "draining" if holder else "out"
        note = _note(row.drained_by, row.drained_reason)
    elif holder:
        kind = "draining" if node.drained else "busy"
    else:
        kind = "free" if state.snapshot.accelerators[row.uuid].offered else "off"
    return Tile(
        uuid=row.uuid,
        index=row.index,
        model=model_words(row.model),
        state=kind,
        who=holder.server if holder else "",
        ends_at=ends_at(holder, state.at) if holder else None,
        note=note,
        drained=row.drained,
        runs=_runs([holder] if holder else [], state.at),
    )


def _note(by: str, reason: str) -> str:
    return f"Taken out by {by}: {reason}"


def _runs(workloads: list[Workload], now: datetime) -> str:
    if not workloads:
        return "Nobody runs there."
    most = 8
    names = [
        f"{workload.server} ({count_words(workload.gpus, 'GPU')}{_until(workload, now)})"
        for workload in workloads[:most]
    ]
    if len(workloads) > most:
        names.append(f"{len(workloads) - most} more")
    return f"Runs there: {listed(names)}."


def _until(workload: Workload, now: datetime) -> str:
    end = ends_at(workload, now)
    # The page puts the reader's own time into the braces.
    return f", at most until {{{end.isoformat(timespec='seconds')}}}" if end else ""
