"""What the pages show beside the pool: nodes, reservations and the record of the ranges.

Read once for each new reading of the pool, however many pages are open.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import listing, nodes, reservations
from dcloud_spawner.store.listing import Record
from dcloud_spawner.store.nodes import NodeRow
from dcloud_spawner.store.reservations import Reservation

PAST = timedelta(days=7)
"""How long reservations that are over are still listed."""


@dataclass(frozen=True)
class Board:
    """One reading of the pool with what belongs to it."""

    state: PoolState
    nodes: tuple[NodeRow, ...]
    record: Record
    reservations: tuple[Reservation, ...]
    """By their start, those of the last days too."""


def read_board(platform: Platform, state: PoolState) -> Board:
    """Read the rest. Blocks."""
    with platform.database.reading() as connection:
        return Board(
            state=state,
            nodes=tuple(nodes.all_nodes(connection)),
            record=listing.record(connection),
            reservations=tuple(reservations.ending_since(connection, state.at - PAST)),
        )


class BoardWatch:
    """The last board, and who waits for the next."""

    def __init__(self, platform: Platform, pool: PoolWatch) -> None:
        self._platform = platform
        self._pool = pool
        self._board: Board | None = None
        self._reading: asyncio.Task[Board] | None = None
        self._news = asyncio.Event()
        pool.listeners.append(self._tell)

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
        news = self._news
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            pass

    async def _read(self, state: PoolState) -> Board:
        self._board = await self._platform.in_database_thread(read_board, self._platform, state)
        return self._board

    def _tell(self, state: PoolState) -> None:
        self._news.set()
        self._news = asyncio.Event()
