"""The process `data`: the loops of datasets beside the hub, without a web port.

Each loop can fail on its own and goes on at its next turn; all may be killed at any time. There
is one such process for a state folder: a lock says so, which ends with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from dcloud_spawner.datasets import uploading
from dcloud_spawner.datasets.revoking import revoke_all_lost
from dcloud_spawner.errors import ConfigurationError, Unavailable
from dcloud_spawner.mounts.keeper import Keeper
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings, load_settings
from hub_services.datasets.jobs import Jobs
from hub_services.datasets.purging import ACTOR, empty_bin
from hub_services.datasets.spaces import Spaces, abort_unfinished
from hub_services.datasets.sweeping import sweep

log = logging.getLogger("dcloud.data")

JOBS_SECONDS = 1.0
"""A job waits no longer than this for a free place."""

MOUNT_SECONDS = 1.0
"""Between two looks at what is mounted: who loses a right loses the mount in that time."""

AFTER_FAILURE_SECONDS = 30.0

RIGHTS_SECONDS = 3.0
"""Between two looks at who lost a right without anybody having touched a share."""

SPACES_SECONDS = 30.0
"""Between two looks at the own spaces into which somebody may write just now."""

Turn = Callable[[], Awaitable[None]]


class Data:
    """The loops, each a method that does one turn."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._keeper = Keeper(platform)
        self._jobs = Jobs(platform)
        self._spaces = Spaces(platform)

    def turns(self) -> list[tuple[Turn, float]]:
        """Each loop, and the seconds between two of its turns."""
        return [
            (self.mounts, MOUNT_SECONDS),
            (self.rights, RIGHTS_SECONDS),
            (self.bucket, 3600.0),
            (self.jobs, JOBS_SECONDS),
            (self.leftovers, 60.0),
            (self.bin, 600.0),
            (self.uploads, 3600.0),
            (self.spaces, SPACES_SECONDS),
            (self.unfinished, 3600.0),
            (self.sweep, 86400.0),
        ]

    async def mounts(self) -> None:
        """What servers have under ~/datasets."""
        await self._platform.in_engine_thread(self._keeper.turn)

    async def rights(self) -> None:
        """Take mounts from those who lost their right by leaving a group or a project."""
        await self._platform.in_database_thread(revoke_all_lost, self._platform)

    async def bucket(self) -> None:
        """Have the bucket made before anybody needs it."""
        await self._platform.in_storage_thread(self._platform.storage.ensure_bucket)

    async def jobs(self) -> None:
        """Take jobs that are due."""
        await self._jobs.turn()

    async def leftovers(self) -> None:
        """Clear up after jobs that are over."""
        await self._jobs.leftovers()

    async def bin(self) -> None:
        """End what has been in the bin for long enough."""
        await self._platform.in_database_thread(empty_bin, self._platform)

    async def uploads(self) -> None:
        """Cancel uploads that nobody went on with."""
        await uploading.abort_stale(self._platform, self._platform.storage, ACTOR)

    async def spaces(self) -> None:
        """Count own spaces while they are written to."""
        await self._platform.in_storage_thread(self._spaces.turn)

    async def unfinished(self) -> None:
        """Cancel what nobody completed in own spaces."""
        await self._platform.in_storage_thread(abort_unfinished, self._platform)

    async def sweep(self) -> None:
        """Remove objects that belong to nothing."""
        await self._platform.in_storage_thread(sweep, self._platform)

    async def run(self) -> None:
        """All loops, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for turn, seconds in self.turns():
                group.create_task(_every(seconds, turn), name=turn.__name__)
            await asyncio.Event().wait()

    def close(self) -> None:
        """Let go of what the loops hold; jobs under way stop where they are."""
        self._jobs.close()
        self._keeper.close()


async def _every(seconds: float, turn: Turn) -> None:
    while True:
        pause = seconds
        try:
            await turn()
        except Unavailable as error:
            pause = min(seconds, AFTER_FAILURE_SECONDS)
            log.warning("%s", error.text)
        except ConfigurationError as error:
            pause = min(seconds, AFTER_FAILURE_SECONDS)
            log.warning("%s", error)
        except Exception:
            pause = min(seconds, AFTER_FAILURE_SECONDS)
            log.exception("A turn failed; the next one comes in %g s.", pause)
        await asyncio.sleep(pause)


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the place of the one process `data` of this state folder; raises ConfigurationError
    while another holds it. A kill -9 gives it back."""
    folder = settings.state / "run"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "data.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError("Another process `data` runs in this state folder.") from error
        yield


async def serve() -> None:
    """Run the loops until SIGTERM or SIGINT."""
    settings = load_settings()
    with only_one(settings):
        platform = Platform(settings)
        data = Data(platform)
        task = asyncio.ensure_future(data.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            log.info("Stopped.")
        finally:
            data.close()
            platform.close()


def main() -> None:
    """Entry point of ``python -m hub_services.datasets``."""
    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(serve())


if __name__ == "__main__":
    main()
