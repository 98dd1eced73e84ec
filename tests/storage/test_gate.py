"""Uploads by the hub's own address: the real proxy, the gate, and each of the two storages."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import upload_route
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.policies import OwnBucket, session_policy
from dcloud_spawner.storage.store import MIN_PART_BYTES, ObjectStore
from dcloud_spawner.storage.sts import assume
from hub_services.cli.deployment import cache_dir
from hub_services.cli.gate import gate_command, gate_environment
from hub_services.cli.node import install_proxy, proxy_command
from tests.patience import patient
from tests.services import free_port
from tests.storage.servers import StorageServer
from tests.storage.urls import download_url

KEY = file_key("d1", "v1", "a folder/ünï 文.html")


@pytest.fixture
def store(storage_server: StorageServer) -> Iterator[ObjectStore]:
    """As the platform has it: what it gives out is for anybody."""
    made = ObjectStore(storage_server.access(f"test-{secrets.token_hex(6)}"))
    made.ensure_bucket()
    yield made
    made.close()


@pytest.fixture
def origin(store: ObjectStore, tmp_path: Path) -> Iterator[str]:
    """The address of a proxy whose way to the storage is the deployment's own."""
    settings = Settings(
        state=tmp_path,
        storage_url=store.access.url,
        storage_bucket=store.bucket,
        storage_gate_port=free_port(),
        port=free_port(),
        proxy_api_port=free_port(),
    )
    install_proxy(cache_dir())
    token = secrets.token_hex(16)
    proxy = [
        *proxy_command(cache_dir()),
        "--ip=127.0.0.1",
        f"--port={settings.port}",
        "--api-ip=127.0.0.1",  # what "localhost" is, is not the same everywhere
        f"--api-port={settings.proxy_api_port}",
    ]
    started = [
        _start(gate_command(), gate_environment(settings, store.access)),
        _start(proxy, {"CONFIGPROXY_AUTH_TOKEN": token}),
    ]
    try:
        for port in (settings.storage_gate_port, settings.port, settings.proxy_api_port):
            _wait(port)
        for route, target in upload_route(settings).items():
            httpx.post(
                f"http://127.0.0.1:{settings.proxy_api_port}/api/routes{route}",
                json={"target": target},
                headers={"Authorization": f"token {token}"},
            ).raise_for_status()
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        for process in started:
            process.terminate()
            process.wait()


def _start(command: list[str], environment: object) -> subprocess.Popen[bytes]:
    assert hasattr(environment, "items")
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)


def _wait(port: int) -> None:
    deadline = time.monotonic() + patient(30)
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing answers on port {port}")


def test_parts_go_in_by_the_hubs_address_side_by_side_with_nothing_lost(
    store: ObjectStore, origin: str
) -> None:
    parts = [os.urandom(MIN_PART_BYTES + number) for number in range(4)]
    upload = store.create_upload(KEY)
    with httpx.Client() as client:
        for number, data in enumerate(parts, 1):
            url = store.presign_part(KEY, upload, number, len(data), origin=origin)
            assert url.startswith(f"{origin}/{store.bucket}/")
            answer = client.put(url, content=data)
            assert answer.status_code == 200, answer.text
    store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
    assert store.read(KEY) == b"".join(parts)


def test_nothing_but_a_signed_part_gets_through(store: ObjectStore, origin: str) -> None:
    store.put(KEY, b"<script>alert(document.domain)</script>", content_type="text/html")
    upload = store.create_upload(KEY)
    part = store.presign_part(KEY, upload, 1, 4, origin=origin)
    get = download_url(store, KEY).replace(store.access.url, origin)
    bare = part.partition("?")[0]
    attempts = [
        ("GET", get),
        ("HEAD", get),
        ("GET", bare),
        ("GET", f"{origin}/{store.bucket}/"),
        ("GET", f"{origin}/{store.bucket}/?list-type=2"),
        ("PUT", bare),
        ("PUT", f"{part}&partNumber=2"),
        ("PUT", f"{part}&tagging="),
        ("PUT", f"{part}&response-content-type=text/html"),
        ("PUT", part.replace("/datasets/", "/people/")),
        ("PUT", part.replace("/datasets/", "//datasets/")),
        ("POST", part),
        ("DELETE", part),
        ("PATCH", part),
    ]
    for method, url in attempts:
        answer = httpx.request(method, url, content=b"data" if method == "PUT" else None)
        assert answer.status_code in (400, 403, 404), (method, url, answer.status_code)
        assert "script" not in answer.text
        assert not answer.headers.get("content-type", "").startswith("text/html") or (
            answer.status_code == 404
        )
    # The storage takes the second question mark for a part of the query.
    answer = httpx.put(f"{part}?&tagging=", content=b"data")
    assert (answer.status_code, answer.text) == (403, "This address is not as it was made.\n")
    for path in ("/datasets/../people/x", "/datasets/./x", "/people/../datasets/d1"):
        connection = http.client.HTTPConnection(urlsplit(origin).netloc)  # sends paths as given
        connection.request("PUT", f"/{store.bucket}{path}?{part.partition('?')[2]}", b"data")
        assert connection.getresponse().status == 403
        connection.close()
    assert store.list_parts(KEY, upload) == []


def test_a_page_elsewhere_may_ask_whether_it_may_send(origin: str, store: ObjectStore) -> None:
    asked = httpx.options(
        f"{origin}/{store.bucket}/datasets/d1/v1/f",
        headers={"Origin": "https://hub.example", "Access-Control-Request-Method": "PUT"},
    )
    assert asked.status_code == 200 and not asked.content
    assert asked.headers["access-control-allow-methods"] == "PUT"
    assert "access-control-allow-credentials" not in asked.headers


def test_a_users_own_keys_show_no_page_on_the_hubs_address(
    store: ObjectStore, origin: str, storage_server: StorageServer
) -> None:
    if storage_server.kind != "minio":
        return  # nobody has keys there
    keys = assume(store.access, session_policy(store.bucket, own=OwnBucket(store.bucket)))
    mine = ObjectStore(
        replace(
            store.access,
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.session_token,
            public_url=origin,
        )
    )
    mine.put(KEY, b"<script>1</script>", content_type="text/html")
    answer = httpx.get(download_url(mine, KEY))
    assert answer.status_code == 403 and "script" not in answer.text


def test_a_url_shows_nothing_that_the_storage_takes_for_a_signature(
    store: ObjectStore, origin: str, storage_server: StorageServer
) -> None:
    upload = store.create_upload(KEY)
    url = store.presign_part(KEY, upload, 1, 4, origin=origin)
    if storage_server.kind == "minio":  # which takes access key and token for one
        assert "X-Amz-Security-Token" not in url and storage_server.access_key not in url
        name, _, rest = url.partition("X-Dcloud-Sealed=")
        for wrong in (f"{rest[:40]}x{rest[41:]}", "AA"):
            answer = httpx.put(f"{name}X-Dcloud-Sealed={wrong}", content=b"data")
            assert answer.status_code == 403
        straight = url.replace(origin, storage_server.url)
        assert httpx.put(straight, content=b"data").status_code == 403
    assert httpx.put(url, content=b"data").status_code == 200


def test_no_header_that_was_not_signed_reaches_the_storage(store: ObjectStore, origin: str) -> None:
    store.put(file_key("d2", "v1", "theirs"), b"theirs!!")
    upload = store.create_upload(KEY)
    url = store.presign_part(KEY, upload, 1, 4, origin=origin)
    source = f"/{store.bucket}/{file_key('d2', 'v1', 'theirs')}"
    answer = httpx.put(url, content=b"mine", headers={"x-amz-copy-source": source})
    assert answer.status_code == 200 and "Copy" not in answer.text
    store.complete_upload(KEY, upload, store.list_parts(KEY, upload))
    assert store.read(KEY) == b"mine"


def test_who_is_refused_is_told_so_also_after_a_large_part(store: ObjectStore, origin: str) -> None:
    """An answer that comes while the sender writes is lost with the connection."""
    upload = store.create_upload(KEY)
    large = b"x" * (8 << 20)
    url = store.presign_part(KEY, upload, 1, len(large), origin=origin)
    with httpx.Client() as client:
        for wrong in (url.partition("?")[0], f"{url}x"):
            assert client.put(wrong, content=large).status_code == 403
        assert client.put(url, content=large).status_code == 200


def test_a_wrong_length_and_a_chunked_body_are_refused(store: ObjectStore, origin: str) -> None:
    upload = store.create_upload(KEY)
    url = store.presign_part(KEY, upload, 1, 4, origin=origin)
    assert httpx.put(url, content=b"too long").status_code == 403
    assert httpx.put(url, content=iter([b"da", b"ta"])).status_code == 403
    answer = httpx.put(url.replace("partNumber=1", "partNumber=2"), content=b"data")
    assert (answer.status_code, answer.text) == (403, "SignatureDoesNotMatch")
    assert store.list_parts(KEY, upload) == []
