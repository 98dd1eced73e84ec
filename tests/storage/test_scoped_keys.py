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
from dcloud_spawner.storage.keys import file_key, person_prefix, version_prefix
from dcloud_spawner.storage.policies import LONGEST, fitting_policy, session_policy
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.sts import assume

MINE = file_key("d1", "v1", "file")
OTHER_VERSION = file_key("d1", "v10", "file")
OTHER = file_key("d2", "v1", "file")
OWN = person_prefix("home1")


@pytest.fixture
def scoped(minio_store: ObjectStore) -> ObjectStore:
    """Keys to read one version and to write one's own space, among the data of others."""
    for key in (MINE, OTHER_VERSION, OTHER, f"{person_prefix('home10')}file"):
        minio_store.put(key, b"data")
    policy = session_policy(minio_store.bucket, read=[version_prefix("d1", "v1")], write=[OWN])
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


def test_they_read_what_they_are_for_and_write_ones_own(scoped: ObjectStore) -> None:
    assert scoped.read(MINE) == b"data"
    assert [item.key for item in scoped.list(version_prefix("d1", "v1"))] == [MINE]
    scoped.put(f"{OWN}a", b"mine")
    scoped.copy(MINE, f"{OWN}copy")
    assert [item.key for item in scoped.list(OWN)] == [f"{OWN}a", f"{OWN}copy"]
    assert scoped.remove_prefix(OWN) == 2


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
        lambda store: [store.put(f"{OWN}a", b"x"), store.copy(f"{OWN}a", MINE)],
        lambda store: store.copy(OTHER, f"{OWN}stolen"),
        lambda store: store.put(f"{person_prefix('home10')}file", b"changed"),
        lambda store: store.read(f"{person_prefix('home10')}file"),
        lambda store: list(store.list("")),
        lambda store: list(store.list("datasets/")),
        lambda store: list(store.list("datasets/d1/")),
        lambda store: list(store.list("datasets/d1/v1", recursive=False)),
        lambda store: assume(store.access, session_policy(store.bucket, read=(), write=[OWN])),
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


def test_a_policy_keeps_to_what_servers_take(minio_store: ObjectStore) -> None:
    wanted = [version_prefix(f"{number:032x}", f"{number:032x}") for number in range(20)]
    policy, left_out = fitting_policy(minio_store.bucket, read=wanted, write=[OWN])
    assert len(policy) <= LONGEST and " " not in policy
    assert 0 < len(left_out) < 14 and list(left_out) == wanted[-len(left_out) :]
    assume(minio_store.access, policy)


def test_a_prefix_with_a_wildcard_is_no_prefix() -> None:
    for wrong in ("datasets/*/", "datasets/d1", "", "/", "datasets/${aws:username}/", "../"):
        with pytest.raises(ValueError):
            session_policy("dcloud", read=[wrong], write=())


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
        assume(rclone_store.access, session_policy(rclone_store.bucket, read=(), write=()))
