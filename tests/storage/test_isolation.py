"""Whoever tries to reach what is not theirs, on a real MinIO behind the real hub and web service.

Ann has the dataset ``secret`` (a number nobody else may learn), ``shared`` (Eve may read it) and
``later`` (Eve may read it, but her server has not got it). Eve has a server with ``shared``, a home
and a dataset of her own. All that follows is what Eve tries; after each attempt the objects of Ann
are what they were.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from minio import Minio, MinioAdmin
from minio.commonconfig import CopySource
from minio.credentials.providers import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import MinioAdminException, S3Error
from sqlalchemy import select

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.reach import reach_of
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.storage.errors import StorageRefused
from dcloud_spawner.storage.parents import parent_of
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.storage.sts import assume
from dcloud_spawner.store import dataset_mounts, datasets
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import events
from hub_services.datasets.outside import guarded_pool
from tests.storage.servers import StorageServer
from tests.storage.stage import Held, StorageStage, raw

pytestmark = pytest.mark.sqlite_suffices

SECRET = b"the number is 4711"
ANN = Asker(Actor("ann", "10.0.0.9"))


@dataclass
class World:
    """What there is, and what Eve has."""

    stage: StorageStage
    server: StorageServer
    secret: Held
    shared: Held
    later: Held
    own: Held
    anns_space: str
    """The bucket of Ann's own space."""
    eves_space: str
    token: str
    """Of Eve's server."""
    given: dict[str, Any]
    """Eve's credentials."""

    @property
    def s3(self) -> Minio:
        """Eve's client."""
        return self.stage.s3(self.given)

    @property
    def bucket(self) -> str:
        """All there is lies in it."""
        return self.stage.bucket

    def raw(self, method: str, key: str, query: str = "", **more: Any) -> tuple[int, bytes]:
        """A request of Eve with exactly this path behind the bucket (``bucket``: another one)."""
        given, bucket = more.pop("given", self.given), more.pop("bucket", self.bucket)
        return raw(self.server, given, method, f"/{bucket}/{key}", query, **more)

    def eves(self) -> ObjectStore:
        """Eve's own space, as the platform sees it."""
        return ObjectStore(self.server.access(self.eves_space))

    def denied(self, act: Callable[[], Any]) -> None:
        """The storage refuses."""
        with pytest.raises(S3Error) as refusal:
            act()
        assert refusal.value.code in ("AccessDenied", "InvalidAccessKeyId"), refusal.value


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    minio_server: StorageServer,
    module_databases: dict[str, str],
) -> Iterator[World]:
    """One for the module."""
    folder = tmp_path_factory.mktemp("isolation")
    with StorageStage(folder, minio_server, **module_databases) as stage:
        held = {
            name: stage.dataset("ann", name, {"a.txt": SECRET, "deep/b.txt": SECRET})
            for name in ("secret", "shared", "later")
        }
        for name in ("shared", "later"):
            catalog.share(stage.platform, ANN, held[name].dataset.id, "user", "eve", "read")
        own = stage.dataset("eve", "own", {"mine.txt": b"mine"})
        spaces = {user: stage.home(user) for user in ("ann", "eve")}
        diary = ObjectStore(minio_server.access(spaces["ann"]))
        diary.ensure_bucket()
        diary.put("diary.txt", SECRET)
        stage.run("ann", held["secret"])
        stage.run("eve", held["shared"])
        token = stage.server_token("eve")
        yield World(
            stage,
            minio_server,
            **held,
            own=own,
            anns_space=spaces["ann"],
            eves_space=spaces["eve"],
            token=token,
            given=stage.credentials(token),
        )
        stage.stop_servers()
        stage.clear()


@pytest.fixture(autouse=True)
def nothing_of_ann_has_changed(world: World) -> Iterator[None]:
    """After each attempt."""
    yield
    store = world.stage.platform.storage
    for held in (world.secret, world.shared, world.later):
        found = {item.key.removeprefix(held.prefix): item for item in store.list(held.prefix)}
        assert set(found) == {"a.txt", "deep/b.txt"}
        assert all(store.read(item.key) == SECRET for item in found.values())
    diary = ObjectStore(world.server.access(world.anns_space))
    assert [(item.key, diary.read(item.key)) for item in diary.list("")] == [("diary.txt", SECRET)]
    diary.close()


# ------------------------------------------------------------------ 1: other prefixes, by S3


def test_the_file_that_was_shared_can_be_read_so_that_refusals_mean_something(world: World) -> None:
    with world.s3.get_object(world.bucket, f"{world.shared.prefix}a.txt") as answer:
        assert answer.read() == SECRET


def test_a_private_file_is_not_read_by_its_key(world: World) -> None:
    world.denied(lambda: world.s3.get_object(world.bucket, f"{world.secret.prefix}a.txt"))


def test_a_part_of_a_private_file_is_not_read(world: World) -> None:
    key = f"{world.secret.prefix}a.txt"
    world.denied(lambda: world.s3.get_object(world.bucket, key, offset=4, length=3))


def test_not_even_the_size_of_a_private_file_is_told(world: World) -> None:
    world.denied(lambda: world.s3.stat_object(world.bucket, f"{world.secret.prefix}a.txt"))


def test_what_is_shared_but_not_in_this_server_is_not_reached(world: World) -> None:
    world.denied(lambda: world.s3.get_object(world.bucket, f"{world.later.prefix}a.txt"))


def test_the_file_of_another_version_of_a_shared_dataset_is_not_reached(world: World) -> None:
    key = f"datasets/{world.shared.dataset.id}/{'0' * 32}/a.txt"
    world.denied(lambda: world.s3.get_object(world.bucket, key))


def test_a_manifest_of_a_private_dataset_is_not_read(world: World) -> None:
    key = f"manifests/{world.secret.dataset.id}/{world.secret.version.id}.json"
    world.denied(lambda: world.s3.get_object(world.bucket, key))


@pytest.mark.parametrize(
    "prefix",
    ["", "d", "datasets", "datasets/", "people/", "manifests/", "/", "*", "datasets/*"],
    ids=lambda prefix: prefix or "all",
)
def test_the_bucket_is_not_listed(world: World, prefix: str) -> None:
    world.denied(lambda: list(world.s3.list_objects(world.bucket, prefix=prefix, recursive=True)))


def test_a_shared_dataset_is_not_listed_above_its_version(world: World) -> None:
    prefix = f"datasets/{world.shared.dataset.id}/"
    world.denied(lambda: list(world.s3.list_objects(world.bucket, prefix=prefix)))


def test_a_private_dataset_is_not_listed(world: World) -> None:
    world.denied(lambda: list(world.s3.list_objects(world.bucket, prefix=world.secret.prefix)))


def test_a_list_that_begins_behind_a_key_of_others_shows_none(world: World) -> None:
    status, body = world.raw("GET", "", f"list-type=2&start-after={quote('datasets/', safe='')}")
    assert status == 403 and b"<Key>" not in body


def test_two_prefixes_in_one_list_do_not_get_through(world: World) -> None:
    good, bad = quote(world.shared.prefix, safe=""), quote(world.secret.prefix, safe="")
    for query in (f"list-type=2&prefix={good}&prefix={bad}", f"prefix={bad}&prefix={good}"):
        _, body = world.raw("GET", "", query)
        assert world.secret.dataset.id.encode() not in body
    query = f"list-type=2&prefix={good}&start-after={bad}"
    assert world.secret.dataset.id.encode() not in world.raw("GET", "", query)[1].replace(
        f"<StartAfter>{world.secret.prefix}</StartAfter>".encode(), b""
    )


def test_no_list_of_datasets_is_given_where_the_storage_cannot_keep_it_to_its_prefix(
    world: World,
) -> None:
    """MinIO's policies look at a header ``Prefix`` and at every ``prefix`` of several, its list
    takes another one (``storage/list_probe.py``): so nobody gets a list at all."""
    good = quote(world.shared.prefix, safe="")
    for query, headers in (
        ("list-type=2", {"Prefix": world.shared.prefix}),
        ("", {"prefix": world.shared.prefix}),
        (f"Prefix={good}&list-type=2", {}),
        (f"list-type=2&prefix=&prefix={good}", {}),
        (f"list-type=2&prefix={good}", {}),
        ("versions=", {"Prefix": world.shared.prefix}),
        ("uploads=", {"Prefix": world.shared.prefix}),
        ("list-type=2&metadata=true", {"Prefix": world.shared.prefix}),
    ):
        status, body = world.raw("GET", "", query, headers=headers)
        assert status == 403 and b"<Key>" not in body, (query, body[:300])
    assert world.given["lists"] is False


def test_open_uploads_of_others_are_not_listed(world: World) -> None:
    store = world.stage.platform.storage
    key = f"{world.secret.prefix}new.bin"
    upload = store.create_upload(key)
    try:
        query = f"prefix={quote(key, safe='')}&uploads="
        status, body = world.raw("GET", "", query)
        assert status == 403 and upload.encode() not in body
        status, _ = world.raw("GET", key, f"uploadId={quote(upload, safe='')}")
        assert status == 403
        status, _ = world.raw(
            "PUT", key, f"partNumber=1&uploadId={quote(upload, safe='')}", body=b"evil"
        )
        assert status == 403
        status, _ = world.raw("DELETE", key, f"uploadId={quote(upload, safe='')}")
        assert status == 403
    finally:
        store.abort_upload(key, upload)


def test_other_buckets_are_neither_seen_nor_made(world: World) -> None:
    assert {bucket.name for bucket in world.s3.list_buckets()} <= {world.eves_space}
    with pytest.raises(S3Error):
        world.s3.make_bucket("eves-own-bucket")
    world.denied(lambda: world.s3.remove_bucket(world.bucket))


# ------------------------------------------------------------------ 2: writing, by S3


def test_a_file_of_a_shared_dataset_is_not_overwritten(world: World) -> None:
    key = f"{world.shared.prefix}a.txt"
    world.denied(lambda: world.s3.put_object(world.bucket, key, io.BytesIO(b"evil"), 4))


def test_no_file_is_put_beside_those_of_a_shared_dataset(world: World) -> None:
    key = f"{world.shared.prefix}new.txt"
    world.denied(lambda: world.s3.put_object(world.bucket, key, io.BytesIO(b"evil"), 4))


def test_a_file_of_a_shared_dataset_is_not_deleted(world: World) -> None:
    world.denied(lambda: world.s3.remove_object(world.bucket, f"{world.shared.prefix}a.txt"))


def test_many_files_at_once_are_not_deleted_either(world: World) -> None:
    keys = [f"{held.prefix}a.txt" for held in (world.shared, world.secret, world.later)]
    errors = list(world.s3.remove_objects(world.bucket, [DeleteObject(key) for key in keys]))
    assert {error.code for error in errors} == {"AccessDenied"} and len(errors) == 3


def test_ones_own_published_files_are_not_changed_by_s3_either(world: World) -> None:
    key = f"{world.own.prefix}mine.txt"
    world.denied(lambda: world.s3.put_object(world.bucket, key, io.BytesIO(b"evil"), 4))
    assert world.stage.platform.storage.read(key) == b"mine"


def test_a_private_file_is_not_copied_into_ones_own_space(world: World) -> None:
    source = CopySource(world.bucket, f"{world.secret.prefix}a.txt")
    target = "stolen.txt"
    world.denied(lambda: world.s3.copy_object(world.eves_space, target, source))
    status, body = world.raw(
        "PUT",
        target,
        bucket=world.eves_space,
        headers={"x-amz-copy-source": f"/{world.bucket}/{world.secret.prefix}a.txt"},
    )
    assert status == 403, body
    assert not world.eves().exists(target)


def test_a_private_file_is_not_copied_as_a_part_of_an_upload(world: World) -> None:
    target = "parts.bin"
    status, body = world.raw("POST", target, "uploads=", bucket=world.eves_space)
    assert status == 200
    upload = body.decode().partition("<UploadId>")[2].partition("<")[0]
    status, body = world.raw(
        "PUT",
        target,
        f"partNumber=1&uploadId={quote(upload, safe='')}",
        bucket=world.eves_space,
        headers={"x-amz-copy-source": f"/{world.bucket}/{world.secret.prefix}a.txt"},
    )
    assert status == 403, body
    world.raw("DELETE", target, f"uploadId={quote(upload, safe='')}", bucket=world.eves_space)


def test_a_file_of_ones_own_space_is_not_copied_over_a_dataset(world: World) -> None:
    world.s3.put_object(world.eves_space, "evil.txt", io.BytesIO(b"evil"), 4)
    source, target = CopySource(world.eves_space, "evil.txt"), f"{world.shared.prefix}a.txt"
    world.denied(lambda: world.s3.copy_object(world.bucket, target, source))
    world.s3.remove_object(world.eves_space, "evil.txt")


def test_the_own_space_of_another_is_closed(world: World) -> None:
    theirs = world.anns_space
    world.denied(lambda: world.s3.get_object(theirs, "diary.txt"))
    world.denied(lambda: list(world.s3.list_objects(theirs)))
    world.denied(lambda: world.s3.remove_object(theirs, "diary.txt"))
    world.denied(lambda: world.s3.put_object(theirs, "note.txt", io.BytesIO(b"evil"), 4))
    world.denied(lambda: world.s3.remove_bucket(theirs))


def test_ones_own_space_is_listed_and_nothing_else_with_it(world: World) -> None:
    world.s3.put_object(world.eves_space, "deep/n.txt", io.BytesIO(b"mine"), 4)
    found = world.s3.list_objects(world.eves_space, recursive=True)
    assert [item.object_name for item in found] == ["deep/n.txt"]
    for setting in ("policy", "versioning", "notification", "lifecycle"):
        status, _ = world.raw("PUT", "", f"{setting}=", bucket=world.eves_space, body=b"{}")
        assert status in (400, 403), setting
    world.denied(lambda: world.s3.remove_bucket(world.eves_space))
    world.s3.remove_object(world.eves_space, "deep/n.txt")


def test_a_space_whose_name_begins_like_ones_own_is_another(world: World) -> None:
    neighbour = f"{world.eves_space}-2"
    store = ObjectStore(world.server.access(neighbour))
    store.ensure_bucket()
    world.denied(lambda: world.s3.put_object(neighbour, "x.txt", io.BytesIO(b"evil"), 4))
    world.denied(lambda: list(world.s3.list_objects(neighbour)))
    store.close()


# ------------------------------------------------------------------ 3: path tricks, by S3


@pytest.mark.parametrize(
    "way",
    [
        "{own}/../{ann}/diary.txt",
        "{own}/..%2F{ann}%2Fdiary.txt",
        "{own}/%2e%2e/{ann}/diary.txt",
        "{own}/%2e%2e%2f{ann}%2fdiary.txt",
        "{own}/%252e%252e/{ann}/diary.txt",
        "{own}/./../{ann}/diary.txt",
        "{own}/../{secret}a.txt",
        "{own}//{secret}a.txt",
        "{own}//../{secret}a.txt",
        "{own}%2F..%2F{ann}%2Fdiary.txt",
        "{own}\\..\\{ann}\\diary.txt",
        "{own}/..%5C{ann}%5Cdiary.txt",
        "{own}/%EF%BC%8E%EF%BC%8E/{ann}/diary.txt",
        "{own}/%C0%AE%C0%AE/{ann}/diary.txt",
        "{own}/..;/{ann}/diary.txt",
        "{own}/..%00/{ann}/diary.txt",
        "./{secret}a.txt",
        "/{secret}a.txt",
        "{shared}../../{tail}a.txt",
        "{shared}%2e%2e/%2e%2e/{tail}a.txt",
        "{bucket}//{tail_of_all}a.txt",
        "{bucket}/DATASETS/{tail}a.txt",
    ],
)
def test_a_tricky_path_leads_to_nothing_of_ann(world: World, way: str) -> None:
    path = way.format(
        own=world.eves_space,
        ann=world.anns_space,
        bucket=world.bucket,
        secret=f"{world.bucket}/{world.secret.prefix}",
        shared=f"{world.bucket}/{world.shared.prefix}",
        tail=world.secret.prefix.removeprefix("datasets/"),
        tail_of_all=world.secret.prefix,
    )
    status, body = raw(world.server, world.given, "GET", f"/{path}")
    assert SECRET not in body
    assert status in (400, 403, 404), (status, body[:300])
    status, body = raw(world.server, world.given, "PUT", f"/{path}", body=b"evil")
    if status == 200:  # a strange name, but inside her own space
        assert world.eves().remove_many([item.key for item in world.eves().list("")]) == 1


@pytest.mark.parametrize("letter", ["\x01", "\n", "\r", "\x7f", "\u202e", "\ufeff", "é", "e\u0301"])
def test_a_strange_character_stays_inside_ones_own_space_and_can_be_removed(
    world: World, letter: str
) -> None:
    path = quote(f"/{world.eves_space}/a{letter}b.txt", safe="/-_.~")
    status, _ = raw(world.server, world.given, "PUT", path, body=b"x")
    assert status in (200, 400)
    space = world.eves()
    space.remove_many([item.key for item in space.list("")])
    assert list(space.list("")) == []


def test_a_very_long_key_is_refused(world: World) -> None:
    for key in (f"{'x' * 300}/{'y' * 1000}", "z" * 9000):
        status = world.raw("PUT", key, bucket=world.eves_space, body=b"x")[0]
        assert status in (400, 414, 431)


def test_a_header_that_names_another_path_changes_nothing(world: World) -> None:
    key = f"{world.shared.prefix}a.txt"
    other = f"/{world.bucket}/{world.secret.prefix}a.txt"
    for header in ("x-original-url", "x-rewrite-url", "x-forwarded-path", "x-minio-source-path"):
        status, body = world.raw("GET", f"{world.secret.prefix}a.txt", headers={header: f"/{key}"})
        assert status == 403 and SECRET not in body
        status, _ = world.raw("GET", f"{world.later.prefix}a.txt", headers={header: other})
        assert status == 403


# ------------------------------------------------------------------ 4: policies, keys, settings


@pytest.mark.parametrize(
    "setting",
    ["policy", "notification", "versioning", "lifecycle", "cors", "encryption", "tagging", "acl"],
)
def test_a_setting_of_the_bucket_is_not_changed(world: World, setting: str) -> None:
    everyone = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{world.bucket}/*"],
            }
        ],
    }
    status, _ = world.raw("PUT", "", f"{setting}=", body=json.dumps(everyone).encode())
    assert status in (403, 400, 501), status
    url = f"{world.server.url}/{world.bucket}/{world.secret.prefix}a.txt"
    assert httpx.get(url, trust_env=False).status_code == 403


def test_the_policy_of_the_bucket_is_not_read(world: World) -> None:
    assert world.raw("GET", "", "policy=")[0] == 403


def test_no_other_key_is_made_of_a_short_lived_one(world: World) -> None:
    access = world.stage.platform.storage.access
    from dataclasses import replace

    mine = replace(
        access, access_key=world.given["access_key"], secret_key=world.given["secret_key"]
    )
    with pytest.raises(StorageRefused):
        assume(mine, '{"Version":"2012-10-17","Statement":[]}', 900)
    body = b"Action=AssumeRole&Version=2011-06-15&DurationSeconds=604800"
    status, answer = raw(world.server, world.given, "POST", "/", body=body)
    assert status in (400, 403) and b"AccessKeyId" not in answer


@pytest.mark.parametrize(
    "act",
    [
        lambda admin: admin.info(),
        lambda admin: admin.user_list(),
        lambda admin: admin.user_add("eve2", "a-long-secret-1"),
        lambda admin: admin.policy_list(),
        lambda admin: admin.config_get("audit_webhook"),
        lambda admin: admin.add_service_account(name="eve"),
        lambda admin: admin.list_service_account("minioadmin"),
        lambda admin: admin.bucket_quota_clear("any"),
    ],
    ids=["info", "users", "user", "policies", "configuration", "service account", "keys", "quota"],
)
def test_the_storages_administration_is_closed(
    world: World, act: Callable[[MinioAdmin], Any]
) -> None:
    given = world.given
    admin = MinioAdmin(
        endpoint=world.server.url.removeprefix("http://"),
        credentials=StaticProvider(
            given["access_key"], given["secret_key"], given["session_token"]
        ),
        secure=False,
        region="us-east-1",
    )
    # minio-py stumbles over a refusal of its own question for the configuration.
    with pytest.raises((MinioAdminException, UnboundLocalError)):
        act(admin)


# ------------------------------------------------------------------ 5: forged, stolen and ended


def test_keys_without_their_session_token_open_nothing(world: World) -> None:
    given = {**world.given, "session_token": ""}
    assert world.raw("GET", f"{world.shared.prefix}a.txt", given=given)[0] == 403


def test_the_session_token_of_another_does_not_widen_ones_own(world: World) -> None:
    anns = world.stage.credentials(world.stage.server_token("ann"))
    given = {**world.given, "session_token": anns["session_token"]}
    assert world.raw("GET", f"{world.secret.prefix}a.txt", given=given)[0] == 403
    given = {**anns, "secret_key": world.given["secret_key"]}
    assert world.raw("GET", f"{world.secret.prefix}a.txt", given=given)[0] == 403


@pytest.mark.parametrize("signing", ["none", "own secret", "access key", "unsigned"])
def test_a_session_token_with_another_policy_is_not_believed(world: World, signing: str) -> None:
    head, body, signature = world.given["session_token"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims.pop("sessionPolicy")
    claims["exp"] += 86400
    if signing == "none":
        head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    key = {"own secret": "secret_key", "access key": "access_key"}.get(signing)
    if key:
        digest = hmac.digest(world.given[key].encode(), f"{head}.{body}".encode(), "sha512")
        signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    elif signing == "none":
        signature = ""
    given = {**world.given, "session_token": f"{head}.{body}.{signature}"}
    assert world.raw("GET", f"{world.secret.prefix}a.txt", given=given)[0] in (400, 403)
    assert world.raw("GET", f"{world.shared.prefix}a.txt", given=given)[0] in (400, 403)


def test_credentials_live_15_minutes(world: World) -> None:
    claims = json.loads(base64.urlsafe_b64decode(world.given["session_token"].split(".")[1] + "=="))
    assert claims["exp"] - time.time() <= 900


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_after_15_minutes_real_credentials_have_ended(world: World) -> None:
    key = f"{world.shared.prefix}a.txt"
    given = world.stage.credentials(world.token)
    assert world.raw("GET", key, given=given)[0] == 200
    time.sleep(given["seconds"] + 5)
    assert world.raw("GET", key, given=given)[0] in (400, 403)


def test_the_platforms_own_key_is_in_nothing_that_eve_gets(world: World) -> None:
    told = json.dumps(world.given)
    assert world.server.secret_key not in told
    claims = base64.urlsafe_b64decode(world.given["session_token"].split(".")[1] + "==")
    assert world.server.secret_key.encode() not in claims


def unsigned(world: World, bucket: str, key: str, access_key: str, token: str = "") -> int:
    """A write that nobody signed, in the way that MinIO does not look at
    (``storage/signature_probe.py``)."""
    data, date = b"evil", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{access_key}/{date[:8]}/us-east-1/s3/aws4_request",
        "X-Amz-Date": date,
        "X-Amz-Expires": "60",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
    }
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-encoding": "aws-chunked",
        "x-amz-date": date,
    }
    if token:
        query["X-Amz-Security-Token"] = headers["x-amz-security-token"] = token
    body = b"4\r\nevil\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % checksum.encode()
    url = f"{world.server.url}/{bucket}/{key}"
    return httpx.put(url, params=query, headers=headers, content=body, trust_env=False).status_code


def test_the_parent_that_a_session_token_names_can_write_nothing_of_others(world: World) -> None:
    """MinIO writes for whoever names a key, signed or not, and the token names its parent."""
    body = world.given["session_token"].split(".")[1]
    parent = json.loads(base64.urlsafe_b64decode(body + "=="))["parent"]
    assert parent != world.server.access_key
    for held in (world.secret, world.shared, world.later):
        assert unsigned(world, world.bucket, f"{held.prefix}a.txt", parent) == 403
        token = world.given["session_token"]
        key = f"{held.prefix}a.txt"
        assert unsigned(world, world.bucket, key, world.given["access_key"], token) == 403
    assert unsigned(world, world.anns_space, "diary.txt", parent) == 403
    # The name of somebody's bucket can be worked out; that of the user who may write it cannot.
    parent_of(world.stage.platform.storage.access, world.anns_space)  # as when Ann gets keys
    assert unsigned(world, world.anns_space, "diary.txt", world.anns_space) == 403
    manifest = f"manifests/{world.secret.dataset.id}/{world.secret.version.id}.json"
    assert unsigned(world, world.bucket, manifest, parent) == 403


# ------------------------------------------------------------------ 6: presigned addresses


def test_an_address_that_eve_signs_for_a_private_file_opens_nothing(world: World) -> None:
    url = world.s3.presigned_get_object(world.bucket, f"{world.secret.prefix}a.txt")
    assert httpx.get(url, trust_env=False).status_code == 403


def test_an_address_for_one_part_is_for_nothing_else(world: World) -> None:
    store = ObjectStore(world.stage.platform.storage.access, direct=True)
    with world.stage.platform.database.reading() as connection:
        draft_less = datasets.draft_of(connection, world.own.dataset.id)
    assert draft_less is None
    key = f"datasets/{world.own.dataset.id}/{'f' * 32}/new.bin"
    upload = store.create_upload(key)
    url = store.presign_part(key, upload, 1, 4, origin=world.stage.url)
    other = url.replace(key, f"{world.shared.prefix}a.txt")
    for method, address, body in (
        ("PUT", other, b"evil"),
        ("GET", url, b""),
        ("DELETE", url, b""),
        ("POST", url, b""),
        ("PUT", url.replace("partNumber=1", "partNumber=2"), b"evil"),
        ("PUT", url, b"evil and much longer than was agreed"),
        ("PUT", url.split("?")[0] + "?" + url.split("?")[1].split("&uploadId")[0], b"evil"),
    ):
        answer = httpx.request(method, address, content=body, trust_env=False)
        assert answer.status_code in (400, 403), (method, address, answer.text)
    stolen = f"/{world.bucket}/{world.secret.prefix}a.txt"
    copied = httpx.put(url, content=b"evil", headers={"x-amz-copy-source": stolen}, trust_env=False)
    parts = store.list_parts(key, upload)
    assert all(part.size_bytes == 4 for part in parts), copied.text
    store.abort_upload(key, upload)
    again = httpx.put(url, content=b"evil", trust_env=False)
    assert again.status_code in (403, 404)


def test_an_address_of_a_part_takes_nothing_after_the_file_is_complete(world: World) -> None:
    store = ObjectStore(world.stage.platform.storage.access, direct=True)
    key = f"datasets/{world.own.dataset.id}/{'e' * 32}/done.bin"
    upload = store.create_upload(key)
    url = store.presign_part(key, upload, 1, 4, origin=world.stage.url)
    assert httpx.put(url, content=b"good", trust_env=False).status_code == 200
    store.complete_upload(key, upload, store.list_parts(key, upload))
    assert httpx.put(url, content=b"evil", trust_env=False).status_code in (403, 404)
    assert store.read(key) == b"good"
    store.remove(key)


# ------------------------------------------------------------------ 7: nobody at all


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "HEAD"])
def test_whoever_has_no_keys_gets_nothing_from_the_storage(world: World, method: str) -> None:
    for key in (f"{world.secret.prefix}a.txt", ""):
        url = f"{world.server.url}/{world.bucket}/{key}"
        answer = httpx.request(method, url, trust_env=False)
        assert answer.status_code in (400, 403, 405, 411) and SECRET not in answer.content


# ------------------------------------------------------------------ 8: the web service


def test_the_token_of_a_server_reaches_no_other_operation(world: World) -> None:
    from hub_services.web.api.operations import OPERATIONS

    with world.stage.with_token(world.token) as api:
        for operation in OPERATIONS:
            if operation.by_server:
                continue
            path = operation.path.replace("{id}", world.secret.dataset.id)
            answer = api.request(operation.method, f"/{path.replace('{', '').replace('}', '')}")
            assert answer.status_code == 403, (operation.method, path, answer.text)
            assert world.secret.dataset.name not in answer.text


def test_the_token_of_a_server_opens_no_page_and_nothing_of_the_hub(world: World) -> None:
    headers = {"Authorization": f"token {world.token}"}
    with httpx.Client(base_url=world.stage.url, headers=headers, trust_env=False) as web:
        for path in ("datasets", "usage", "datasets/ann/secret/download?path=a.txt"):
            answer = web.get(f"/services/dcloud/{path}")
            assert answer.status_code in (302, 403) and SECRET not in answer.content
        for path in ("users", "users/ann", "groups", "services", "proxy"):
            assert web.get(f"/hub/api/{path}").status_code in (403, 404)
        assert web.post("/hub/api/users/eve/tokens", json={}).status_code == 403
        assert web.delete("/hub/api/users/eve/server").status_code == 403


def test_the_token_of_one_server_gets_nothing_for_another(world: World) -> None:
    with world.stage.with_token(world.token) as api:
        answer = api.post("/storage/credentials", json={"server": "other"})
        assert answer.status_code == 403


def test_a_server_that_does_not_run_gets_no_credentials(world: World) -> None:
    with world.stage.api("eve") as api:
        answer = api.post("/storage/credentials", json={"server": "ghost"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_server")


def test_ann_s_server_is_not_eve_s_by_its_name(world: World) -> None:
    with world.stage.api("eve") as api:
        given = api.post("/storage/credentials", json={"server": ""}).json()
    assert [place["name"] for place in given["datasets"]] == ["shared"]


def test_a_folder_that_the_server_has_not_got_is_not_given_by_its_name(world: World) -> None:
    with world.stage.with_token(world.token) as api:
        for name in ("secret", "later", "../secret", world.secret.dataset.id):
            answer = api.post("/storage/credentials", json={"datasets": [name]})
            assert answer.status_code == 400, answer.text


def test_after_a_share_is_taken_back_new_credentials_do_not_reach_it(world: World) -> None:
    stage = world.stage
    catalog.share(stage.platform, ANN, world.secret.dataset.id, "user", "mallory", "read")
    stage.run("mallory", world.secret)
    token = stage.server_token("mallory")
    assert [place["name"] for place in stage.credentials(token)["datasets"]] == ["secret"]
    catalog.unshare(stage.platform, ANN, world.secret.dataset.id, "user", "mallory")
    again = stage.credentials(token)
    assert again["datasets"] == []
    key = f"{world.secret.prefix}a.txt"
    world.denied(lambda: stage.s3(again).get_object(world.bucket, key))
    with stage.platform.database.reading() as connection:
        uses = dataset_mounts.open_uses(connection, world.secret.dataset.id)
    assert "revoked" in {use.mount.state.value for use in uses if use.user == "mallory"}


def test_a_dataset_in_the_bin_is_not_reached(world: World) -> None:
    stage = world.stage
    held = stage.dataset("eve", "binned", {"x.txt": b"x"})
    stage.run("eve", held, server="bin")
    token = stage.server_token("eve", "bin")
    assert len(stage.credentials(token)["datasets"]) == 1
    catalog.throw_away(stage.platform, Asker(Actor("eve")), held.dataset.id)
    assert stage.credentials(token)["datasets"] == []


def test_a_new_user_of_an_old_name_does_not_get_the_old_ones_space(world: World) -> None:
    from dcloud_spawner import user_homes

    stage = world.stage
    stage.home("trudy")
    stage.run("trudy")
    token = stage.server_token("trudy")
    assert stage.credentials(token)["own_bucket"]
    with stage.platform.database.transaction() as connection:
        user_homes.orphan_home(connection, "trudy", Actor("test"))
    assert stage.credentials(token)["own_bucket"] == ""


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/{secret}",
        "/datasets/ann%2Fsecret",
        "/datasets/ann%2F..%2Fann%2Fsecret",
        "/datasets/{secret}/log",
        "/datasets/{secret}/versions/1/files",
        "/datasets/{secret}/versions/draft/files",
    ],
)
def test_a_private_dataset_is_not_there_for_eve(world: World, path: str) -> None:
    with world.stage.api("eve") as api:
        there = api.get(path.format(secret=world.secret.dataset.id))
        missing = api.get(path.format(secret="0" * 32).replace("secret", "nothing"))
    assert there.status_code in (404, 400)
    if there.status_code == 404 and "{secret}" in path:
        assert there.json()["error"]["code"] == missing.json()["error"]["code"]
    assert "4711" not in there.text


def test_eve_may_read_shared_but_not_its_log_nor_change_it(world: World) -> None:
    identifier = world.shared.dataset.id
    with world.stage.api("eve") as api:
        assert api.get(f"/datasets/{identifier}").status_code == 200
        assert api.get(f"/datasets/{identifier}/log").status_code == 403
        assert api.patch(f"/datasets/{identifier}", json={"everyone": True}).status_code == 403
        body = {"kind": "user", "name": "eve", "right": "write"}
        assert api.post(f"/datasets/{identifier}/shares", json=body).status_code == 403
        assert api.delete(f"/datasets/{identifier}").status_code == 403
        upload = {"files": [{"path": "x.txt", "size_bytes": 1}]}
        assert api.post(f"/datasets/{identifier}/uploads", json=upload).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/etc/passwd",
        "a//b.txt",
        "./a.txt",
        "a\\..\\b.txt",
        "a\x00b.txt",
        "a\nb.txt",
        "a\u202eb.txt",
        "\uff0e\uff0e/evil.txt",
        "x" * 300,
        "/".join(["y" * 200] * 6),
        "",
        ".",
        "..",
        "a/",
        "a /b",
    ],
    ids=lambda path: repr(path)[:24],
)
def test_a_tricky_path_is_not_uploaded_outside_of_its_dataset(world: World, path: str) -> None:
    with world.stage.api("eve") as api:
        api.post(f"/datasets/{world.own.dataset.id}/draft", json={"empty": True})
        body = {"files": [{"path": path, "size_bytes": 0}]}
        answer = api.post(f"/datasets/{world.own.dataset.id}/uploads", json=body)
        api.delete(f"/datasets/{world.own.dataset.id}/draft")
    store = world.stage.platform.storage
    begun = f"datasets/{world.own.dataset.id}/"
    outside = [
        item.key
        for item in store.list("")
        if b"evil" in item.key.encode() and not item.key.startswith(begun)
    ]
    assert outside == []
    assert (
        answer.status_code == 400
        or "error" in answer.text
        or begun in str([item.key for item in store.list(begun)])
    ), answer.text


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/hub/api",
        "http://localhost:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://017700000001/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://10.0.0.1/x",
        "http://192.168.1.1/x",
        "http://172.17.0.1/x",
        "http://100.64.0.1/x",
        "http://user@127.0.0.1/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
        "ftp://127.0.0.1/x",
    ],
)
def test_nothing_is_imported_from_inside(world: World, url: str) -> None:
    """Refused at once, and by the job before it connects; redirects, names that change and zips
    that leave their folder: tests/storage/test_imports.py."""
    address = url.format(port=world.stage.settings.hub_port)
    identifier = world.own.dataset.id
    with world.stage.api("eve") as api:
        api.post(f"/datasets/{identifier}/draft", json={"empty": True})
        answer = api.post(
            f"/datasets/{identifier}/imports/url", json={"url": address, "path": "got.txt"}
        )
        store = {"endpoint": address.partition("/x")[0], "bucket": "got"}
        of_store = api.post(f"/datasets/{identifier}/imports/s3", json=store)
        refused = [(said.status_code, said.json()["error"]) for said in (answer, of_store)]
        assert [(status, error["field"]) for status, error in refused] == [
            (400, "url"),
            (400, "endpoint"),
        ]
        if refused[0][1]["code"] == "address_not_allowed":
            # What the job does with it.
            with pytest.raises(InvalidChoice):
                guarded_pool(reach_of(world.stage.settings)).request("GET", address, retries=False)
        api.delete(f"/datasets/{identifier}/draft")


# ------------------------------------------------------------------ 9: the storage's own log


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "wrong"])
def test_nobody_but_the_storage_tells_of_accesses(world: World, token: str) -> None:
    entry = {
        "time": "2026-01-01T00:00:00Z",
        "accessKey": world.given["access_key"],
        "requestID": "forged",
        "api": {
            "name": "GetObject",
            "bucket": world.bucket,
            "object": f"{world.secret.prefix}a.txt",
            "statusCode": 200,
        },
    }
    url = f"{world.stage.url}/services/dcloud/storage/events"
    answer = httpx.post(url, json=entry, headers={"Authorization": token}, trust_env=False)
    assert answer.status_code == 403
    with world.stage.platform.database.reading() as connection:
        lines = connection.execute(
            select(events.c.action).where(events.c.target == world.secret.dataset.id)
        ).scalars()
        assert "dataset.read" not in list(lines)


def test_the_hash_of_a_file_is_that_of_its_bytes(world: World) -> None:
    with world.s3.get_object(world.bucket, f"{world.shared.prefix}a.txt") as answer:
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(SECRET).digest()
