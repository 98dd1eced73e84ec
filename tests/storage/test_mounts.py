"""Mounts on a real host: the kernel, rclone, real storage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dcloud_spawner.mounts import mountinfo
from dcloud_spawner.mounts.keeper import Keeper
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, dataset_mounts, datasets
from dcloud_spawner.store.dataset_mounts import MountState
from tests.mounting import MountHost, mount_host
from tests.patience import patient
from tests.platforms import actions
from tests.storage.servers import StorageServer

pytestmark = [
    pytest.mark.sqlite_suffices,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

FILES = {
    "readme.txt": b"hello\n",
    "empty": b"",
    "deep/er/\xc3\xbcn\xc3\xaf \xe6\x96\x87.bin".encode("latin-1").decode(): os.urandom(3000),
    "large.bin": os.urandom(3 << 20),
}


@pytest.fixture
def host(database_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[MountHost]:
    """On each of the two storages."""
    with mount_host(database_url, tmp_path, store.access) as made:
        yield made


@pytest.fixture
def minio_host(database_url: str, tmp_path: Path, minio_store: ObjectStore) -> Iterator[MountHost]:
    """On MinIO."""
    with mount_host(database_url, tmp_path, minio_store.access) as made:
        yield made


@pytest.mark.parametrize("mode", ["cached", "stream"])
def test_a_server_reads_exactly_what_was_published_and_cannot_write(
    host: MountHost, mode: str
) -> None:
    host.publish("streets", FILES)
    server = host.request({"name": "alice/streets", "mode": mode})
    host.ready(server)
    folder = host.folder(server, "streets")
    for path, data in FILES.items():
        assert (folder / path).read_bytes() == data
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == set(FILES)
    for attempt in (
        lambda: (folder / "new").write_bytes(b"x"),
        lambda: (folder / "readme.txt").write_bytes(b"x"),
        lambda: (folder / "readme.txt").unlink(),
        lambda: (folder / "readme.txt").chmod(0o777),
        lambda: (folder / "deep").rename(folder / "other"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            attempt()
    host.end(server)
    host.keeper.turn()
    assert host.mounted() == []
    assert host.rows(server)["streets"].state is MountState.GONE
    assert not host.places.root.exists()


def test_two_who_use_a_version_share_one_copy_and_one_stream(minio_host: MountHost) -> None:
    host = minio_host
    host.publish("streets", FILES)
    servers = [
        host.request({"name": "alice/streets", "mode": mode}, user=f"{user}-{mode}")
        for mode in ("cached", "stream")
        for user in ("bob", "carol")
    ]
    host.ready(*servers)
    for server in servers:
        assert (host.folder(server, "streets") / "readme.txt").read_bytes() == b"hello\n"
    assert len([path for path in host.mounted() if path.startswith("versions/")]) == 2
    host.end(servers[0])
    host.end(servers[2])
    host.keeper.turn()
    for server in (servers[1], servers[3]):
        assert (host.folder(server, "streets") / "readme.txt").read_bytes() == b"hello\n"
    host.end(servers[1])
    host.end(servers[3])
    host.keeper.turn()
    assert host.mounted() == []
    assert not _rclones(host)


def test_without_datasets_nothing_is_touched_and_storage_is_not_asked(
    database_url: str, tmp_path: Path, minio_store: ObjectStore, free_port: int
) -> None:
    away = replace(minio_store.access, url=f"http://127.0.0.1:{free_port}")
    with mount_host(database_url, tmp_path, away) as host:
        host.request()
        host.keeper.turn()
        assert not host.places.root.exists()
        assert "storage" not in host.platform.__dict__


def test_what_a_revoked_share_mounted_is_gone_at_the_next_turn(minio_host: MountHost) -> None:
    host = minio_host
    host.publish("streets", FILES)
    host.publish("kept", {"a": b"a"})
    server = host.request("alice/streets", "alice/kept")
    host.ready(server)
    _revoke(host, server.id, "streets")
    host.keeper.turn()
    assert not host.folder(server, "streets").exists()
    assert (host.folder(server, "kept") / "a").read_bytes() == b"a"
    assert host.rows(server)["streets"].state is MountState.REVOKED
    host.keeper.turn()
    assert host.rows(server)["streets"].state is MountState.REVOKED


def test_a_stream_that_is_killed_comes_back_and_never_looks_empty(minio_host: MountHost) -> None:
    host = minio_host
    dataset = host.publish("streets", FILES)
    server = host.request({"name": "alice/streets", "mode": "stream"})
    host.ready(server)
    folder = host.folder(server, "streets")
    for process in _rclones(host):
        process.kill()
        process.wait(5)
    seen = set()
    deadline = time.monotonic() + patient(20)
    while time.monotonic() < deadline:
        host.keeper.turn()
        try:
            assert (folder / "readme.txt").read_bytes() == b"hello\n"
            assert len(list(folder.iterdir())) == 4
            break
        except OSError as error:
            seen.add(error.errno)
        seen.add(host.rows(server)["streets"].state)
        time.sleep(0.02)
    assert MountState.AWAY in seen
    host.ready(server)
    assert {"dataset.mount", "dataset.mount_away", "dataset.mount_back"} <= set(
        actions(host.platform, dataset.id)
    )


def test_a_stream_that_hangs_is_started_again(minio_host: MountHost) -> None:
    host = minio_host
    host.keeper = Keeper(host.platform, pulse_seconds=1)
    host.publish("streets", FILES)
    server = host.request({"name": "alice/streets", "mode": "stream"})
    host.ready(server)
    (before,) = _rclones(host)
    before.suspend()
    host.until(lambda: bool(_rclones(host)) and before.pid not in {p.pid for p in _rclones(host)})
    host.ready(server)
    assert (host.folder(server, "streets") / "readme.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("mode", ["cached", "stream"])
def test_a_keeper_that_is_killed_is_followed_by_one_that_knows_all_of_it(
    minio_host: MountHost, mode: str
) -> None:
    host = minio_host
    host.publish("streets", FILES)
    kept, ended = (
        host.request({"name": "alice/streets", "mode": mode}, user=user) for user in ("bob", "eve")
    )
    host.ready(kept, ended)
    mounted = host.mounted()
    processes = {process.pid for process in _rclones(host)}
    host.restart()
    host.keeper.turn()
    assert host.mounted() == mounted
    assert {process.pid for process in _rclones(host)} == processes
    host.restart()
    host.end(ended)  # while nobody looks
    (host.places.workloads / "nobody").mkdir()
    (host.places.versions / "nothing.stream").mkdir()
    host.keeper.turn()
    assert [path for path in host.mounted() if path.startswith("workloads/")] == [
        f"workloads/{kept.id}/streets"
    ]
    assert not (host.places.workloads / "nobody").exists()
    host.end(kept)
    host.restart()
    host.keeper.turn()
    assert host.mounted() == []
    assert not _rclones(host)


def test_a_file_that_is_not_as_published_is_never_shown(minio_host: MountHost) -> None:
    host = minio_host
    dataset = host.publish("streets", FILES)
    assert dataset.latest_version
    key = file_key(dataset.id, dataset.latest_version, "large.bin")
    host.platform.storage.put(key, b"x" * len(FILES["large.bin"]))
    server = host.request({"name": "alice/streets", "mode": "cached"})
    host.ready(server, state=MountState.FAILED)
    assert "large.bin is not as it was published" in host.rows(server)["streets"].message
    assert not host.folder(server, "streets").exists()
    assert "dataset.mount_failed" in actions(host.platform, dataset.id)


def test_a_copy_of_a_killed_process_is_counted_anew_before_it_is_believed(
    minio_host: MountHost,
) -> None:
    host = minio_host
    dataset = host.publish("streets", FILES)
    assert dataset.latest_version
    filling = host.places.filling(dataset.latest_version)
    filling.mkdir(parents=True)
    (filling / "large.bin").write_bytes(b"\0" * len(FILES["large.bin"]))
    (filling / "readme.txt").write_bytes(b"hello\n")
    server = host.request({"name": "alice/streets", "mode": "cached"})
    host.ready(server)
    for path, data in FILES.items():
        assert (host.folder(server, "streets") / path).read_bytes() == data


def test_the_least_recently_used_copy_goes_when_the_cache_is_full_and_never_a_mounted_one(
    database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    half = os.urandom(400 << 10)
    with mount_host(
        database_url, tmp_path, minio_store.access, cache_gib=(1 << 20) / 2**30
    ) as host:
        names = ["one", "two", "three"]
        versions = {name: host.publish(name, {"f": half}).latest_version for name in names}
        first = host.request({"name": "alice/one", "mode": "cached"}, user="bob")
        second = host.request({"name": "alice/two", "mode": "cached"}, user="carol")
        host.ready(first, second)
        third = host.request({"name": "alice/three", "mode": "cached"}, user="dave")
        for _ in range(3):
            host.keeper.turn()
        assert "full" in host.rows(third)["three"].message
        host.end(second)
        host.ready(third)
        assert not host.places.copy(str(versions["two"])).exists()
        assert (host.folder(first, "one") / "f").read_bytes() == half
        with host.platform.database.reading() as connection:
            held = {copy.version for copy in dataset_mounts.copies(connection, "local")}
        assert held == {versions["one"], versions["three"]}


def test_a_large_file_goes_on_where_it_was_when_the_storage_comes_back(
    database_url: str, tmp_path: Path, minio_server: StorageServer, minio_store: ObjectStore
) -> None:
    large = b"".join(os.urandom(1 << 20) * 16 for _ in range(12))  # brought in several ranges
    with mount_host(database_url, tmp_path, minio_store.access) as host:
        dataset = host.publish("streets", {"large.bin": large})
        server = host.request("alice/streets")
        host.keeper.turn()
        parts = host.places.filling(f"{dataset.latest_version}").with_suffix(".filling.parts")
        deadline = time.monotonic() + patient(10)
        while time.monotonic() < deadline and not (parts.exists() and any(parts.iterdir())):
            time.sleep(0.001)
        minio_server.stop(kill=True)
        try:
            host.ready(server, state=MountState.AWAY)
        finally:
            minio_server.start()
        host.ready(server, seconds=60)
        assert (host.folder(server, "streets") / "large.bin").read_bytes() == large


def test_the_copy_of_a_version_that_was_deleted_for_good_goes_too(minio_host: MountHost) -> None:
    host = minio_host
    dataset = host.publish("streets", FILES)
    server = host.request("alice/streets")
    host.ready(server)
    host.end(server)
    host.keeper.turn()
    copy = host.places.copy(str(dataset.latest_version))
    assert copy.is_dir()
    with host.platform.database.transaction() as connection:
        dataset_files.remove_all(connection, str(dataset.latest_version))
        datasets.remove_version(connection, str(dataset.latest_version))
    host.restart()
    host.keeper.turn()
    assert not copy.exists()
    with host.platform.database.reading() as connection:
        assert not dataset_mounts.copies(connection, "local")


def test_what_is_larger_than_the_cache_is_streamed_and_says_so(
    database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    with mount_host(database_url, tmp_path, minio_store.access, cache_gib=0) as host:
        host.publish("streets", FILES)
        server = host.request({"name": "alice/streets", "mode": "cached"})
        host.ready(server)
        assert "at the most" in host.rows(server)["streets"].message
        assert (host.folder(server, "streets") / "readme.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("mode", ["cached", "stream"])
def test_a_start_waits_for_storage_that_is_away_and_says_so(
    database_url: str,
    tmp_path: Path,
    minio_server: StorageServer,
    minio_store: ObjectStore,
    mode: str,
) -> None:
    with mount_host(database_url, tmp_path, minio_store.access) as host:
        host.publish("streets", FILES)
        minio_server.stop()
        try:
            server = host.request({"name": "alice/streets", "mode": mode})
            host.ready(server, state=MountState.AWAY)
            assert "does not answer" in host.rows(server)["streets"].message
        finally:
            minio_server.start()
        host.ready(server)
        assert (host.folder(server, "streets") / "readme.txt").read_bytes() == b"hello\n"


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    (found,) = mountinfo.parse(
        r"81 119 254:0 /a\040b /m/c\134d ro,nosuid master:5 shared:7 - fuse.rclone X:y rw,z"
    )
    assert (found.root, found.point, found.device) == ("/a b", "/m/c\\d", "254:0")
    assert found.shared and found.read_only and found.kind == "fuse.rclone"


def _rclones(host: MountHost) -> list[psutil.Process]:
    """The streams of this host that run."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if any(str(host.places.root) in word for word in line):
            found.append(process)
    return found


def _revoke(host: MountHost, workload: str, name: str) -> None:
    with host.platform.database.transaction() as connection:
        dataset_mounts.set_state(connection, workload, name, MountState.REVOKED, utc_now(), "x")
