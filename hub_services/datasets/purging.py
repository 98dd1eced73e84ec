"""Deleted for good: a draft that was given up, an old version, a dataset whose time in the bin is
over. First the rows, so that nobody brings back or reads what is half gone; then the objects."""

from __future__ import annotations

from datetime import timedelta

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.versions import forget_version
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.keys import (
    dataset_prefix,
    manifest_key,
    manifests_prefix,
    version_prefix,
)
from dcloud_spawner.store import dataset_jobs, dataset_shares, datasets, events
from dcloud_spawner.store.events import Actor
from hub_services.datasets.work import Work

ACTOR = Actor("datasets")
AT_ONCE = 1000


class Waits(Exception):
    """Something has to end before; the text says what."""


def purge(work: Work) -> None:
    """Remove one version that has no row any more, or a whole dataset in the bin."""
    version = work.job.order.get("version")
    if version is not None:
        _remove(work, version_prefix(work.job.dataset, str(version)))
        work.store.remove(manifest_key(work.job.dataset, str(version)))
        with work.platform.database.transaction() as connection:
            work.finish(connection)
        return
    if not _forget_rows(work):
        return
    _remove(work, dataset_prefix(work.job.dataset))
    work.store.remove_prefix(manifests_prefix(work.job.dataset))
    with work.platform.database.transaction() as connection:
        work.finish(connection)
        dataset_jobs.remove_of(connection, work.job.dataset)


def _forget_rows(work: Work) -> bool:
    """False when it was brought back meanwhile."""
    now = utc_now()
    with work.writing() as connection:
        found = datasets.find(connection, work.job.dataset)
        if found is None:
            return True
        if found.deleted_at is None:
            work.finish(connection, "It was brought back.")
            return False
        users = sorted({use.user for use in catalog.mounted_by(connection, found.id)})
        if users:
            raise Waits(f"It waits until the servers of {', '.join(users[:5])} end.")
        for version in datasets.versions_of(connection, found.id):
            forget_version(connection, version)
        for share in dataset_shares.of_dataset(connection, found.id):
            dataset_shares.remove(connection, found.id, share.kind, share.name)
        datasets.remove(connection, found.id)
        detail: dict[str, object] = {"dataset": found.reference, "bytes": found.stored_bytes}
        events.note(connection, ACTOR, "dataset.purged", found.id, at=now, detail=detail)
    return True


def _remove(work: Work, prefix: str) -> None:
    while batch := list(work.store.list(prefix, limit=AT_ONCE)):
        work.store.remove_many(found.key for found in batch)
        work.add(size_bytes=sum(found.size_bytes for found in batch), files=len(batch))


def empty_bin(platform: Platform) -> int:
    """Begin the end of what has been in the bin for long enough; returns how many there were."""
    due = catalog.due_for_purge(platform)
    for dataset in due:
        with platform.database.transaction() as connection:
            found = datasets.find(connection, dataset.id)
            if found is None or found.deleted_at is None:
                continue
            before = utc_now() - timedelta(days=platform.settings.dataset_bin_days)
            if found.deleted_at >= before:
                continue
            if catalog.purge_is_open(connection, found.id):
                continue
            catalog.begin_purge(connection, found, ACTOR.name)
    return len(due)
