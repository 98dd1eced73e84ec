"""The buckets that are people's own: how much is in them, how much may be, and their end with the
home."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.datasets import quota
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.storage import bucket_quota, keys
from dcloud_spawner.storage.access import is_default
from dcloud_spawner.storage.errors import ObjectMissing, StorageRefused, UploadGone
from dcloud_spawner.storage.store import ObjectStore, OpenUpload
from dcloud_spawner.store import datasets, homes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Room:
    """What an own space may hold beside what else its owner stores; None: as much as fits."""

    volume: str
    most_bytes: int | None


@contextmanager
def _space(platform: Platform, volume: str) -> Iterator[ObjectStore]:
    name = keys.own_bucket(platform.settings.storage_bucket, volume)
    store = ObjectStore(replace(platform.storage.access, bucket=name))
    try:
        yield store
    finally:
        store.close()


def size_bytes(platform: Platform, volume: str) -> int:
    """What lies in the own space that goes with a home, parts of uploads that were not completed
    among it. Blocks; raises StorageAway."""
    if is_default(platform.settings):
        return 0  # where nobody has keys nobody has a space
    with _space(platform, volume) as space:
        try:
            whole = sum(item.size_bytes for item in space.list(""))
            return whole + _unfinished_bytes(space)
        except ObjectMissing:
            return 0


def _unfinished(space: ObjectStore) -> list[OpenUpload]:
    try:
        return list(space.open_uploads())
    except StorageRefused as error:
        log.debug("%s tells of no open uploads: %s", space.bucket, error)
        return []


def _unfinished_bytes(space: ObjectStore) -> int:
    total = 0
    for upload in _unfinished(space):
        try:
            parts = space.list_parts(upload.key, upload.upload)
        except UploadGone:
            continue  # completed or aborted meanwhile
        total += sum(part.size_bytes for part in parts)
    return total


def measure(platform: Platform, user: str) -> None:
    """Write down what is in somebody's space now, and let the storage refuse what goes beyond
    their limit. Blocks; raises StorageAway, StorageRefused."""
    with platform.database.reading() as connection:
        home = homes.of_user(connection, user)
    if home is None or home.user_deleted_at is not None:
        return
    size = size_bytes(platform, home.volume)
    if size != home.space_bytes:
        with platform.database.transaction() as connection:
            homes.set_space(connection, home.volume, size)
    keep_quota(platform, user)


def keep_quota(platform: Platform, user: str) -> None:
    """Have the storage itself refuse, where it can, what somebody's space has no room for: their
    limit, less what they store elsewhere. Blocks; raises StorageAway."""
    if not platform.storage_capabilities.get().quotas:
        return
    with platform.database.reading() as connection:
        room = _room(connection, platform.settings, user)
    if room is None:
        return
    with _space(platform, room.volume) as space:
        most = room.most_bytes
        try:
            if most is not None:
                # MinIO does not count these.
                most = max(0, most - _unfinished_bytes(space))
            bucket_quota.limit(space.access, space.bucket, most)
        except ObjectMissing:
            return
        except StorageRefused as error:
            # Keys that may not: the space is counted every few minutes, as where nothing can.
            log.warning("The own space of %s has no quota: %s", user, error)


def _room(connection: Connection, settings: Settings, user: str) -> _Room | None:
    home = homes.of_user(connection, user)
    if home is None or home.user_deleted_at is not None:
        return None
    now = quota.stored(connection, settings, datasets.USER, user)
    if now.most_bytes is None:
        return _Room(home.volume, None)
    elsewhere = now.used_bytes - (home.space_bytes or 0)
    return _Room(home.volume, max(0, now.most_bytes - elsewhere))


def abort_unfinished(platform: Platform, volume: str, before: datetime) -> int:
    """Give up what was begun in a space before a time and never completed; returns how many
    uploads. Blocks; raises StorageAway."""
    if is_default(platform.settings):
        return 0
    with _space(platform, volume) as space:
        try:
            old = [
                upload
                for upload in _unfinished(space)
                if upload.begun_at is not None and upload.begun_at < before
            ]
        except ObjectMissing:
            return 0
        for upload in old:
            space.abort_upload(upload.key, upload.upload)
        return len(old)


def purge(platform: Platform, volume: str) -> None:
    """Delete all that lies there: the next user of the name would have the same bucket. Blocks;
    raises StorageAway."""
    if is_default(platform.settings):
        return
    with _space(platform, volume) as space:
        try:
            space.remove_many([item.key for item in space.list("")])
            for upload in _unfinished(space):
                space.abort_upload(upload.key, upload.upload)
        except ObjectMissing:
            pass
