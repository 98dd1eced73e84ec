"""The buckets that are people's own: how much is in them, and their end with the home."""

from __future__ import annotations

from dataclasses import replace

from dcloud_spawner.platform import Platform
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import is_default
from dcloud_spawner.storage.errors import ObjectMissing
from dcloud_spawner.storage.store import ObjectStore


def _space(platform: Platform, volume: str) -> ObjectStore:
    name = keys.own_bucket(platform.settings.storage_bucket, volume)
    return ObjectStore(replace(platform.storage.access, bucket=name))


def size_bytes(platform: Platform, volume: str) -> int:
    """What lies in the own space that goes with a home. Blocks; raises StorageAway."""
    if is_default(platform.settings):
        return 0  # where nobody has keys nobody has a space
    space = _space(platform, volume)
    try:
        return sum(item.size_bytes for item in space.list(""))
    except ObjectMissing:
        return 0
    finally:
        space.close()


def purge(platform: Platform, volume: str) -> None:
    """Delete all that lies there: the next user of the name would have the same bucket. Blocks;
    raises StorageAway."""
    if is_default(platform.settings):
        return
    space = _space(platform, volume)
    try:
        space.remove_many([item.key for item in space.list("")])
    except ObjectMissing:
        pass
    finally:
        space.close()
