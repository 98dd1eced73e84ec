"""What the pages of this hub show about the pool: read every two seconds in a thread.

Templates are drawn on the event loop and may not wait for the database, so they read this copy.
Whatever decides something (validation, admission) reads the database itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dcloud_spawner.form.availability import Availability, ModelAvailability
from dcloud_spawner.form.ends import TOLD
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.scheduler.plan import free_now
from dcloud_spawner.scheduler.schedule import GIB, take_snapshot
from dcloud_spawner.scheduler.snapshot import Snapshot
from dcloud_spawner.store import homes, leases, nodes, workloads
from dcloud_spawner.store.nodes import AcceleratorRow
from dcloud_spawner.store.workloads import Workload

REFRESH_SECONDS = 2.0

TOLD_FOR = timedelta(days=1)
"""How long a page tells why a server ended."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolState:
    """One consistent reading."""

    at: datetime
    snapshot: Snapshot
    accelerators: Mapping[str, AcceleratorRow] = field(default_factory=dict)
    held: Mapping[str, tuple[AcceleratorRow, ...]] = field(default_factory=dict)
    """Accelerators of each workload that holds any, by workload id."""
    servers: Mapping[tuple[str, str], Workload] = field(default_factory=dict)
    """Open workloads by user and server name."""
    ends: Mapping[str, tuple[Workload, ...]] = field(default_factory=dict)
    """Servers that ended within a day by anything but a wish, newest first, by user."""
    home_bytes: Mapping[str, int] = field(default_factory=dict)
    """Measured size of homes by user."""


def read_pool(platform: Platform) -> PoolState:
    """Read everything the pages need. Blocks."""
    now = utc_now()
    with platform.database.reading() as connection:
        snapshot = take_snapshot(connection, platform.capacity, now)
        accelerators = {row.uuid: row for row in nodes.all_accelerators(connection)}
        held: dict[str, list[AcceleratorRow]] = {}
        for uuid, workload in leases.holders(connection).items():
            held.setdefault(workload, []).append(accelerators[uuid])
        open_workloads = workloads.open_workloads(connection)
        ends: dict[str, list[Workload]] = {}
        for ended in workloads.last_ends(connection, now - TOLD_FOR):
            if ended.end_reason in TOLD:
                ends.setdefault(ended.user, []).append(ended)
        sizes = {
            home.user: home.size_bytes
            for home in homes.all_homes(connection)
            if home.size_bytes is not None
        }
    return PoolState(
        at=now,
        snapshot=snapshot,
        accelerators=accelerators,
        held={
            workload: tuple(sorted(rows, key=lambda row: row.index))
            for workload, rows in held.items()
        },
        servers={(found.user, found.server_name): found for found in open_workloads},
        ends={user: tuple(ended) for user, ended in ends.items()},
        home_bytes=sizes,
    )


def availability(state: PoolState, *, simulated: bool, engine: str) -> Availability:
    """The reading in the words of the spawn page."""
    free = free_now(state.snapshot)
    models = []
    for model in sorted({row.model for row in state.accelerators.values()}):
        rows = [row for row in state.accelerators.values() if row.model == model]
        per_node = [
            sum(found.model == model for found in node.accelerators.values())
            for node in free.values()
        ]
        totals = [sum(row.node == name for row in rows) for name in state.snapshot.nodes]
        models.append(
            ModelAvailability(
                model=model,
                memory_bytes=max(row.memory_bytes for row in rows),
                total=len(rows),
                free=sum(per_node),
                unhealthy=sum(not state.snapshot.accelerators[row.uuid].offered for row in rows),
                largest_free_on_one_node=max(per_node, default=0),
                largest_on_one_node=max(totals, default=0),
            )
        )
    total = state.snapshot.nodes.values()
    return Availability(
        models=tuple(models),
        memory_free_gib=max((node.memory_bytes for node in free.values()), default=0) / GIB,
        memory_total_gib=max((node.memory_bytes for node in total), default=0) / GIB,
        cpus_free=max((node.cpu_millicores for node in free.values()), default=0) / 1000,
        cpus_total=max((node.cpu_millicores for node in total), default=0) / 1000,
        queue_length=len(state.snapshot.queue),
        at=state.at,
        simulated=simulated,
        engine=engine,
    )


class PoolWatch:
    """Keeps the last reading of this process fresh."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.state = read_pool(platform)
        self.listeners: list[Callable[[PoolState], None]] = []
        """Called on the event loop after each reading."""
        self._task: asyncio.Task[None] | None = None

    def keep_fresh(self) -> None:
        """Start reading in the background, once; call it on the event loop."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._refresh_forever())

    async def refresh(self) -> PoolState:
        """Read now, for a page that must not show what was true two seconds ago."""
        self.state = await self._platform.in_database_thread(read_pool, self._platform)
        for listener in self.listeners:
            listener(self.state)
        return self.state

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except Exception:
                log.exception("Cannot read the pool; the pages keep the last reading.")
