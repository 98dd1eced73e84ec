"""The object store on real MinIO and on the small default."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import httpx
import pytest

from dcloud_spawner.storage.errors import ObjectMissing, StorageAway, StorageRefused, UploadGone
from dcloud_spawner.storage.keys import file_key, version_prefix
from dcloud_spawner.storage.store import MIN_PART_BYTES, ObjectStore
from tests.storage.servers import StorageServer
from tests.storage.urls import download_url

KEY = file_key("d1", "v1", "a folder/ünï 文.txt")


def test_what_is_put_is_read_back(store: ObjectStore) -> None:
    store.put(KEY, b"hello world")
    assert store.read(KEY) == b"hello world"
    assert store.read(KEY, 6) == b"world"
    assert store.read(KEY, 2, 3) == b"llo"
    assert store.stat(KEY).size_bytes == 11
    assert store.stat(KEY).etag == hashlib.md5(b"hello world").hexdigest()


def test_an_empty_file_is_kept(store: ObjectStore) -> None:
    store.put(KEY, b"")
    assert store.read(KEY) == b""
    assert store.stat(KEY).size_bytes == 0


def test_a_stream_is_put_with_and_without_its_size(store: ObjectStore) -> None:
    data = os.urandom(20 << 20)
    store.put("people/h1/known", io.BytesIO(data), len(data))
    store.put("people/h1/unknown", io.BytesIO(data))
    assert store.read("people/h1/known") == data
    assert b"".join(store.stream("people/h1/unknown")) == data


def test_what_is_not_there_is_said_to_be_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        store.read(KEY)
    with pytest.raises(ObjectMissing):
        store.stat(KEY)
    assert not store.exists(KEY)
    store.remove(KEY)
    assert list(store.list("datasets/d1/")) == []


def test_a_prefix_is_listed_in_order_and_from_anywhere(store: ObjectStore) -> None:
    names = [f"f{number:04}" for number in range(1100)]
    for name in names:
        store.put(file_key("d1", "v1", f"deep/{name}"), b"x")
    store.put(file_key("d1", "v2", "other"), b"x")
    prefix = version_prefix("d1", "v1")
    found = [item.key.rpartition("/")[2] for item in store.list(prefix)]
    assert found == names
    after = store.list(prefix, after=f"{prefix}deep/f1097")
    assert [item.key.rpartition("/")[2] for item in after] == ["f1098", "f1099"]
    (folder,) = store.list(prefix, recursive=False)
    assert folder.is_folder and folder.key == f"{prefix}deep/"
    assert len(list(store.list(prefix, limit=7))) == 7


def test_a_prefix_is_removed_and_nothing_beside_it(store: ObjectStore) -> None:
    for number in range(12):
        store.put(file_key("d1", "v1", f"a/{number}"), b"x")
    store.put(file_key("d1", "v10", "kept"), b"x")
    assert store.remove_prefix(version_prefix("d1", "v1")) == 12
    assert [item.key for item in store.list("datasets/")] == [file_key("d1", "v10", "kept")]
    with pytest.raises(ValueError):
        store.remove_prefix("datasets/d1")


def test_an_object_is_copied_inside_the_storage(store: ObjectStore) -> None:
    store.put(KEY, b"hello")
    target = file_key("d1", "v2", "a folder/ünï 文.txt")
    store.copy(KEY, target)
    assert store.read(target) == b"hello"
    with pytest.raises(ObjectMissing):
        store.copy(file_key("d1", "v1", "none"), target)
    assert store.read(target) == b"hello"


def test_parts_make_an_object_only_when_it_is_completed(store: ObjectStore) -> None:
    first, last = os.urandom(MIN_PART_BYTES), os.urandom(1234)
    upload = store.create_upload(KEY)
    store.put_part(KEY, upload, 1, first)
    store.put_part(KEY, upload, 2, last)
    assert [(part.number, part.size_bytes) for part in store.list_parts(KEY, upload)] == [
        (1, len(first)),
        (2, len(last)),
    ]
    assert not store.exists(KEY)
    store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
    assert store.read(KEY) == first + last
    with pytest.raises(UploadGone):
        store.list_parts(KEY, upload)


def test_an_aborted_upload_is_gone(store: ObjectStore) -> None:
    upload = store.create_upload(KEY)
    store.put_part(KEY, upload, 1, b"x" * 100)
    assert [found.upload for found in store.open_uploads(KEY)] == [upload]
    store.abort_upload(KEY, upload)
    store.abort_upload(KEY, upload)
    assert not list(store.open_uploads(KEY))
    with pytest.raises(UploadGone):
        store.put_part(KEY, upload, 2, b"x")


def test_a_signed_part_is_taken_by_anybody_who_has_the_url(store: ObjectStore) -> None:
    data = os.urandom(1000)
    upload = store.create_upload(KEY)
    url = store.presign_part(KEY, upload, 1, len(data))
    assert httpx.put(url, content=data).status_code == 200
    store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
    assert store.read(KEY) == data


def test_a_signed_part_takes_no_other_length_number_upload_key_or_method(
    store: ObjectStore,
) -> None:
    upload = store.create_upload(KEY)
    other = store.create_upload(file_key("d1", "v1", "other"))
    url = store.presign_part(KEY, upload, 1, 100)
    assert httpx.put(url, content=b"x" * 101).status_code == 403
    assert httpx.put(url, content=b"x" * 99).status_code == 403
    for wrong in (
        url.replace("partNumber=1", "partNumber=2"),
        url.replace(upload, other),
        url.replace("%E6%96%87", "other"),
        url.replace("/v1/", "/v2/"),
        url.replace(f"&uploadId={upload}", ""),
        f"{url}&acl",
        url.partition("?")[0],
    ):
        assert wrong != url
        assert httpx.put(wrong, content=b"x" * 100).status_code in (400, 403), wrong
    assert httpx.get(url).status_code in (400, 403)
    assert httpx.delete(url).status_code in (400, 403)
    assert store.list_parts(KEY, upload) == []


@pytest.mark.parametrize("size", [0, 9])
@pytest.mark.parametrize("bucket", ["/", ""])
@pytest.mark.parametrize("of_range", [{}, {"x-amz-copy-source-range": "bytes=0-3"}])
def test_a_signed_part_copies_no_object_of_somebody_else(
    store: ObjectStore, size: int, bucket: str, of_range: dict[str, str]
) -> None:
    store.put(file_key("d2", "v1", "theirs"), b"theirs!!!")
    upload = store.create_upload(KEY)
    url = store.presign_part(KEY, upload, 1, size)
    source = {"x-amz-copy-source": f"{bucket}{store.bucket}/{file_key('d2', 'v1', 'theirs')}"}
    answer = httpx.put(url, content=b"x" * size, headers=source | of_range)
    assert answer.status_code == 403
    assert store.list_parts(KEY, upload) == []


def test_a_signed_part_changes_nothing_after_completion(store: ObjectStore) -> None:
    upload = store.create_upload(KEY)
    url = store.presign_part(KEY, upload, 1, 3)
    assert httpx.put(url, content=b"old").status_code == 200
    store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
    assert httpx.put(url, content=b"new").status_code == 404
    assert store.read(KEY) == b"old"


def test_a_signed_url_dies(store: ObjectStore) -> None:
    from datetime import UTC, datetime, timedelta

    upload = store.create_upload(KEY)
    then = datetime.now(UTC) - timedelta(seconds=120)
    url = store.presign_part(KEY, upload, 1, 3, seconds=60, now=then)
    assert httpx.put(url, content=b"old").status_code in (400, 403)
    store.put(KEY, b"hello")
    assert httpx.get(download_url(store, KEY, seconds=60, now=then)).status_code in (400, 403)


def test_wrong_keys_and_no_keys_are_refused(
    store: ObjectStore, storage_server: StorageServer
) -> None:
    from dataclasses import replace

    store.put(KEY, b"secret")
    for access in (
        replace(store.access, secret_key="x" * 40),
        replace(store.access, access_key="nobody", secret_key="x" * 40),
    ):
        with pytest.raises(StorageRefused):
            ObjectStore(access).read(KEY)
    url = download_url(store, KEY)
    assert httpx.get(url).content == b"secret"
    assert httpx.get(url.partition("?")[0]).status_code in (400, 403)
    assert httpx.get(f"{storage_server.url}/{store.bucket}/").status_code in (400, 403)


def test_storage_that_is_away_is_said_to_be(tmp_path: Path, free_port: int) -> None:
    from dcloud_spawner.storage.access import StorageAccess

    access = StorageAccess(f"http://127.0.0.1:{free_port}", "bucket", "us-east-1", "key", "secret")
    store = ObjectStore(access)
    for call in (
        store.ensure_bucket,
        lambda: store.read(KEY),
        lambda: store.put(KEY, b"x"),
        lambda: list(store.list("datasets/")),
        lambda: store.list_parts(KEY, "upload"),
    ):
        with pytest.raises(StorageAway):
            call()
    assert "secret" not in repr(access)
