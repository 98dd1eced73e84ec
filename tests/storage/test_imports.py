"""Imports into a draft, from the web and from another store, on real stores.

Simulated: the web, by a server on loopback; a setting opens that network where it is to be reached.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import secrets
import socket
import ssl
import stat
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner.datasets import catalog, imports, versions
from dcloud_spawner.datasets.addresses import Reach, networks
from dcloud_spawner.datasets.import_orders import store_order, url_order
from dcloud_spawner.errors import Conflict, InvalidChoice, NotAllowed, UserError
from dcloud_spawner.roles import RoleLimits
from dcloud_spawner.storage.errors import UploadGone
from dcloud_spawner.storage.keys import dataset_prefix
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_jobs, events
from dcloud_spawner.store.dataset_jobs import Job, JobState
from dcloud_spawner.store.datasets import Dataset
from hub_services.datasets import outside as fetching
from hub_services.datasets.jobs import Jobs
from hub_services.datasets.leftovers import spool_folder
from hub_services.datasets.outside import GivenUp, SourceAway, guarded_pool, opened
from tests.patience import patient
from tests.storage.outside import Outside, Page, outside
from tests.storage.servers import StorageServer
from tests.storage.world import ANN, BOB, Lab, lab

pytestmark = [pytest.mark.database, pytest.mark.sqlite_suffices]

LOOPBACK = ("127.0.0.0/8",)
LARGE = random.Random(1).randbytes(40 << 20)


@pytest.fixture(scope="module")
def web() -> Iterator[Outside]:
    with outside() as server:
        yield server


@pytest.fixture
def world(database_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[Lab]:
    """A deployment that may import from loopback."""
    with lab(database_url, tmp_path, store, import_networks=LOOPBACK) as made:
        yield made


@pytest.fixture(scope="module")
def shut(
    module_databases: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    rclone_server: StorageServer,
) -> Iterator[Lab]:
    """A deployment as it is by default, that the tests of what is refused share."""
    store = ObjectStore(rclone_server.access(f"shut-{secrets.token_hex(6)}"))
    store.ensure_bucket()
    folder = tmp_path_factory.mktemp("shut")
    with lab(module_databases["database_url"], folder, store) as made:
        yield made
    store.close()


def fetch(world: Lab, dataset: Dataset, url: str, path: str = "", **more: Any) -> Job:
    job = imports.begin_import(world.platform, ANN, dataset.id, url_order(url, path, **more))
    return world.wait(job)


def nothing_left(world: Lab, dataset: Dataset, job: Job) -> None:
    """No room is kept, no secret, no file on this disk, no upload."""
    files = world.files(world.draft(dataset).id).values()
    assert world.now(dataset).stored_bytes == sum(file.size_bytes for file in files)
    assert imports.kept_secrets(world.platform.settings) == []
    assert not spool_folder(world.platform.settings, job.id).exists()
    assert not world.job(job.id).order.get(imports.UPLOADS)
    with suppress(UploadGone):  # as the small default says that there are none
        prefix = dataset_prefix(dataset.id)
        assert [each.key for each in world.store.open_uploads(prefix)] == []


@pytest.mark.parametrize("size", [0, 11, len(LARGE)])
def test_a_file_of_the_web_is_in_the_draft_as_it_was_there(
    world: Lab, web: Outside, size: int
) -> None:
    dataset = world.dataset()
    web.pages["/data/a file.bin"] = Page(LARGE[:size])
    job = fetch(world, dataset, f"{web.url}/data/a%20file.bin?sig=secret", "raw/")
    assert job.state is JobState.DONE, job.message
    assert (job.done_files, job.done_bytes) == (1, size)
    draft = world.draft(dataset)
    (file,) = world.files(draft.id).values()
    assert (file.path, file.size_bytes) == ("raw/a file.bin", size)
    assert world.read(dataset, draft.id, file.path) == LARGE[:size]
    nothing_left(world, dataset, job)
    with world.platform.database.reading() as connection:
        lines = events.read(connection, target=dataset.id)
        assert "secret" not in repr(world.job(job.id)) + repr(lines)
        assert [line.action for line in lines][-3:] == [
            "dataset.import",
            "dataset.upload",
            "dataset.imported",
        ]
    done = world.publish(dataset)
    assert done.state is JobState.DONE, done.message


def test_a_file_of_unknown_size_is_imported_too(world: Lab, web: Outside) -> None:
    dataset = world.dataset()
    web.pages["/stream"] = Page(b"so much" * 1000, length=None)
    job = fetch(world, dataset, f"{web.url}/stream", "stream.txt")
    assert job.state is JobState.DONE, job.message
    assert world.read(dataset, world.draft(dataset).id, "stream.txt") == b"so much" * 1000
    nothing_left(world, dataset, job)


def zipped(files: dict[str, bytes], **attributes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def test_a_zip_is_unpacked_into_a_folder(world: Lab, web: Outside) -> None:
    dataset = world.dataset()
    files = {"a/1.txt": b"1" * 1000, "ä.csv": b"x", "empty": b"", "deep/er/b": LARGE[:100_000]}
    web.pages["/all.zip"] = Page(zipped({**files, "folder/": b""}))
    job = fetch(world, dataset, f"{web.url}/all.zip", "in", unpack=True)
    assert job.state is JobState.DONE, job.message
    draft = world.draft(dataset)
    found = {path: world.read(dataset, draft.id, path) for path in world.files(draft.id)}
    assert found == {f"in/{path}": data for path, data in files.items()}
    nothing_left(world, dataset, job)


BAD_NAMES = {
    "parent": "../evil",
    "parent inside": "a/../../evil",
    "absolute": "/etc/passwd",
    "backslash": "..\\evil",
    "drive": "c:\\evil",
    "twice": "a//b",
    "here": "./a",
    "line": "a\nb",
    "turned": "a\u202eb",
    "long": "x" * 300,
    "folder": "../up/",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_zip_with_a_name_that_leaves_its_folder_brings_nothing(
    shut: Lab, web: Outside, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    web.pages["/bad.zip"] = Page(zipped({"good.txt": b"good", name: b"evil"}))
    job = fetch(shut, dataset, f"{web.url}/bad.zip", unpack=True)
    assert job.state is JobState.FAILED
    assert "archive" in job.message
    assert list(shut.store.list(dataset_prefix(dataset.id))) == []
    nothing_left(shut, dataset, job)


def opened_dataset(world: Lab, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A dataset of a deployment whose networks are opened for this test."""
    open_settings = world.platform.settings.model_copy(
        update={"import_networks": imports_networks()}
    )
    monkeypatch.setattr(world.platform, "settings", open_settings)
    return world.dataset(f"d{secrets.token_hex(4)}")


def imports_networks() -> tuple[Any, ...]:
    return networks(LOOPBACK)


def _raw(files: dict[str, bytes], change: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return bytes(change(bytearray(buffer.getvalue())))


def _replace(old: bytes, new: bytes) -> Any:
    return lambda data: data.replace(old, new)


def _encrypted(data: bytearray) -> bytearray:
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1
    data[6] |= 1
    return data


BAD_ZIPS = {
    "link": zipped({"a": b"/etc/passwd"}, a=stat.S_IFLNK | 0o777),
    "device": zipped({"a": b""}, a=stat.S_IFCHR | 0o666),
    "twice": _raw({"aa": b"1", "bb": b"2"}, _replace(b"bb", b"aa")),
    "file and folder": zipped({"a": b"1", "a/b": b"2"}),
    "two names": _raw({"aa": b"1"}, lambda data: data.replace(b"aa", b"bb", 1)),
    "damaged": _raw({"aa": b"one two"}, _replace(b"one two", b"one tw0")),
    "no zip": b"PK but nothing more",
    "cut": zipped({"a": LARGE[:10_000]})[:-30],
    "empty": zipped({}),
    "encrypted": _raw({"aa": b"1"}, _encrypted),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("archive", BAD_ZIPS.values(), ids=BAD_ZIPS)
def test_a_zip_that_is_not_what_it_seems_is_refused(
    shut: Lab, web: Outside, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    web.pages["/bad.zip"] = Page(archive)
    job = fetch(shut, dataset, f"{web.url}/bad.zip", unpack=True)
    assert job.state is JobState.FAILED
    assert job.message
    assert "log" not in job.message, "an expected failure says what it is"
    assert shut.files(shut.draft(dataset).id) == {}
    nothing_left(shut, dataset, job)


def test_a_zip_that_would_fill_the_store_is_refused_by_what_it_says(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    small = shut.platform.settings.model_copy(update={"import_gib": 20 / 1024})
    monkeypatch.setattr(shut.platform, "settings", small)
    web.pages["/bomb.zip"] = Page(zipped({f"{n}": bytes(8 << 20) for n in range(3)}))
    job = fetch(shut, dataset, f"{web.url}/bomb.zip", unpack=True)
    assert job.state is JobState.FAILED
    assert "25.2 MB" in job.message
    assert list(shut.store.list(dataset_prefix(dataset.id))) == []


def test_another_stores_bucket_is_imported_with_its_keys(
    world: Lab, storage_server: StorageServer
) -> None:
    theirs = ObjectStore(storage_server.access(f"theirs-{secrets.token_hex(6)}"))
    theirs.ensure_bucket()
    files = {"a.txt": b"a" * 10, "sub/b.bin": LARGE[: 20 << 20], "sub/ü.csv": b"x"}
    for path, data in {**files, "other": b"not this"}.items():
        theirs.put(f"lab/{path}" if path != "other" else path, data)
    order = store_order(
        {
            "endpoint": theirs.access.url,
            "bucket": theirs.bucket,
            "prefix": "lab/",
            "folder": "from",
            "region": theirs.access.region,
            "access_key": theirs.access.access_key,
            "secret_key": theirs.access.secret_key,
        }
    )
    dataset = world.dataset()
    job = imports.begin_import(world.platform, ANN, dataset.id, order)
    folder = world.platform.settings.secrets_dir / "imports"
    assert stat.S_IMODE(os.stat(folder / f"{job.id}.json").st_mode) == 0o600
    job = world.wait(job)
    assert job.state is JobState.DONE, job.message
    draft = world.draft(dataset)
    found = {path: world.read(dataset, draft.id, path) for path in world.files(draft.id)}
    assert found == {f"from/{path}": data for path, data in files.items()}
    nothing_left(world, dataset, job)
    with world.platform.database.reading() as connection:
        told = repr(world.job(job.id)) + repr(events.read(connection, target=dataset.id))
    assert theirs.access.secret_key not in told
    assert theirs.access.access_key not in told
    theirs.close()


def test_wrong_keys_of_another_store_are_told_in_its_words(
    world: Lab, storage_server: StorageServer
) -> None:
    order = store_order(
        {
            "endpoint": storage_server.url,
            "bucket": "theirs",
            "access_key": "who",
            "secret_key": "knows-this-anyway",
        }
    )
    dataset = world.dataset()
    job = world.wait(imports.begin_import(world.platform, ANN, dataset.id, order))
    assert job.state is JobState.FAILED
    assert "says" in job.message or "does not answer as a store does" in job.message
    nothing_left(world, dataset, job)


# ---------------------------------------------------------------------------- who and how much


def test_only_who_may_write_imports_and_not_while_it_is_published(world: Lab) -> None:
    dataset = world.dataset()
    order = url_order("https://example.org/a")
    with pytest.raises(UserError):
        imports.begin_import(world.platform, BOB, dataset.id, order)
    catalog.share(world.platform, ANN, dataset.id, "user", "bob", "read")
    with pytest.raises(NotAllowed):
        imports.begin_import(world.platform, BOB, dataset.id, order)
    world.put(dataset, {"a": b"a"})
    versions.begin_publish(world.platform, ANN, dataset.id)
    with pytest.raises(Conflict):
        imports.begin_import(world.platform, ANN, dataset.id, order)
    assert imports.kept_secrets(world.platform.settings) == []


def test_what_has_no_room_is_refused_before_it_is_fetched(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    small = shut.platform.settings.model_copy(update={"import_gib": 10 / 1024})
    monkeypatch.setattr(shut.platform, "settings", small)
    web.pages["/large"] = Page(LARGE)
    job = fetch(shut, dataset, f"{web.url}/large")
    assert job.state is JobState.FAILED
    assert "import_gib" in job.message
    web.pages["/endless"] = Page(LARGE, length=None)
    job = fetch(shut, dataset, f"{web.url}/endless")
    assert job.state is JobState.FAILED
    assert list(shut.store.list(dataset_prefix(dataset.id))) == []
    nothing_left(shut, dataset, job)


@pytest.mark.parametrize("said", [5, 500])
def test_a_server_that_says_a_wrong_length_brings_nothing(
    shut: Lab, web: Outside, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    monkeypatch.setattr("hub_services.datasets.jobs.SOURCE_TRIES", 1)
    web.pages["/lies"] = Page(b"x" * 100, length=said)
    job = fetch(shut, dataset, f"{web.url}/lies")
    files = shut.files(shut.draft(dataset).id)
    if said == 5:  # more than it said is never read: HTTP ends there
        assert [file.size_bytes for file in files.values()] == [5]
    else:
        assert job.state is JobState.FAILED
        assert files == {}
    nothing_left(shut, dataset, job)


# ---------------------------------------------------------------------------- inside


REFUSALS = ("public internet", "machine of this platform", "address of the web", "redirections")

INSIDE = (
    "http://127.0.0.1:{port}/x",
    "http://localhost:{port}/x",
    "http://[::1]:{port}/x",
    "http://[::ffff:127.0.0.1]:{port}/x",
    "http://0.0.0.0:{port}/x",
    "http://2130706433:{port}/x",
    "http://0x7f.1:{port}/x",
    "http://0177.0.0.1:{port}/x",
    "http://127.1:{port}/x",
    "http://127.0.0.1.:{port}/x",
    "http://\uff11\uff12\uff17.0.0.1:{port}/x",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{port}/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/x",
    "http://192.168.0.1/x",
    "http://172.17.0.1/x",
    "http://[fd00:ec2::254]/x",
    "http://[64:ff9b::7f00:1]:{port}/x",
)


@pytest.mark.parametrize("url", INSIDE)
def test_nothing_is_imported_from_inside(shut: Lab, web: Outside, url: str) -> None:
    dataset = shut.dataset(f"d{secrets.token_hex(4)}")
    web.pages["/x"] = Page(b"secret of the inside")
    web.asked.clear()
    job = fetch(shut, dataset, url.format(port=web.server_address[1]), "x")
    assert job.state is JobState.FAILED
    assert web.asked == []
    assert "secret" not in job.message
    nothing_left(shut, dataset, job)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x",
        "gopher://x/1",
        "//x/y",
        "http://",
        "http://a b/",
        "http://u:p@example.org/x",
        "http://example.org:99999/x",
        "https://example.org\\@127.0.0.1/x",
        "http://x/\r\nHost: y",
    ],
)
def test_an_address_that_is_none_of_the_web_is_no_import(url: str) -> None:
    with pytest.raises(InvalidChoice):
        url_order(url, "x")


def test_a_server_that_sends_another_part_than_was_asked_for_brings_nothing(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    web.pages["/middle"] = Page(b"from the middle", begins_at=5)
    job = fetch(shut, dataset, f"{web.url}/middle")
    assert job.state is JobState.FAILED
    assert "another part" in job.message
    nothing_left(shut, dataset, job)


def test_a_redirection_is_followed_outside_and_refused_inside(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.1 is opened and stands for the world; 127.0.0.2 is inside."""
    one = shut.platform.settings.model_copy(update={"import_networks": networks(["127.0.0.1/32"])})
    monkeypatch.setattr(shut.platform, "settings", one)
    dataset = shut.dataset(f"d{secrets.token_hex(4)}")
    port = web.server_address[1]
    web.pages["/there"] = Page(b"", 302, {"Location": "/x?here"})
    web.pages["/x"] = Page(b"fine")
    assert fetch(shut, dataset, f"{web.url}/there", "a").state is JobState.DONE
    for target in (
        f"http://127.0.0.2:{port}/x",
        f"//127.0.0.2:{port}/x",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        f"{web.url}/loop",
    ):
        web.pages["/loop"] = Page(b"", 307, {"Location": target})
        job = fetch(shut, dataset, f"{web.url}/loop", "b")
        assert job.state is JobState.FAILED, target
        assert any(words in job.message for words in REFUSALS), job.message
    assert set(shut.files(shut.draft(dataset).id)) == {"a"}


def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers with the world first and the inside then."""
    asked: list[str] = []
    connected: list[Any] = []

    def answers(host: str, port: int, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        address = "93.184.216.34" if len(asked) % 2 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    class NoSocket(socket.socket):
        def connect(self, address: Any) -> None:
            connected.append(address)
            raise TimeoutError

    monkeypatch.setattr(fetching.socket, "getaddrinfo", answers)
    monkeypatch.setattr(fetching.socket, "socket", NoSocket)
    pool = guarded_pool(Reach())
    with pytest.raises(SourceAway), opened(pool, "https://rebinds.example/x"):
        pass
    assert asked == ["rebinds.example"]
    assert connected == [("93.184.216.34", 443)]
    with pytest.raises(UserError, match="public internet"), opened(pool, "http://rebinds.example/"):
        pass
    assert len(connected) == 1


def test_the_platforms_own_ports_are_closed_to_imports_even_in_an_open_network(
    world: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = web.server_address[1]
    own = world.platform.settings.model_copy(update={"hub_port": port})
    monkeypatch.setattr(world.platform, "settings", own)
    web.pages["/x"] = Page(b"of the hub")
    web.asked.clear()
    job = fetch(world, world.dataset(), f"{web.url}/x")
    assert job.state is JobState.FAILED
    assert "part of this platform" in job.message
    assert web.asked == []


def test_a_certificate_of_nobody_is_not_trusted_and_the_name_is_what_counts(
    web: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting to an address by ourselves must not lose what TLS says of the name."""
    certificate = tmp_path / "both.pem"
    make_certificate(certificate, "good.example")
    server = Outside()
    server.pages["/x"] = Page(b"by tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    port = server.server_address[1]

    def answers(host: str, *rest: Any, **more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", answers)
    reach = Reach(allowed=networks(LOOPBACK))
    with (
        pytest.raises(GivenUp, match="certificate"),
        opened(guarded_pool(reach), f"https://good.example:{port}/x"),
    ):
        pass
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    pool = guarded_pool(reach)
    with opened(pool, f"https://good.example:{port}/x") as source:
        assert source.read(100) == b"by tls"
    with (
        pytest.raises(GivenUp, match="certificate"),
        opened(pool, f"https://other.example:{port}/x"),
    ):
        pass
    server.shutdown()
    server.server_close()


def make_certificate(path: Path, name: str) -> None:
    """A key and a certificate that it signs itself, in one file."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(key.read_text() + certificate.read_text())


def test_another_store_is_not_reached_inside(shut: Lab, rclone_server: StorageServer) -> None:
    for endpoint in (rclone_server.url, "http://169.254.169.254", "http://localhost:9000"):
        dataset = shut.dataset(f"d{secrets.token_hex(4)}")
        order = store_order(
            {
                "endpoint": endpoint,
                "bucket": "dcloud",
                "access_key": rclone_server.access_key,
                "secret_key": rclone_server.secret_key,
            }
        )
        job = shut.wait(imports.begin_import(shut.platform, ANN, dataset.id, order))
        assert job.state is JobState.FAILED
        assert "cannot come from there" in job.message


def test_another_store_cannot_send_on_to_the_inside(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shut.platform.settings.model_copy(update={"import_networks": networks(["127.0.0.1/32"])})
    monkeypatch.setattr(shut.platform, "settings", one)
    port = web.server_address[1]
    for path in ("/theirs", "/theirs/"):
        web.pages[path] = Page(b"", 307, {"Location": f"http://127.0.0.2:{port}/x"})
    dataset = shut.dataset(f"d{secrets.token_hex(4)}")
    order = store_order({"endpoint": web.url, "bucket": "theirs", "region": "us-east-1"})
    web.asked.clear()
    job = shut.wait(imports.begin_import(shut.platform, ANN, dataset.id, order))
    assert job.state is JobState.FAILED
    assert web.asked
    assert not any(path.startswith("/x") for path, _ in web.asked), "it is not followed at all"


def test_a_name_that_there_is_not_is_told_at_once(
    shut: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*arguments: Any, **more: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "nothing")

    monkeypatch.setattr(fetching.socket, "getaddrinfo", nothing)
    job = fetch(shut, shut.dataset(f"d{secrets.token_hex(4)}"), "https://no.example/x")
    assert job.state is JobState.FAILED
    assert "There is no 'no.example'" in job.message


# ---------------------------------------------------------------------------- ends


def test_a_cancelled_import_stops_and_leaves_nothing(world: Lab, web: Outside) -> None:
    dataset = world.dataset()
    web.pages["/slow"] = Page(LARGE, headers={"ETag": '"1"'}, bytes_per_second=12 << 20)
    order = url_order(f"{web.url}/slow")
    job = imports.begin_import(world.platform, ANN, dataset.id, order)
    world.turn()
    deadline = time.monotonic() + patient(20)
    while world.job(job.id).done_bytes < 2 << 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert world.now(dataset).stored_bytes == len(LARGE), "its room is kept"
    versions.cancel_job(world.platform, ANN, dataset.id, job.id)
    while world.jobs.busy(job.id) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert world.job(job.id).state is JobState.CANCELLED
    assert world.files(world.draft(dataset).id) == {}
    nothing_left(world, dataset, job)


def test_unpacking_that_was_interrupted_goes_on_without_fetching_again(
    world: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_services.datasets.receiving.AT_ONCE", 3)
    dataset = world.dataset()
    files = {f"{n:02}": LARGE[n << 18 : (n + 4) << 18] for n in range(80)}
    web.pages["/many.zip"] = Page(zipped(files))
    order = url_order(f"{web.url}/many.zip", unpack=True)
    job = imports.begin_import(world.platform, ANN, dataset.id, order)
    world.turn()
    draft = world.draft(dataset)
    while not world.files(draft.id):
        time.sleep(0.005)
    world.jobs.close()
    there = set(world.files(draft.id))
    assert 0 < len(there) < len(files), "too quick to be interrupted"
    web.asked.clear()
    world.jobs = Jobs(world.platform)
    done = world.wait(job)
    assert (done.state, done.done_files) == (JobState.DONE, len(files)), done.message
    assert web.asked == []
    assert {path: world.read(dataset, draft.id, path) for path in files} == files
    nothing_left(world, dataset, job)
    world.jobs.close()


def test_one_users_imports_do_not_keep_others_waiting(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages["/slow"] = Page(LARGE, bytes_per_second=1 << 20)
    web.pages["/quick"] = Page(b"quick")
    slow = []
    for _ in range(4):
        dataset = opened_dataset(shut, monkeypatch)
        order = url_order(f"{web.url}/slow")
        slow.append((dataset, imports.begin_import(shut.platform, ANN, dataset.id, order)))
    bobs = shut.dataset("bobs", BOB)
    order = url_order(f"{web.url}/quick")
    quick = imports.begin_import(shut.platform, BOB, bobs.id, order)
    assert shut.wait(quick, 10).state is JobState.DONE
    states = [shut.job(job.id).state for _, job in slow]
    assert states == [JobState.RUNNING] * 2 + [JobState.QUEUED] * 2
    for dataset, job in slow:
        versions.cancel_job(shut.platform, ANN, dataset.id, job.id)
    deadline = time.monotonic() + patient(10)
    while any(shut.jobs.busy(job.id) for _, job in slow) and time.monotonic() < deadline:
        time.sleep(0.05)
    asyncio.run(shut.jobs.leftovers())
    for dataset, job in slow:
        nothing_left(shut, dataset, job)


def test_a_draft_that_is_discarded_under_an_import_leaves_nothing(world: Lab, web: Outside) -> None:
    dataset = world.dataset()
    web.pages["/slow.zip"] = Page(
        zipped({str(n): LARGE[n << 20 : (n + 1) << 20] for n in range(30)})
    )
    order = url_order(f"{web.url}/slow.zip", unpack=True)
    job = imports.begin_import(world.platform, ANN, dataset.id, order)
    world.turn()
    deadline = time.monotonic() + patient(20)
    while world.job(job.id).done_files < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    versions.discard_draft(world.platform, ANN, dataset.id)
    with world.platform.database.reading() as connection:
        (purge,) = dataset_jobs.open_jobs(connection)
    assert world.wait(purge).state is JobState.DONE
    assert list(world.store.list(dataset_prefix(dataset.id))) == []
    assert world.now(dataset).stored_bytes == 0
    assert imports.kept_secrets(world.platform.settings) == []


def test_an_import_for_which_its_owner_has_no_room_is_refused(
    shut: Lab, web: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened_dataset(shut, monkeypatch)
    roles = {"standard": RoleLimits(storage_gib=20 / 1024)}
    small = shut.platform.settings.model_copy(update={"roles": roles})
    monkeypatch.setattr(shut.platform, "settings", small)
    web.pages["/large"] = Page(LARGE)
    web.pages["/endless"] = Page(LARGE, length=None)
    for path in ("large", "endless"):
        job = fetch(shut, dataset, f"{web.url}/{path}")
        assert job.state is JobState.FAILED
        assert "room" in job.message or "larger than" in job.message
    assert list(shut.store.list(dataset_prefix(dataset.id))) == []
    nothing_left(shut, dataset, job)


def test_a_job_that_was_cancelled_while_nobody_did_it_is_cleared_up_after(
    world: Lab, web: Outside
) -> None:
    dataset = world.dataset()
    order = url_order("https://example.org/large")
    job = imports.begin_import(world.platform, ANN, dataset.id, order)
    upload = world.store.create_upload(f"{dataset_prefix(dataset.id)}{job.version}/large")
    with world.platform.database.transaction() as connection:  # as a killed process left it
        imports.keep_room(connection, world.platform.settings, job.id, 12345)
        key = f"{dataset_prefix(dataset.id)}{job.version}/large"
        imports.note_upload(connection, job.id, key, upload)
        dataset_jobs.change(connection, job.id, state="running")
    assert world.now(dataset).stored_bytes == 12345
    versions.cancel_job(world.platform, ANN, dataset.id, job.id)
    asyncio.run(world.jobs.leftovers())
    nothing_left(world, dataset, job)


def test_sha256_is_that_of_what_the_other_side_sent(world: Lab, web: Outside) -> None:
    dataset = world.dataset()
    web.pages["/large"] = Page(LARGE)
    fetch(world, dataset, f"{web.url}/large")
    (file,) = world.files(world.draft(dataset).id).values()
    assert file.claimed_sha256 == hashlib.sha256(LARGE).hexdigest()
