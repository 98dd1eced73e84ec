"""A host with datasets to mount: a platform on a real storage, published datasets, servers that
ask for them, and the keeper's turns."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcloud_spawner import lifecycle
from dcloud_spawner.datasets.wishes import parse_wishes
from dcloud_spawner.mounts import mountinfo
from dcloud_spawner.mounts.keeper import Keeper, release
from dcloud_spawner.mounts.places import Places
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, dataset_mounts, datasets
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.dataset_mounts import MountState, WorkloadDataset
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.workloads import Workload
from tests.dataset_rows import publish
from tests.memory_engine import MemoryEngine, node
from tests.patience import patient
from tests.platforms import opened, settings_for, submit

LARGE_BYTES = 64 << 20
"""What is put in parts."""


class MountHost:
    """One host; ``turn`` is a turn of the process ``data``."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.places = Places(platform.settings)
        self.keeper = Keeper(platform)

    def publish(self, name: str, files: Mapping[str, bytes], **more: Any) -> Dataset:
        """A dataset of alice's that everyone may read, with its files in the storage."""
        size = sum(len(data) for data in files.values())
        with self.platform.database.transaction() as connection:
            dataset = publish(
                connection, "alice", name, size_bytes=size, **{"everyone": True, **more}
            )
            assert dataset.latest_version
            rows = [
                NewFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for path, data in files.items()
            ]
            dataset_files.put(connection, dataset.latest_version, rows, "alice", utc_now())
            datasets.change_version(
                connection, dataset.latest_version, size_bytes=size, files=len(files)
            )
        version = str(dataset.latest_version)

        def put(path: str) -> None:
            data: Any = files[path]
            large = len(data) > LARGE_BYTES
            self.platform.storage.put(
                file_key(dataset.id, version, path),
                io.BytesIO(data) if large else data,
                len(data) if large else -1,
            )

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, files))
        return dataset

    def request(self, *wishes: Any, user: str = "bob", **more: Any) -> Workload:
        """A server that asks for datasets, in the queue."""
        return submit(self.platform, user, gpus=0, datasets=parse_wishes(list(wishes)), **more)

    def end(self, workload: Workload) -> None:
        """The server ends and the engine confirms it."""
        lifecycle.stop(self.platform, workload.id, "stopped", Actor("bob"))

    def rows(self, workload: Workload) -> dict[str, WorkloadDataset]:
        """What a server has, by folder."""
        with self.platform.database.reading() as connection:
            return {row.name: row for row in dataset_mounts.of_workload(connection, workload.id)}

    def until(self, reached: Callable[[], bool], seconds: float = 10) -> None:
        """Turns until something holds."""
        deadline = time.monotonic() + patient(seconds)
        while True:
            self.keeper.turn()
            if reached():
                return
            assert time.monotonic() < deadline, "it never came to hold"
            time.sleep(0.05)

    def ready(
        self, *workloads: Workload, state: MountState = MountState.READY, seconds: float = 10
    ) -> None:
        """Turns until all of these servers have what they asked for."""
        self.until(
            lambda: all(
                row.state is state for workload in workloads for row in self.rows(workload).values()
            ),
            seconds,
        )

    def folder(self, workload: Workload, name: str) -> Path:
        """Where the host has it."""
        return self.places.workload(workload.id) / name

    def mounted(self) -> list[str]:
        """Everything that is mounted below the deployment's folder."""
        return sorted(mountinfo.below(mountinfo.read(), self.places.root))

    def restart(self) -> None:
        """As after kill -9: a keeper that knows nothing."""
        self.keeper.close()
        self.keeper = Keeper(self.platform)


@contextmanager
def mount_host(
    database_url: str, folder: Path, access: StorageAccess, **values: Any
) -> Iterator[MountHost]:
    """A host on a storage; nothing of it is mounted afterwards."""
    settings = settings_for(
        database_url,
        folder,
        storage_url=access.url,
        storage_bucket=access.bucket,
        storage_region=access.region,
        **values,
    )
    settings.secrets_dir.mkdir(parents=True, mode=0o700)
    keys = {"storage_access_key": access.access_key, "storage_secret_key": access.secret_key}
    for name, value in keys.items():
        file = settings.secrets_dir / name
        file.touch(0o600)
        file.write_text(value)
    with opened(settings, MemoryEngine(node())) as platform:
        host = MountHost(platform)
        try:
            yield host
        finally:
            host.keeper.close()
            release(host.places)
