"""A draft begins with the files of an earlier version: copied inside the storage."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Connection

from dcloud_spawner.datasets import quota
from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage.errors import ObjectMissing
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, datasets
from dcloud_spawner.store.dataset_files import File, NewFile
from hub_services.datasets.publishing import Wrong
from hub_services.datasets.work import Cancelled, Work

COPIERS = 8
AT_ONCE = 200


def copy(work: Work) -> None:
    """Copy what is not there yet, a part at a time. Raises Wrong, Conflict ``storage_full``."""
    version, source = work.job.version or "", str(work.job.order["source"])
    with work.platform.database.reading() as connection:
        if datasets.find_version(connection, version) is None:
            raise Cancelled
    after = ""
    with ThreadPoolExecutor(COPIERS, "copy") as pool:
        while True:
            with work.platform.database.reading() as connection:
                files = dataset_files.below(connection, source, after=after, limit=AT_ONCE)
                there = dataset_files.sizes_of(connection, version, [file.path for file in files])
            if not files:
                break
            after = files[-1].path
            for file in files:
                if file.path in there:
                    work.add(size_bytes=file.size_bytes, files=1)
            _copy(work, version, [file for file in files if file.path not in there], pool)
    if work.done_files != work.job.total_files:
        raise Wrong("The version that is copied was deleted meanwhile.")
    with work.platform.database.transaction() as connection:
        work.finish(connection)


def _copy(work: Work, version: str, files: Sequence[File], pool: ThreadPoolExecutor) -> None:
    def one(file: File) -> NewFile:
        work.check()
        try:
            etag = work.store.copy(
                file_key(work.job.dataset, file.version, file.path),
                file_key(work.job.dataset, version, file.path),
            )
        except ObjectMissing as error:
            raise Wrong(f"{shown(file.path)} is not in the storage any more.") from error
        work.add(size_bytes=file.size_bytes, files=1)
        # What the copy holds is looked at when it is published.
        return NewFile(file.path, file.size_bytes, claimed_sha256=file.sha256, etag=etag.strip('"'))

    size_bytes = sum(file.size_bytes for file in files)
    with work.platform.database.reading() as connection:
        _check_room(work, connection, size_bytes)
    made = list(pool.map(one, files))
    with work.writing() as connection:
        _check_room(work, connection, size_bytes)
        dataset_files.put(connection, version, made, work.job.by, utc_now())


def _check_room(work: Work, connection: Connection, more_bytes: int) -> None:
    """There was room when the draft was opened; other drafts may have taken it since."""
    dataset = datasets.get(connection, work.job.dataset)
    quota.check(connection, work.platform.settings, dataset, more_bytes)
