"""Uploads through the platform against boto3 straight to the same storage.

A file of 1 GiB, from the local disk to MinIO on the same machine. ``dataset_upload`` is the whole
way of ``dcloud data put``: begun at the API (proxy, hub, web service and database are real), its
parts sent to presigned addresses, its SHA-256 counted, completed. The peer is ``upload_file`` of
boto3 with as many connections. Both are processes that run already, measured in turn, round by
round; ``value`` and ``peer_value`` are MiB/s, and the ratio should be at least 0.9. boto3 works as
it does by itself: over plain HTTP it counts a SHA-256 of every part for its signature, before the
part is sent; here it is counted beside the sending.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.boto_peer import boto_peer
from bench.result import Result, paired
from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store.events import Actor
from tests.services import free_port, minio_binary
from tests.storage.servers import minio
from tests.storage.stage import StorageStage

ROUNDS = int(os.environ.get("DCLOUD_BENCH_ROUNDS", "7"))
LARGE_MIB = int(os.environ.get("DCLOUD_BENCH_UPLOAD_MIB", "1024"))
CONNECTIONS = 10
"""boto3's own number."""
MIB = 1 << 20
USER = Asker(Actor("user-a"))
ROOT = Path(__file__).parents[1]


def measure() -> dict[str, Result]:
    """All figures of this module."""
    folder = Path(tempfile.mkdtemp(prefix="dcloud-bench-upload-"))
    try:
        return _measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(folder: Path) -> dict[str, Result]:
    file = folder / "large.bin"
    block = os.urandom(16 * MIB)
    with file.open("wb") as out:
        for _ in range(LARGE_MIB // 16):
            out.write(block)
    (folder / "minio").mkdir()
    gate = free_port()
    ours: list[float] = []
    peers: list[float] = []
    with (
        minio(minio_binary(), folder / "minio") as server,
        StorageStage(
            folder / "stage",
            server,
            database_url=f"sqlite:///{folder / 'dcloud.sqlite'}",
            hub_database_url=f"sqlite:///{folder / 'hub.sqlite'}",
            storage_public_url=server.url,
            storage_gate_port=gate,
            storage_gate_url=f"http://127.0.0.1:{gate}",
        ) as stage,
        _putting(stage) as put,
        boto_peer(stage.platform.storage.access, CONNECTIONS) as boto,
    ):
        made = catalog.create(stage.platform, USER, "large", Description())
        for number in range(ROUNDS + 1):
            print(f"dataset_upload: round {number} of {ROUNDS}", flush=True)
            into = f"round-{number}"
            seconds = {
                "ours": put(path=str(file), dataset=made.id, into=into),
                "boto": boto.upload(file, f"straight/{number}"),
            }
            stage.platform.storage.remove(f"straight/{number}")
            gone = versions.remove_files(stage.platform, USER, made.id, [f"{into}/large.bin"])
            for path in gone.paths:
                stage.platform.storage.remove(file_key(gone.dataset, gone.version, path))
            if number:  # the first one warms all programs up
                ours.append(LARGE_MIB / seconds["ours"])
                peers.append(LARGE_MIB / seconds["boto"])
    return {"dataset_upload": paired(ours, peers, "MiB/s", "boto3 straight to the storage")}


@contextmanager
def _putting(stage: StorageStage) -> Iterator[Any]:
    """A process that sends files, each order one run of the command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.put_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def order(**what: str) -> float:
        print(json.dumps(what), file=stdin, flush=True)
        answer = stdout.readline()
        assert answer, "the upload failed; its words are above"
        return float(json.loads(answer)["seconds"])

    api = f"{stage.url}/services/dcloud/api/v1"
    print(json.dumps({"api": api, "token": stage.token_of("user-a")}), file=stdin, flush=True)
    try:
        yield order
    finally:
        stdin.close()
        process.wait(10)
