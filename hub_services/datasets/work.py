"""One job under way: how far it is, and whether it is still wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_jobs
from dcloud_spawner.store.dataset_jobs import Job, JobState
from dcloud_spawner.store.events import Actor

PROGRESS_SECONDS = 1.0
"""Between two looks at the job's row, and so the longest that a cancelled job goes on."""


class Cancelled(Exception):
    """The job is not wanted any more; somebody said so in its row."""


class Ended(Exception):
    """The process ends; the job goes on in the next one."""


class Work:
    """A job that is done in this process. Thread-safe."""

    def __init__(
        self,
        platform: Platform,
        store: ObjectStore,
        job: Job,
        *,
        fresh: bool = True,
        ending: threading.Event | None = None,
    ) -> None:
        self.platform = platform
        self.store = store
        self.job = job
        self.fresh = fresh
        """Nobody began it before; otherwise it is gone on with."""
        self.actor = Actor(job.by, "data")
        self.done_bytes = 0
        self.done_files = 0
        self.total_bytes = job.total_bytes
        self.total_files = job.total_files
        self._ending = ending or threading.Event()
        self._lock = threading.Lock()
        self._cancelled = False
        self._written = time.monotonic()

    def add(self, *, size_bytes: int = 0, files: int = 0) -> None:
        """So much more is done. Raises Cancelled, Ended."""
        with self._lock:
            self.done_bytes += size_bytes
            self.done_files += files
        self.check()

    def check(self) -> None:
        """Raises Cancelled or Ended when it is not to go on; writes once a second how far it is."""
        if self._ending.is_set():
            raise Ended
        with self._lock:
            if self._cancelled:
                raise Cancelled
            if time.monotonic() - self._written < PROGRESS_SECONDS:
                return
            self._written = time.monotonic()
        with self.writing():
            pass

    @contextmanager
    def writing(self, **more: Any) -> Iterator[Connection]:
        """A transaction in which the job is still wanted, and how far it is gets written. Raises
        Cancelled."""
        with self.platform.database.transaction() as connection:
            wanted = dataset_jobs.move(
                connection,
                self.job.id,
                (JobState.RUNNING,),
                JobState.RUNNING,
                done_bytes=self.done_bytes,
                done_files=self.done_files,
                total_bytes=self.total_bytes,
                total_files=self.total_files,
                **more,
            )
            if not wanted:
                self._cancelled = True
                raise Cancelled
            yield connection

    def finish(self, connection: Connection, message: str = "") -> None:
        """It is done, in the transaction that says what it did. Raises Cancelled."""
        done = dataset_jobs.move(
            connection,
            self.job.id,
            (JobState.RUNNING,),
            JobState.DONE,
            done_bytes=self.done_bytes,
            done_files=self.done_files,
            total_bytes=self.total_bytes,
            total_files=self.total_files,
            message=message,
            ended_at=utc_now(),
        )
        if not done:
            self._cancelled = True
            raise Cancelled
