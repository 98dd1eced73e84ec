"""What lies in the storage and belongs to nothing any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.keys import DATASETS, dataset_prefix, version_prefix
from dcloud_spawner.storage.store import StoredObject
from dcloud_spawner.store import dataset_files, dataset_jobs, dataset_uploads, datasets
from dcloud_spawner.store.datasets import VersionState

log = logging.getLogger(__name__)

OLDER_THAN = timedelta(days=1)
"""What is younger may be somebody's who is about to write its row."""
AT_ONCE = 500


def sweep(platform: Platform) -> int:
    """Remove objects of versions that do not exist, and of drafts what is in no row; returns how
    many. What jobs are about to do is left to them. Blocks, maybe for long."""
    removed = 0
    for folder in platform.storage.list(DATASETS, recursive=False):
        if not folder.is_folder:
            continue
        identifier = folder.key.removeprefix(DATASETS).rstrip("/")
        try:
            removed += _sweep_dataset(platform, identifier)
        except ValueError:
            log.warning("%s in the storage is nothing of ours.", folder.key)
    return removed


def _sweep_dataset(platform: Platform, identifier: str) -> int:
    with platform.database.reading() as connection:
        jobs = [job for job in dataset_jobs.open_jobs(connection) if job.dataset == identifier]
        known = {each.id: each for each in datasets.versions_of(connection, identifier)}
    if jobs:
        return 0
    prefix, removed = dataset_prefix(identifier), 0
    for folder in list(platform.storage.list(prefix, recursive=False)):
        version = folder.key.removeprefix(prefix).rstrip("/")
        found = known.get(version)
        if found is None:
            removed += _remove(platform, identifier, version, draft=False)
        elif found.state is VersionState.DRAFT:
            removed += _remove(platform, identifier, version, draft=True)
    return removed


def _remove(platform: Platform, dataset: str, version: str, *, draft: bool) -> int:
    prefix, removed = version_prefix(dataset, version), 0
    for part in _old(platform, prefix):
        paths = [found.key.removeprefix(prefix) for found in part]
        with platform.database.reading() as connection:
            if draft != (datasets.find_version(connection, version) is not None):
                return removed
            kept = set(dataset_files.sizes_of(connection, version, paths))
            kept |= {upload.path for upload in dataset_uploads.of_version(connection, version)}
        strays = [prefix + path for path in paths if path not in kept]
        removed += platform.storage.remove_many(strays)
    if removed:
        log.info("%d objects below %s belonged to nothing and are gone.", removed, prefix)
    return removed


def _old(platform: Platform, prefix: str) -> Iterator[list[StoredObject]]:
    before = utc_now() - OLDER_THAN
    listed = (
        found
        for found in list(platform.storage.list(prefix))
        if found.modified_at is not None and found.modified_at < before
    )
    while part := list(islice(listed, AT_ONCE)):
        yield part
