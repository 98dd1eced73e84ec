"""Publication: every file is read back, and only then the version is one.

What is written into the manifest was counted from what the storage gave, not from what somebody
said. Nothing can change meanwhile: the draft is closed, uploads into it are over, and no other job
of the dataset runs.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.datasets.sizes import size_words
from dcloud_spawner.datasets.versions import finish_publish, manifest_lines
from dcloud_spawner.errors import Conflict
from dcloud_spawner.storage.errors import ObjectMissing
from dcloud_spawner.storage.keys import file_key, manifest_key, version_prefix
from dcloud_spawner.store import dataset_files, datasets
from dcloud_spawner.store.dataset_files import File
from dcloud_spawner.store.datasets import VersionState
from hub_services.datasets.work import Cancelled, Work

READERS = 8
"""Files that are read at once."""
WRITE_SECONDS = 3.0
"""Sums are written so often, so that little is read twice after a kill."""
AT_ONCE = 500


class Wrong(Conflict):
    """What is stored is not what was meant to be."""

    code = "file_wrong"


def publish(work: Work) -> None:
    """Read back, count, compare, write the manifest, number the version. Raises Wrong."""
    version = work.job.version or ""
    with work.platform.database.reading() as connection:
        draft = datasets.find_version(connection, version)
    if draft is None or draft.state is not VersionState.PUBLISHING:
        raise Cancelled
    if work.fresh:
        # Sums of an attempt that failed before say nothing of what was changed since.
        with work.writing() as connection:
            dataset_files.forget_sums(connection, version)
    _compare_listing(work, version)
    _count_all(work, version)
    _finish(work, version)


def _compare_listing(work: Work, version: str) -> None:
    """Sizes as the storage lists them; what is there and in no row is removed, for a mount would
    show it."""
    prefix = version_prefix(work.job.dataset, version)
    listed = work.store.list(prefix)
    while part := list(islice(listed, AT_ONCE)):
        sizes = {found.key.removeprefix(prefix): found.size_bytes for found in part}
        with work.platform.database.reading() as connection:
            known = dataset_files.sizes_of(connection, version, list(sizes))
        for path, size in known.items():
            if sizes[path] != size:
                raise Wrong(
                    f"{shown(path)} has {size_words(sizes[path])} in the storage and not "
                    f"{size_words(size)}.",
                    hint="Upload it again, then publish.",
                )
        strays = [prefix + path for path in sizes if path not in known]
        work.check()
        work.store.remove_many(strays)


def _count_all(work: Work, version: str) -> None:
    with work.platform.database.reading() as connection:
        work.done_files, work.done_bytes = dataset_files.checked_sums(connection, version)
    with ThreadPoolExecutor(READERS, "publish") as pool:
        while True:
            with work.platform.database.reading() as connection:
                files = dataset_files.unchecked(connection, version, AT_ONCE)
            if not files:
                return
            _count(work, version, files, pool)


def _count(work: Work, version: str, files: Sequence[File], pool: ThreadPoolExecutor) -> None:
    futures = [pool.submit(_sum, work, file) for file in files]
    sums: list[tuple[str, str]] = []
    written = time.monotonic()
    try:
        for future in as_completed(futures):
            sums.append(future.result())
            if time.monotonic() - written > WRITE_SECONDS:
                _write(work, version, sums)
                sums, written = [], time.monotonic()
    finally:
        for future in futures:
            future.cancel()
    _write(work, version, sums)


def _write(work: Work, version: str, sums: Sequence[tuple[str, str]]) -> None:
    with work.writing() as connection:
        dataset_files.set_sums(connection, version, sums)


def _sum(work: Work, file: File) -> tuple[str, str]:
    """SHA-256 of a file as the storage gives it. Raises Wrong when it is not the file meant."""
    counted, size = hashlib.sha256(), 0
    try:
        with work.store.open(file_key(work.job.dataset, file.version, file.path)) as reader:
            for chunk in reader:
                counted.update(chunk)
                size += len(chunk)
                work.add(size_bytes=len(chunk))
    except ObjectMissing as error:
        raise Wrong(
            f"{shown(file.path)} is not in the storage.",
            hint="Upload it again or remove it, then publish.",
        ) from error
    found = counted.hexdigest()
    if size != file.size_bytes:
        raise Wrong(
            f"{shown(file.path)} has {size_words(size)} in the storage and not "
            f"{size_words(file.size_bytes)}.",
            hint="Upload it again, then publish.",
        )
    if file.claimed_sha256 and file.claimed_sha256.lower() != found:
        raise Wrong(
            f"{shown(file.path)} is not what was sent: its SHA-256 is {found[:12]}… in the storage "
            f"and was {file.claimed_sha256[:12]}… where it came from.",
            hint="Upload it again, then publish.",
        )
    work.add(files=1)
    return file.path, found


def _finish(work: Work, version: str) -> None:
    digest, size = hashlib.sha256(), 0
    with tempfile.TemporaryFile() as manifest:
        with work.platform.database.reading() as connection:
            for line in manifest_lines(dataset_files.walk(connection, version)):
                encoded = line.encode()
                digest.update(encoded)
                size += manifest.write(encoded)
        manifest.seek(0)
        work.check()
        key = manifest_key(work.job.dataset, version)
        work.store.put(key, manifest, size, "application/x-ndjson")
    if finish_publish(work.platform, work.job.id, version, digest.hexdigest(), work.actor) is None:
        raise Cancelled
