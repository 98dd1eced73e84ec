"""What the two storages differ in and what not: names, restarts, silence, keys of other users."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from minio import MinioAdmin
from minio.credentials import StaticProvider

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage import default
from dcloud_spawner.storage.capabilities import CapabilityBook
from dcloud_spawner.storage.errors import StorageAway, UploadGone
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import MIN_PART_BYTES, ObjectStore
from hub_services.cli.gate import gate_command, gate_environment
from tests import services
from tests.patience import patient
from tests.services import Missing
from tests.storage.servers import StorageServer, minio, rclone
from tests.storage.urls import download_url

KEY = file_key("d1", "v1", "file")

NAMES = [
    "a" * 255,
    f"{'x' * 100}/{'y' * 255}/{'z' * 200}",
    "c d+e%41&=?#[]@!$'()*,;:.txt",
    "文字-🙂.bin",
    "e\u0301 as two.txt",
    "dot.",
    "...x",
    "-rf",
    "~",
    "CASE",
    "case",
    "NUL",
    'back`tick "q" <b> a|b',
    "％ ‛x ＊",
    ".metadata",
    "x.rclonelink",
]
"""What rclone, a file system, S3, XML or a URL could take for something else."""


@pytest.fixture(params=["minio", "rclone"])
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageServer]:
    """A server that nobody else uses, to stop, freeze and start again."""
    if request.param == "rclone":
        with rclone(tmp_path) as server:
            yield server
        return
    try:
        binary = services.minio_binary()
    except Missing as error:
        pytest.skip(str(error))
    with minio(binary, tmp_path) as server:
        yield server


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_comes_back_as_it_was(store: ObjectStore, name: str) -> None:
    key, copy = file_key("d1", "v1", name), file_key("d1", "v2", name)
    upload = store.create_upload(key)
    url = store.presign_part(key, upload, 1, 4)
    assert httpx.put(url, content=b"data").status_code == 200
    store.complete_upload(key, upload, store.list_parts(key, upload))
    store.copy(key, copy)
    assert store.read(key) == store.read(copy) == b"data"
    assert httpx.get(download_url(store, key)).content == b"data"
    assert [item.key for item in store.list("datasets/d1/")] == [key, copy]
    assert store.remove_many([key, copy]) == 2
    assert list(store.list("datasets/")) == []


def test_parts_come_in_any_order_and_twice(store: ObjectStore) -> None:
    parts = {number: os.urandom(MIN_PART_BYTES) for number in (1, 2, 3)}
    upload = store.create_upload(KEY)
    for number in (3, 1, 1, 2, 3):
        store.put_part(KEY, upload, number, parts[number])
    store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
    assert store.read(KEY) == parts[1] + parts[2] + parts[3]


def test_files_outlive_a_kill_and_an_upload_goes_on_or_is_said_to_be_gone(
    own_server: StorageServer,
) -> None:
    store = ObjectStore(own_server.access())
    store.ensure_bucket()
    store.put(KEY, b"kept")
    upload = store.create_upload(KEY)
    new = os.urandom(4 * MIN_PART_BYTES)
    store.put_part(KEY, upload, 1, new)
    own_server.stop(kill=True)
    own_server.start()
    assert store.read(KEY) == b"kept"
    if own_server.kind == "minio":
        store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
        assert store.read(KEY) == new
        return
    with pytest.raises(UploadGone):
        store.list_parts(KEY, upload)
    assert store.read(KEY) == b"kept"
    left = list(own_server.folder.rglob(".rclone_temp_*"))
    assert left and [item.key for item in store.list("datasets/")] == [KEY]
    time.sleep(0.05)  # file systems count time in steps
    default.sweep(own_server.folder / "data", own_server.folder / "marker")
    deadline = time.monotonic() + patient(10)
    while any(path.exists() for path in left):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.read(KEY) == b"kept"


def test_a_server_that_falls_silent_is_away_in_time_and_back_at_once(
    own_server: StorageServer,
) -> None:
    store = ObjectStore(own_server.access())
    store.ensure_bucket()
    store.put(KEY, b"kept")
    own_server.freeze()
    began = time.monotonic()
    with pytest.raises(StorageAway):
        ObjectStore(own_server.access(), connect_seconds=0.5, read_seconds=0.5, again=1).read(KEY)
    assert time.monotonic() - began < patient(5)
    own_server.thaw()
    assert store.read(KEY) == b"kept"


def test_a_read_that_breaks_off_is_no_short_file(own_server: StorageServer) -> None:
    store = ObjectStore(own_server.access())
    store.ensure_bucket()
    store.put(KEY, os.urandom(64 << 20))
    received = 0
    with pytest.raises(StorageAway):
        for chunk in store.stream(KEY):
            received += len(chunk)
            if own_server.process:
                own_server.stop(kill=True)
    assert received < 64 << 20


def test_a_storage_by_tls_is_spoken_to_only_with_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minio_server: StorageServer
) -> None:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    _certificate(certificates)
    binary = Path(minio_server.command[0])
    with minio(binary, tmp_path, certificates=certificates) as server:
        access = server.access()
        with pytest.raises(StorageAway) as caught:
            ObjectStore(access, again=0).ensure_bucket()
        assert "CERTIFICATE_VERIFY_FAILED" in caught.value.detail
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "public.crt"))
        store = ObjectStore(access)
        store.ensure_bucket()
        assert CapabilityBook(store, default=False).get().sts
        upload = store.create_upload(KEY)
        settings = Settings(
            state=tmp_path, storage_url=access.url, storage_gate_port=services.free_port()
        )
        gate = subprocess.Popen(
            gate_command(),
            env={**os.environ, **gate_environment(settings, access)},
            stdout=subprocess.PIPE,
        )
        try:
            assert gate.stdout and gate.stdout.readline()
            origin = f"http://127.0.0.1:{settings.storage_gate_port}"
            url = store.presign_part(KEY, upload, 1, 4, origin=origin)
            assert httpx.put(url, content=b"data").status_code == 200
        finally:
            gate.terminate()
            gate.wait()
        store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
        assert store.read(KEY) == b"data"


def _certificate(folder: Path) -> None:
    """One that signs itself, as a laboratory's may."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "private.key"), "-out", str(folder / "public.crt")]
    subprocess.run([*command, *files], check=True, capture_output=True)


def test_an_ordinary_user_of_minio_does_and_a_service_account_gets_no_short_lived_keys(
    minio_store: ObjectStore, minio_server: StorageServer
) -> None:
    admin = MinioAdmin(
        endpoint=minio_server.access().host,
        credentials=StaticProvider(minio_server.access_key, minio_server.secret_key),
        secure=False,
    )
    name, secret = f"platform{secrets.token_hex(4)}", secrets.token_hex(16)
    admin.user_add(name, secret)
    admin.attach_policy(["readwrite"], user=name)
    user = ObjectStore(replace(minio_store.access, access_key=name, secret_key=secret), direct=True)
    assert CapabilityBook(user, default=False).get().sts
    upload = user.create_upload(KEY)
    url = user.presign_part(KEY, upload, 1, 4)
    assert "X-Amz-Security-Token" in url and httpx.put(url, content=b"data").status_code == 200
    user.complete_upload(KEY, upload, user.list_parts(KEY, upload))
    assert minio_store.read(KEY) == b"data"
    keys = json.loads(admin.add_service_account())["credentials"]
    account = ObjectStore(
        replace(minio_store.access, access_key=keys["accessKey"], secret_key=keys["secretKey"])
    )
    assert not CapabilityBook(account, default=False).get().sts
