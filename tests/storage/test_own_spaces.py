"""People's own spaces count as what they store, and go with their homes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import user_homes
from dcloud_spawner.datasets import credentials, own_spaces, quota
from dcloud_spawner.datasets.reconciling import Reconciler
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.storage_log import Access
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import ACCESS_KEY, SECRET_KEY
from dcloud_spawner.storage.bucket_quota import most_of
from dcloud_spawner.storage.errors import StorageAway, StorageRefused, UploadGone
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import homes
from dcloud_spawner.store.events import Actor
from hub_services.controller.homes import measure_homes
from hub_services.datasets.spaces import Spaces
from tests import platforms
from tests.memory_engine import MemoryEngine
from tests.no_limits import NO_LIMITS
from tests.storage.servers import StorageServer

ACTOR = Actor("root")
MIB = 2**20


@pytest.fixture
def platform(database_url: str, tmp_path: Path, minio_server: StorageServer) -> Iterator[Platform]:
    """One whose storage is MinIO, and whose people may store 10 MiB."""
    roles = {name: role | {"storage_gib": 10 * MIB / 2**30} for name, role in NO_LIMITS.items()}
    settings = platforms.settings_for(
        database_url, tmp_path, storage_url=minio_server.url, roles=roles
    )
    settings.secrets_dir.mkdir(parents=True, mode=0o700)
    for name, key in ((ACCESS_KEY, minio_server.access_key), (SECRET_KEY, minio_server.secret_key)):
        (settings.secrets_dir / name).write_text(key)
        (settings.secrets_dir / name).chmod(0o600)
    made = Platform(settings, engine=MemoryEngine())
    made.refresh_inventory()
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


def change_home(platform: Platform, user: str, size_bytes: int) -> None:
    """The files in a home are so large, as the engine says."""
    with platform.database.transaction() as connection:
        home = homes.of_user(connection, user)
        assert home is not None
        space = home.space_bytes or 0
        homes.set_size(connection, home.volume, size_bytes + space, utc_now(), space_bytes=space)


def test_the_storage_itself_refuses_what_an_own_space_has_no_room_for(
    platform: Platform, minio_server: StorageServer
) -> None:
    assert platform.storage_capabilities.get().quotas
    space = space_of(platform, minio_server, "carol")
    platforms.start(platform, "carol", 0)
    change_home(platform, "carol", 3 * MIB)
    given = credentials.issue(platform, Asker(Actor("carol")), "")
    own = ObjectStore(
        dataclasses.replace(
            space.access,
            access_key=given.keys.access_key,
            secret_key=given.keys.secret_key,
            session_token=given.keys.session_token,
        )
    )
    with pytest.raises(StorageRefused, match="QuotaExceeded"):
        own.put("large.bin", b"x" * (7 * MIB + 1))
    own.put("fits.bin", b"x" * 7 * MIB)
    assert most_of(space.access, space.bucket) == 7 * MIB

    # What grows elsewhere makes less of it, for keys that are out already.
    change_home(platform, "carol", 9 * MIB)
    turns = Spaces(platform)
    turns.turn()
    assert most_of(space.access, space.bucket) == MIB
    assert stored_bytes(platform, "carol") == 16 * MIB
    with pytest.raises(StorageRefused, match="QuotaExceeded"):
        own.put("more.bin", b"x" * 2 * MIB)
    with pytest.raises(StorageRefused, match="QuotaExceeded"):
        own.put_part("more.bin", own.create_upload("more.bin"), 1, b"x" * 5 * MIB)
    change_home(platform, "carol", 11 * MIB)
    Spaces(platform).turn()
    assert most_of(space.access, space.bucket) == 0
    with pytest.raises(StorageRefused, match="QuotaExceeded"):
        own.put("one.byte", b"x")
    own.remove("fits.bin")
    for each in (space, own):
        each.close()


def test_uploads_that_were_never_completed_count_and_are_given_up(
    platform: Platform, minio_server: StorageServer
) -> None:
    space = space_of(platform, minio_server, "dave")
    with platform.database.reading() as connection:
        home = homes.of_user(connection, "dave")
    assert home is not None
    upload = space.create_upload("half.bin")
    space.put_part("half.bin", upload, 1, b"x" * 6 * MIB)
    own_spaces.measure(platform, "dave")
    assert stored_bytes(platform, "dave") == 6 * MIB
    assert most_of(space.access, space.bucket) == 4 * MIB
    day = timedelta(days=1)
    assert own_spaces.abort_unfinished(platform, home.volume, utc_now() - day) == 0
    assert len(space.list_parts("half.bin", upload)) == 1
    assert own_spaces.abort_unfinished(platform, home.volume, utc_now() + day) == 1
    with pytest.raises(UploadGone):
        space.list_parts("half.bin", upload)
    own_spaces.measure(platform, "dave")
    assert stored_bytes(platform, "dave") == 0
    assert most_of(space.access, space.bucket) == 10 * MIB
    space.close()


def test_a_quota_that_the_platform_sets_is_not_flagged_on_the_action_log(
    platform: Platform, minio_server: StorageServer
) -> None:
    space = space_of(platform, minio_server, "erin")
    main = platform.settings.storage_bucket
    told: dict[str, Any] = {
        "request": "1",
        "at": utc_now(),
        "access_key": minio_server.access_key,
        "parent": "",
        "act": "settings",
        "bucket": space.bucket,
        "key": "",
        "size_bytes": 0,
        "refused": False,
        "source": "127.0.0.1",
    }
    with platform.database.reading() as connection:
        reconciler = Reconciler(connection, main, minio_server.access_key)
        assert reconciler.lines([Access(name="PutBucketQuotaConfig", **told)]) == []
        (line,) = reconciler.lines([Access(name="PutBucketPolicy", **told)])
    assert line.result == "flagged"
    space.close()
