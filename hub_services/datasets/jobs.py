"""Jobs on datasets: taken from their rows, done in threads, gone on with after a kill -9.

Of one dataset one job at a time, and none while a cancelled one of it still winds down: so nothing
writes to a version while it is published. What the rows call running and this process does not
do was done by one that died (there is one such process, see ``only_one``), and is gone on with.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from dcloud_spawner.datasets import versions
from dcloud_spawner.errors import ConfigurationError, Unavailable, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.store import dataset_jobs, events
from dcloud_spawner.store.dataset_jobs import Job, JobState, Kind
from dcloud_spawner.store.events import Actor
from hub_services.datasets.copying import copy
from hub_services.datasets.importing import import_store, import_url
from hub_services.datasets.leftovers import clear, clear_all
from hub_services.datasets.publishing import publish
from hub_services.datasets.purging import Waits, purge
from hub_services.datasets.work import Cancelled, Ended, Work

log = logging.getLogger(__name__)

WORKERS: Mapping[Kind, Callable[[Work], None]] = {
    Kind.PUBLISH: publish,
    Kind.COPY: copy,
    Kind.IMPORT_URL: import_url,
    Kind.IMPORT_S3: import_store,
    Kind.PURGE: purge,
}
IMPORTS = frozenset({Kind.IMPORT_URL, Kind.IMPORT_S3})
IMPORTS_AT_ONCE = 4
"""Imports wait for others' servers: they must not keep publications waiting."""
OTHERS_AT_ONCE = 4
OF_ONE_USER = 2
"""Of each of the two sorts: nobody keeps everybody else waiting."""

AGAIN_SECONDS = 10.0
"""After which a job is tried again that something is away for; twice as long each time."""
AGAIN_AT_MOST_SECONDS = 300.0
SOURCE_TRIES = 6
"""Of an import whose source is away; a storage that is away is waited for as long as it takes."""

REMEMBERED = timedelta(days=90)
"""So long one can see what became of a job."""

FAILED = "The platform could not do this; its log (data.log) says more."


@dataclass
class _Trouble:
    """A job that has to wait before it is tried again."""

    tries: int = 0
    until: float = field(default=0.0)


class Jobs:
    """The jobs of this deployment."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._threads = ThreadPoolExecutor(IMPORTS_AT_ONCE + OTHERS_AT_ONCE, "job")
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._under_way: dict[str, Job] = {}
        self._trouble: dict[str, _Trouble] = {}

    async def turn(self) -> None:
        """Take what is due."""
        taken = await self._platform.in_database_thread(self._take)
        for job, fresh in taken:
            asyncio.get_running_loop().run_in_executor(self._threads, self._do, job, fresh)

    async def leftovers(self) -> None:
        """Clear up after jobs that were cancelled while nobody did them, and forget old ones."""
        await self._platform.in_database_thread(self._forget_old)
        await self._platform.in_storage_thread(clear_all, self._platform, self.busy)

    def _forget_old(self) -> None:
        before = utc_now() - REMEMBERED
        with self._platform.database.reading() as connection:
            old = dataset_jobs.ended_before(connection, before)
        if old:
            with self._platform.database.transaction() as connection:
                dataset_jobs.remove(connection, old)

    def busy(self, job: str) -> bool:
        """Whether this process does a job, or still winds it down."""
        with self._lock:
            return job in self._under_way

    def close(self) -> None:
        """Let jobs under way stop where they are; the next process goes on with them."""
        self._ending.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    # -- taking ---------------------------------------------------------------------------------

    def _take(self) -> list[tuple[Job, bool]]:
        with self._platform.database.reading() as connection:
            waiting = dataset_jobs.open_jobs(connection)
        taken: list[tuple[Job, bool]] = []
        for job in waiting:
            with self._lock:
                if not self._may(job):
                    continue
                self._under_way[job.id] = job
            if self._claim(job):
                taken.append((job, job.state is JobState.QUEUED))
            else:
                self._release(job)
        return taken

    def _may(self, job: Job) -> bool:
        under_way = self._under_way.values()
        trouble = self._trouble.get(job.id)
        if trouble is not None and trouble.until > time.monotonic():
            return False
        if any(each.dataset == job.dataset for each in under_way):
            return False
        fetches = job.kind in IMPORTS
        like = [each for each in under_way if (each.kind in IMPORTS) == fetches]
        if sum(each.by == job.by for each in like) >= OF_ONE_USER:
            return False
        return len(like) < (IMPORTS_AT_ONCE if fetches else OTHERS_AT_ONCE)

    def _claim(self, job: Job) -> bool:
        now = utc_now()
        with self._platform.database.transaction() as connection:
            return dataset_jobs.move(
                connection,
                job.id,
                dataset_jobs.OPEN,
                JobState.RUNNING,
                started_at=job.started_at or now,
                message="",
            )

    def _release(self, job: Job) -> None:
        with self._lock:
            self._under_way.pop(job.id, None)

    # -- doing ----------------------------------------------------------------------------------

    def _do(self, job: Job, fresh: bool) -> None:
        try:
            self._try(job, fresh)
        except Exception:
            log.exception("Job %s (%s) is left as it is.", job.id, job.kind)
        finally:
            self._release(job)

    def _try(self, job: Job, fresh: bool) -> None:
        log.info("%s %s of %s", "Job" if fresh else "On with", job.kind, job.dataset)
        try:
            store = self._platform.storage
            work = Work(self._platform, store, job, fresh=fresh, ending=self._ending)
            WORKERS[job.kind](work)
        except Ended:
            return
        except Cancelled:
            log.info("Job %s (%s) was cancelled.", job.id, job.kind)
        except ConfigurationError as error:
            log.error("Job %s (%s): %s", job.id, job.kind, error)
            self._put_off(job, "The storage is not set up. It is tried again.", AGAIN_SECONDS)
            return
        except Waits as reason:
            self._put_off(job, str(reason), AGAIN_AT_MOST_SECONDS)
            return
        except Unavailable as error:
            if self._tried_enough(job, error):
                self._fail(job, error.text)
            else:
                return
        except UserError as error:
            self._fail(job, error.text)
        except Exception:
            log.exception("Job %s (%s) failed.", job.id, job.kind)
            self._fail(job, FAILED)
        self._trouble.pop(job.id, None)
        clear(self._platform, job.id)

    def _tried_enough(self, job: Job, error: Unavailable) -> bool:
        trouble = self._trouble.setdefault(job.id, _Trouble())
        trouble.tries += 1
        if not isinstance(error, StorageAway) and trouble.tries >= SOURCE_TRIES:
            return True
        seconds = min(AGAIN_SECONDS * 2 ** min(trouble.tries - 1, 10), AGAIN_AT_MOST_SECONDS)
        self._put_off(job, f"{error.message} It is tried again.", seconds)
        return False

    def _put_off(self, job: Job, message: str, seconds: float) -> None:
        log.warning("Job %s (%s): %s", job.id, job.kind, message)
        self._trouble.setdefault(job.id, _Trouble()).until = time.monotonic() + seconds
        with self._platform.database.transaction() as connection:
            dataset_jobs.move(
                connection, job.id, (JobState.RUNNING,), JobState.RUNNING, message=message
            )

    def _fail(self, job: Job, problem: str) -> None:
        now = utc_now()
        actor = Actor(job.by, "data")
        with self._platform.database.transaction() as connection:
            failed = dataset_jobs.move(
                connection,
                job.id,
                (JobState.RUNNING,),
                JobState.FAILED,
                message=problem,
                ended_at=now,
            )
            if not failed:  # cancelled meanwhile
                return
            if job.kind is Kind.PUBLISH and job.version is not None:
                versions.fail_publish(connection, job.version, problem, actor)
                return
            events.note(
                connection,
                actor,
                f"dataset.{job.kind.value}",
                job.dataset,
                at=now,
                result="failed",
                detail={"problem": problem},
            )
