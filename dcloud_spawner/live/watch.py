"""Keeps the last reading of the pool fresh in one process, and tells whoever shows it.

Every change of state leaves a row in the action log, so the number of its last row says
whether anything happened: one cheap question twice a second for the whole process, whatever
the number of open pages. What this process itself commits is read at once. Templates are drawn
on the event loop and may not wait for the database: they use :attr:`PoolWatch.state`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from dcloud_spawner.live.pool import PoolState, read_pool
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events

LOOK_SECONDS = 0.5
"""Between two looks at the action log."""

REFRESH_SECONDS = 3.0
"""The oldest a reading gets: a pass of another process may change reasons without a row."""

SETTLE_SECONDS = 0.03
"""After a commit of this process, so that the steps of one transition are one reading."""

RECENT_SECONDS = 1.0

TOLD_AT_ONCE = 5
"""Open pages that are told of a change in one turn of the event loop."""

log = logging.getLogger(__name__)


class PoolWatch:
    """One for each process that shows the pool."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.state = read_pool(platform)
        self.listeners: list[Callable[[PoolState], None]] = []
        """Called on the event loop after each reading."""
        self.prepare: list[Callable[[PoolState], None]] = []
        """Called in the reading's thread before it is told to anybody: for what takes time."""
        self._took = 0.0
        """Seconds of a core that the last reading took."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()
        self._reading: asyncio.Task[PoolState] | None = None
        self._next: asyncio.Task[PoolState] | None = None
        platform.database.after_commit.append(self.nudge)

    def keep_fresh(self) -> None:
        """Start reading in the background, once; call it on the event loop."""
        if self._task is None or self._task.done():
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._refresh_forever())

    def nudge(self) -> None:
        """Read soon: something has changed. May be called from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._nudged.set)

    async def changed(self, seconds: float) -> bool:
        """Return at the next reading (True), or after that many seconds (False)."""
        self.keep_fresh()
        news = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        try:
            async with asyncio.timeout(seconds):
                await news
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(news)
        return True

    def _tell(self, waiting: list[asyncio.Future[None]]) -> None:
        """Wake who waits for news, a few in each turn of the event loop: hundreds of open pages
        must not keep the one that is just being opened from its answer."""
        for news in waiting[-TOLD_AT_ONCE:]:
            if not news.done():
                news.set_result(None)
        rest = waiting[:-TOLD_AT_ONCE]
        if rest:
            asyncio.get_running_loop().call_soon(self._tell, rest)

    async def refresh(self) -> PoolState:
        """Read now, for a page that must not show what was true a moment ago."""
        return await asyncio.shield(self._begin())

    async def fresh(self) -> PoolState:
        """The last reading if nothing has happened since, else a new one: cheap enough for
        every request of a page."""
        state, busy = self.state, self._reading is not None and not self._reading.done()
        if not busy and await self._head() == state.head:
            return state
        return await self.refresh()

    async def recent(self) -> PoolState:
        """A reading of the last second, for a page that follows the events from then on: it need
        not wait for a reading of its own while the queue moves."""
        self.keep_fresh()
        if (utc_now() - self.state.at).total_seconds() < RECENT_SECONDS:
            return self.state
        return await self.fresh()

    def _begin(self) -> asyncio.Task[PoolState]:
        """One reading at a time. Who asks while one is under way gets the one after it, for the
        present one may have begun before what they want to see."""
        earlier = self._reading
        if earlier is not None and not earlier.done():
            return self._after(earlier)
        self._reading = asyncio.ensure_future(self._read())
        return self._reading

    def _after(self, earlier: asyncio.Task[PoolState]) -> asyncio.Task[PoolState]:
        if self._next is None or self._next.done():

            async def later() -> PoolState:
                await asyncio.wait([earlier])
                self._next = None
                return await asyncio.shield(self._begin())

            self._next = asyncio.ensure_future(later())
        return self._next

    async def _read(self) -> PoolState:
        self.state = await self._platform.in_reading_thread(self._read_and_prepare)
        self._tell(list(self._waiting))
        for listener in self.listeners:
            listener(self.state)
        return self.state

    def _read_and_prepare(self) -> PoolState:
        began = time.thread_time()
        state = read_pool(self._platform, self.state)
        for prepare in self.prepare:
            prepare(state)
        self._took = time.thread_time() - began
        return state

    async def _head(self) -> int:
        def look() -> int:
            with self._platform.database.reading() as connection:
                return events.head(connection).sequence

        return await self._platform.in_reading_thread(look)

    async def _refresh_forever(self) -> None:
        loop = asyncio.get_running_loop()
        last, unsaid = 0.0, False
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._nudged.wait()
                await asyncio.sleep(SETTLE_SECONDS)
            except TimeoutError:
                pass
            nudged = self._nudged.is_set()
            self._nudged.clear()
            try:
                age = loop.time() - last
                # A commit without a row in the log changed a reason or a range, if anything:
                # that can wait for a moment, and comes with the next row most of the time.
                due = age >= REFRESH_SECONDS or (unsaid and age >= LOOK_SECONDS)
                if due or await self._head() != self.state.head:
                    await self.refresh()
                    last, unsaid = loop.time(), False
                else:
                    unsaid = unsaid or nudged
            except Exception:
                log.exception("Cannot read the pool; the pages keep the last reading.")
            # A pool of thousands takes long to read: at most half of a core goes into it.
            await asyncio.sleep(min(self._took, REFRESH_SECONDS))
