"""What the pages show beside the pool: nodes, reservations, and how many GPUs will be free.

Read once for each new reading of the pool, however many pages are open.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

from dcloud_spawner.forecasting import Forecaster
from dcloud_spawner.live.availability import Availability
from dcloud_spawner.live.pool import PoolState, availability
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler.band import Band
from dcloud_spawner.scheduler.schedule import ends_at
from dcloud_spawner.store import nodes, reservations
from dcloud_spawner.store.nodes import NodeRow
from dcloud_spawner.store.reservations import Reservation
from dcloud_spawner.store.schema import HOLDING
from dcloud_spawner.store.workloads import Workload
from hub_services.web.pages.chart import StepChart, step_chart
from hub_services.web.viewer import Viewer
from hub_services.web.waiting import waiting_rows

PAST = timedelta(days=7)
"""How long reservations that are over are still listed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Board:
    """One reading of the pool with what belongs to it."""

    state: PoolState
    nodes: tuple[NodeRow, ...]
    reservations: tuple[Reservation, ...]
    """By their start, those of the last days too."""
    band: Band | None
    """Free GPUs over the next day; None until it has been forecast for the first time."""
    drawn: dict[tuple[str, str], asyncio.Task[dict[str, str]]] = field(
        default_factory=dict, compare=False
    )
    """Pages that are or were drawn from it, by page and :meth:`stake`."""

    @cached_property
    def waiting(self) -> list[tuple[int | None, Workload]]:
        """Everybody who waits with their place: the queue, then those on hold."""
        return waiting_rows(self.state)

    @cached_property
    def holding(self) -> list[Workload]:
        """Everything that holds something, what ends first at the latest first."""
        at = self.state.at
        return sorted(
            (found for found in self.state.servers.values() if found.state in HOLDING),
            key=lambda found: (ends_at(found, at) or at, found.sequence),
        )

    @cached_property
    def users(self) -> frozenset[str]:
        """Everybody who waits or holds something."""
        return frozenset(workload.user for workload in self.state.servers.values())

    @cached_property
    def pool(self) -> Availability:
        """What is free now."""
        return availability(self.state, simulated=False, engine="")

    @cached_property
    def chart(self) -> StepChart | None:
        """The forecast; None where there are no GPUs, or nobody has made it yet."""
        if self.band is None or not self.band.models:
            return None
        return step_chart(self.band, sum(model.free for model in self.pool.models))

    def stake(self, viewer: Viewer) -> str:
        """Viewers of the same stake are shown the same: all who have nothing here, and else
        each their own."""
        named = viewer.administrator or (viewer.person and viewer.name in self.users)
        concerned = viewer.person and any(
            found.is_for(viewer.name, viewer.groups) for found in self.reservations
        )
        return f"{viewer.administrator} {viewer.name}" if named or concerned else ""


def read_board(platform: Platform, state: PoolState, band: Band | None) -> Board:
    """Read the rest. Blocks."""
    with platform.database.reading() as connection:
        board = Board(
            state=state,
            nodes=tuple(nodes.all_nodes(connection)),
            reservations=tuple(reservations.ending_since(connection, state.at - PAST)),
            band=band,
        )
    # Here and not on the event loop: all of it takes long in a large pool.
    _ = board.waiting, board.holding, board.users, board.pool, board.chart
    return board


class BandWatch:
    """The last forecast of free GPUs. It may take seconds in a large pool, so pages never wait
    for it: it is made in a thread after something has happened, and shown when it is there."""

    BETWEEN_SECONDS = 2.0
    IDLE_SECONDS = 60.0
    REST = 10.0
    """Times that the last one took, in which there is no other."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._forecaster = Forecaster(platform)
        self._task: asyncio.Task[None] | None = None
        self._head = -1
        self._next = 0.0
        self._last = 0.0
        self.band: Band | None = None

    def notice(self, state: PoolState) -> None:
        """A new reading of the pool. On the event loop."""
        now = asyncio.get_running_loop().time()
        stale = state.head != self._head or now - self._last >= self.IDLE_SECONDS
        idle = self._task is None or self._task.done()
        if stale and idle and now >= self._next:
            self._task = asyncio.ensure_future(self._make(state.head))

    async def _make(self, head: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self.band = await self._platform.in_database_thread(self._fresh_band)
        except Exception:
            log.exception("Cannot forecast; the page keeps the last one.")
        took = loop.time() - began
        self._head, self._last = head, began
        self._next = loop.time() + max(self.BETWEEN_SECONDS, self.REST * took)

    def _fresh_band(self) -> Band:
        return self._forecaster.band(fresh=True)


class BoardWatch:
    """The last board, and who waits for the next."""

    def __init__(self, platform: Platform, pool: PoolWatch) -> None:
        self._platform = platform
        self._pool = pool
        self._bands = BandWatch(platform)
        self._board: Board | None = None
        self._reading: asyncio.Task[Board] | None = None
        pool.listeners.append(self._bands.notice)

    async def current(self) -> Board:
        """The board of the pool's last reading."""
        state = self._pool.state
        if self._board is not None and self._board.state is state:
            return self._board
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read(state))
        return await asyncio.shield(self._reading)

    async def fresh(self) -> Board:
        """As it is now, for a page that is just being opened."""
        await self._pool.fresh()
        return await self.current()

    async def changed(self, seconds: float) -> None:
        """Return at the next reading, or after that many seconds."""
        await self._pool.changed(seconds)

    async def _read(self, state: PoolState) -> Board:
        band = self._bands.band
        self._board = await self._platform.in_database_thread(
            read_board, self._platform, state, band
        )
        return self._board
