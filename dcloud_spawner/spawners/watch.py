"""Wakes the starts that wait in the queue of this hub process.

A pass of this process wakes them at once; one of another process is seen by a look at the
database every quarter second, one query for all who wait, and none when nobody does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from dcloud_spawner.platform import Platform
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State

LOOK_SECONDS = 0.25

log = logging.getLogger(__name__)


class AdmissionWatch:
    """One for each hub process."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._waiting: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looker: asyncio.Task[None] | None = None
        platform.on_admitted.append(self._admitted_by_this_process)

    def _admitted_by_this_process(self, identifiers: Sequence[str]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, identifiers)

    def _wake(self, identifiers: Sequence[str]) -> None:
        for identifier in identifiers:
            event = self._waiting.get(identifier)
            if event is not None:
                event.set()

    async def until_not_queued(self, identifier: str) -> State:
        """Return the state of a workload as soon as it is no longer QUEUED."""
        self._loop = asyncio.get_running_loop()
        event = self._waiting.setdefault(identifier, asyncio.Event())
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look())
        try:
            while True:
                state = (await self._states((identifier,))).get(identifier, State.ENDED)
                if state is not State.QUEUED:
                    return state
                await event.wait()
                event.clear()
        finally:
            self._waiting.pop(identifier, None)

    async def _states(self, identifiers: Sequence[str]) -> dict[str, State]:
        def read() -> dict[str, State]:
            with self._platform.database.reading() as connection:
                return dict(workloads.states_of(connection, identifiers))

        return await self._platform.in_database_thread(read)

    async def _look(self) -> None:
        """Look for changes by other processes while anybody waits; also the pass's own timer."""
        loop = asyncio.get_running_loop()
        next_pass = loop.time() + self._platform.settings.schedule_seconds
        while self._waiting:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if loop.time() >= next_pass:
                    next_pass = loop.time() + self._platform.settings.schedule_seconds
                    await self._platform.pass_soon()
                states = await self._states(list(self._waiting))
            except Exception:
                # The database may be away for a while; the queue survives in it.
                log.exception("Cannot look at the queue; trying again.")
                continue
            self._wake(
                [
                    identifier
                    for identifier in list(self._waiting)
                    if states.get(identifier) is not State.QUEUED
                ]
            )
