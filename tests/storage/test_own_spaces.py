"""People's own spaces count as what they store, and go with their homes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner import user_homes
from dcloud_spawner.datasets import quota
from dcloud_spawner.platform import Platform
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import ACCESS_KEY, SECRET_KEY
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import homes
from dcloud_spawner.store.events import Actor
from hub_services.controller.homes import measure_homes
from tests import platforms
from tests.memory_engine import MemoryEngine
from tests.storage.servers import StorageServer

ACTOR = Actor("root")


@pytest.fixture
def platform(database_url: str, tmp_path: Path, minio_server: StorageServer) -> Iterator[Platform]:
    """One whose storage is MinIO."""
    settings = platforms.settings_for(database_url, tmp_path, storage_url=minio_server.url)
    settings.secrets_dir.mkdir(parents=True, mode=0o700)
    for name, key in ((ACCESS_KEY, minio_server.access_key), (SECRET_KEY, minio_server.secret_key)):
        (settings.secrets_dir / name).write_text(key)
        (settings.secrets_dir / name).chmod(0o600)
    made = Platform(settings, engine=MemoryEngine())
    yield made
    made.close()


def space_of(platform: Platform, server: StorageServer, user: str) -> ObjectStore:
    """The bucket of somebody's own, which exists."""
    platforms.home(platform, user)
    with platform.database.reading() as connection:
        home = homes.of_user(connection, user)
    assert home is not None
    space = ObjectStore(
        server.access(keys.own_bucket(platform.settings.storage_bucket, home.volume))
    )
    space.ensure_bucket()
    return space


def stored_bytes(platform: Platform, user: str) -> int:
    with platform.database.reading() as connection:
        return quota.stored(connection, platform.settings, "user", user).used_bytes


def test_what_lies_in_ones_own_space_counts_as_stored(
    platform: Platform, minio_server: StorageServer
) -> None:
    space = space_of(platform, minio_server, "alice")
    measure_homes(platform)
    before = stored_bytes(platform, "alice")
    space.put("a/b.bin", b"x" * 5000)
    space.put("c.bin", b"y" * 300)
    measure_homes(platform)
    assert stored_bytes(platform, "alice") == before + 5300
    minio_server.stop()
    try:
        measure_homes(platform)  # the last size stands while nobody knows
    finally:
        minio_server.start()
    assert stored_bytes(platform, "alice") == before + 5300
    space.remove_many(["a/b.bin", "c.bin"])
    space.close()


def test_a_purged_home_takes_its_space_with_it_and_a_storage_that_is_away_keeps_both(
    platform: Platform, minio_server: StorageServer
) -> None:
    space = space_of(platform, minio_server, "bob")
    space.put("diary\x01.txt", b"mine")
    space.put("deep/n.txt", b"mine")
    minio_server.stop()
    try:
        with pytest.raises(StorageAway):
            user_homes.purge_home(platform, "bob", ACTOR)
    finally:
        minio_server.start()
    with platform.database.reading() as connection:
        home = homes.of_user(connection, "bob")
    assert home is not None and home.user_deleted_at is None
    assert len(list(space.list(""))) == 2
    assert user_homes.purge_home(platform, "bob", ACTOR)
    assert list(space.list("")) == []
    space.close()
