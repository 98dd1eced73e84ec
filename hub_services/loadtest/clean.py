"""Taking away everything that simulated people left: requests, servers, users, homes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dcloud_spawner import lifecycle, user_homes
from dcloud_spawner.errors import Conflict, EngineError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events, homes, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.history import forget_people
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.loadtest.hub import HubApi
from hub_services.loadtest.names import Run

AT_ONCE = 6
STOP_SECONDS = 30.0

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass
class Left:
    """What could not be taken away; all empty is a clean end."""

    servers: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    homes: list[str] = field(default_factory=list)
    why: str = ""
    """What the hub said of the first user that it did not delete."""

    def sentence(self) -> str:
        """What is left, empty when nothing is."""
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for what, names in (
                ("servers", self.servers),
                ("users", self.users),
                ("homes", self.homes),
            )
            if names
        ]
        return ", ".join(parts) + (f"; the hub says: {self.why}" if self.why else "")


@dataclass(frozen=True)
class Broom:
    """What is needed to tidy up; ``token`` carries the load test's rights at the hub."""

    platform: Platform
    hub: HubApi
    token: str
    actor: Actor
    say: Say

    async def sweep(self, names: Sequence[str]) -> Left:
        """Remove all that these users have, and the users. May be repeated."""
        left = Left()
        self.say("leaving the queue and stopping servers")
        await self._end_servers(set(names))
        left.servers = [each.server for each in self._open(set(names))]
        self.say("deleting users")
        refused = await _bounded([self.hub.delete_user(name, self.token) for name in names])
        left.users = [name for name, why in zip(names, refused, strict=True) if why]
        left.why = next(filter(None, refused), "")
        self.say("deleting homes")
        left.homes = await self._purge_homes(set(names))
        return left

    def forget(self, run: Run) -> None:
        """Take the run out of the history, so that no forecast, fair share or what-if counts it.
        Blocks."""
        with self.platform.database.transaction() as connection:
            removed = forget_people(connection, run.names)
            events.note(
                connection,
                self.actor,
                "loadtest.forget",
                run.id,
                at=utc_now(),
                detail={"users": run.users, "workloads": removed},
            )

    def _open(self, names: Collection[str]) -> list[Workload]:
        with self.platform.database.reading() as connection:
            return [w for w in workloads.open_workloads(connection) if w.user in names]

    async def _end_servers(self, names: Collection[str]) -> None:
        """By the hub; what it does not end in time, with the engine directly."""
        # Who waits leaves first, the last of the queue before the others: else each server that
        # ends would let another one start.
        found = self._open(names)
        waiting = [each for each in reversed(found) if each.state is State.QUEUED]
        await _bounded([self._stop(each) for each in waiting])
        await _bounded([self._stop(each) for each in self._open(names)])
        for _ in range(int(STOP_SECONDS * 2)):
            left = self._open(names)
            if not left:
                return
            await asyncio.sleep(0.5)
        for each in reversed(self._open(names)):
            with contextlib.suppress(EngineError, Conflict):
                await self.platform.in_engine_thread(
                    lifecycle.stop, self.platform, each.id, "load test ended", self.actor
                )

    async def _stop(self, workload: Workload) -> None:
        await self.hub.stop(workload.user, self.token, "tidy")

    async def _purge_homes(self, names: Collection[str]) -> list[str]:
        with self.platform.database.reading() as connection:
            found = [each.user for each in homes.all_homes(connection) if each.user in names]

        async def purge(user: str) -> bool:
            try:
                await self.platform.in_engine_thread(
                    user_homes.purge_home, self.platform, user, self.actor
                )
            except (EngineError, Conflict):
                return False
            return True

        done = await _bounded([purge(user) for user in found])
        return [user for user, gone in zip(found, done, strict=True) if not gone]


async def _bounded(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """Results of all jobs in order, a few of them at work at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(job: Awaitable[T]) -> T:
        async with places:
            return await job

    return await asyncio.gather(*(one(job) for job in jobs))
