"""Mounts on a real host: the kernel, rclone, real storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store.dataset_mounts import MountState
from tests.mounting import MountHost, mount_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

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
    assert not list(host.places.workloads.iterdir())
