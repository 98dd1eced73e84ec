"""A deployment with a real store behind it, for tests of datasets below the hub."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, dataset_jobs, datasets
from dcloud_spawner.store.dataset_files import File, NewFile
from dcloud_spawner.store.dataset_jobs import OPEN, Job
from dcloud_spawner.store.datasets import Dataset, Version
from dcloud_spawner.store.events import Actor
from hub_services.datasets.jobs import Jobs
from tests.memory_engine import MemoryEngine
from tests.patience import patient
from tests.platforms import opened, settings_for

ANN = Asker(Actor("ann", "10.0.0.7"))
BOB = Asker(Actor("bob", "10.0.0.8"))


@dataclass
class Lab:
    """The platform of one deployment, its store, and what runs its jobs."""

    platform: Platform
    store: ObjectStore
    jobs: Jobs

    def dataset(self, name: str = "cars", asking: Asker = ANN) -> Dataset:
        """A dataset of Ann's with an empty draft."""
        return catalog.create(self.platform, asking, name, Description())

    def draft(self, dataset: Dataset) -> Version:
        """Its draft, which must exist."""
        with self.platform.database.reading() as connection:
            found = datasets.draft_of(connection, dataset.id)
        assert found is not None
        return found

    def put(
        self, dataset: Dataset, files: Mapping[str, bytes], *, claimed: bool = True, by: str = "ann"
    ) -> None:
        """Files in the draft, as a complete upload leaves them."""
        draft = self.draft(dataset)
        new = []
        for path, data in files.items():
            etag = self.store.put(file_key(dataset.id, draft.id, path), data)
            claim = hashlib.sha256(data).hexdigest() if claimed else None
            new.append(NewFile(path, len(data), claim, etag.strip('"')))
        with self.platform.database.transaction() as connection:
            dataset_files.put(connection, draft.id, new, by, utc_now())

    def files(self, version: str) -> dict[str, File]:
        """The files of a version by path."""
        with self.platform.database.reading() as connection:
            return {file.path: file for file in dataset_files.walk(connection, version)}

    def read(self, dataset: Dataset, version: str, path: str) -> bytes:
        """What the storage has of a file."""
        return self.store.read(file_key(dataset.id, version, path))

    def job(self, identifier: str) -> Job:
        """The job as it is now."""
        with self.platform.database.reading() as connection:
            found = dataset_jobs.find(connection, identifier)
        assert found is not None
        return found

    def turn(self) -> None:
        """Let the process `data` take what is due."""

        async def one() -> None:
            await self.jobs.turn()

        asyncio.run(one())

    def wait(self, job: Job, seconds: float = 15) -> Job:
        """Let it be done; as it is then."""
        deadline = time.monotonic() + patient(seconds)
        while time.monotonic() < deadline:
            self.turn()
            found = self.job(job.id)
            if found.state not in OPEN and not self.jobs.busy(job.id):
                return found
            time.sleep(0.02)
        raise AssertionError(f"not over: {self.job(job.id)}")

    def publish(self, dataset: Dataset) -> Job:
        """Publish the draft; the job when it is over."""
        return self.wait(versions.begin_publish(self.platform, ANN, dataset.id))

    def now(self, dataset: Dataset) -> Dataset:
        """As it is now."""
        with self.platform.database.reading() as connection:
            return datasets.get(connection, dataset.id)


@contextmanager
def lab(database_url: str, folder: Path, store: ObjectStore, **settings: Any) -> Iterator[Lab]:
    """A deployment on a store."""
    engine = MemoryEngine()
    with opened(settings_for(database_url, folder, **settings), engine) as platform:
        platform.__dict__["storage"] = store
        jobs = Jobs(platform)
        try:
            yield Lab(platform, store, jobs)
        finally:
            jobs.close()
