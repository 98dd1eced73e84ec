"""Short-lived keys on real MinIO: what they reach, and what not; and where there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from minio import MinioAdmin
from minio.credentials import StaticProvider
from minio.error import MinioAdminException

from dcloud_spawner.storage.capabilities import CapabilityBook
from dcloud_spawner.storage.errors import StorageCannot, StorageRefused
from dcloud_spawner.storage.keys import file_key, own_bucket, version_prefix
from dcloud_spawner.storage.policies import OwnBucket, session_policy
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.sts import assume
from dcloud_spawner.storage.upload_keys import UploadKeys

MINE = file_key("d1", "v1", "file")
OTHER_VERSION = file_key("d1", "v10", "file")
OTHER = file_key("d2", "v1", "file")


@pytest.fixture
def own(minio_store: ObjectStore) -> str:
    """The bucket that is somebody's own."""
    name = own_bucket(minio_store.bucket, "home1")
    ObjectStore(replace(minio_store.access, bucket=name)).ensure_bucket()
    return name


@pytest.fixture
def scoped(minio_store: ObjectStore, own: str) -> ObjectStore:
    """Keys to read one version and to write one's own space, among the data of others."""
    for key in (MINE, OTHER_VERSION, OTHER):
        minio_store.put(key, b"data")
    policy = session_policy(
        minio_store.bucket, read=[version_prefix("d1", "v1")], own=OwnBucket(own)
    )
    keys = assume(minio_store.access, policy)
    assert 800 < (keys.expires_at - datetime.now(UTC)).total_seconds() <= 900
    assert keys.secret_key not in repr(keys) and keys.session_token not in repr(keys)
    return ObjectStore(
        replace(
            minio_store.access,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.session_token,
        )
    )


def test_they_read_what_they_are_for_and_write_ones_own(scoped: ObjectStore, own: str) -> None:
    assert scoped.read(MINE) == b"data"
    assert [item.key for item in scoped.list(version_prefix("d1", "v1"))] == [MINE]
    mine = ObjectStore(replace(scoped.access, bucket=own))
    mine.put("folder/a", b"mine")
    mine.copy("folder/a", "b")
    assert [item.key for item in mine.list("")] == ["b", "folder/a"]
    assert mine.read("b") == b"mine"
    assert mine.remove_many(["b", "folder/a"]) == 2


@pytest.mark.parametrize(
    "attempt",
    [
        lambda store: store.read(OTHER),
        lambda store: store.read(OTHER_VERSION),
        lambda store: store.stat(OTHER),
        lambda store: store.put(MINE, b"changed"),
        lambda store: store.put(f"{version_prefix('d1', 'v1')}new", b"new"),
        lambda store: store.remove(MINE),
        lambda store: store.remove_many([MINE]),
        lambda store: store.create_upload(MINE),
        lambda store: store.copy(MINE, OTHER),
        lambda store: store.copy(OTHER, MINE),
        lambda store: store.put("own/file", b"new"),
        lambda store: list(store.list("")),
        lambda store: list(store.list("datasets/")),
        lambda store: list(store.list("datasets/d1/")),
        lambda store: list(store.list("datasets/d1/v1", recursive=False)),
        lambda store: assume(store.access, session_policy(store.bucket)),
    ],
)
def test_they_reach_nothing_else(
    scoped: ObjectStore, attempt: Callable[[ObjectStore], object]
) -> None:
    with pytest.raises(StorageRefused):
        attempt(scoped)


def test_they_make_no_other_keys_and_administer_nothing(scoped: ObjectStore) -> None:
    access = scoped.access
    admin = MinioAdmin(
        endpoint=access.host,
        credentials=StaticProvider(access.access_key, access.secret_key, access.session_token),
        secure=False,
    )
    for attempt in (admin.add_service_account, admin.user_list, admin.info, admin.policy_list):
        with pytest.raises(MinioAdminException, match="AccessDenied"):
            attempt()


def test_keys_for_uploads_read_nothing(minio_store: ObjectStore) -> None:
    minio_store.put(MINE, b"data")
    access = UploadKeys(minio_store.access, minio_store.remove).get()
    assert access is not None
    blind = ObjectStore(access)
    blind.put(OTHER, b"put")
    attempts: list[Callable[[], object]] = [
        lambda: blind.read(MINE),
        lambda: list(blind.list("datasets/")),
        lambda: blind.remove(MINE),
        lambda: blind.copy(MINE, OTHER),
        lambda: blind.put("manifests/d1/v1.json", b"forged"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageRefused):
            attempt()
    assert minio_store.read(MINE) == b"data"


def test_a_prefix_with_a_wildcard_is_no_prefix() -> None:
    for wrong in ("datasets/*/", "datasets/d1", "", "/", "datasets/${aws:username}/", "../"):
        with pytest.raises(ValueError):
            session_policy("dcloud", read=[wrong])


def test_minio_has_short_lived_keys_and_events(minio_store: ObjectStore) -> None:
    found = CapabilityBook(minio_store, default=False).get()
    assert found.sts and found.events and not found.lists
    assert ["lists by S3 are closed" in said for said in found.lacking] == [True]
    found.need_sts()


def test_the_small_default_has_neither_and_says_so(rclone_store: ObjectStore) -> None:
    for book in (
        CapabilityBook(rclone_store, default=True),
        CapabilityBook(rclone_store, default=False),  # somebody's own rclone
    ):
        found = book.get()
        assert not found.sts and not found.events and len(found.lacking) == 2
        with pytest.raises(StorageCannot, match="no short-lived keys") as caught:
            found.need_sts()
        assert caught.value.status_code == 409 and "~/datasets" in caught.value.hint
    with pytest.raises(StorageRefused):
        assume(rclone_store.access, session_policy(rclone_store.bucket))
