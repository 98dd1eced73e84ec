"""What a notebook sees while things die: a real container reads all the time and checks every
byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dcloud_spawner.engines.base import LABEL_DEPLOYMENT, ContainerSpec, Phase
from dcloud_spawner.engines.docker import DockerEngine
from dcloud_spawner.mounts.places import mount_of
from dcloud_spawner.settings import Settings
from dcloud_spawner.spec import build_spec
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.workloads import Workload
from tests.mounting import MountHost, mount_host
from tests.patience import until
from tests.storage.servers import StorageServer

pytestmark = [
    pytest.mark.docker,
    pytest.mark.sqlite_suffices,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

FILES = 600

READER = """
import hashlib, json, os, sys, threading, time
seen = {}
def content(number):
    return hashlib.sha256(str(number).encode()).digest() * 512
def read(name):
    mine = seen[name] = {"ok": 0, "wrong": 0, "errors": {}}
    number = 0
    while True:
        path = os.path.expanduser(f"~/datasets/{name}/{number % 30}/{number}.bin")
        try:
            with open(path, "rb") as file:
                data = file.read()
            if data == content(number):
                mine["ok"] += 1
                number = (number + 1) % FILES
            else:
                mine["wrong"] += 1
        except OSError as error:
            word = error.strerror
            mine["errors"][word] = mine["errors"].get(word, 0) + 1
            if word == "No such file or directory":
                mine["wrong"] += 1
        time.sleep(0.02)
for name in sys.argv[1:]:
    threading.Thread(target=read, args=(name,), daemon=True).start()
while True:
    time.sleep(0.2)
    print(json.dumps(seen), flush=True)
""".replace("FILES", str(FILES))


class Reader:
    """A container that reads datasets for as long as it lives."""

    def __init__(self, engine: DockerEngine, spec: ContainerSpec, workload: str) -> None:
        self._engine, self._workload = engine, workload
        engine.launch(spec)

    def seen(self) -> dict[str, Any]:
        """What it has read so far, by dataset."""
        lines = self._engine.logs(self._workload, 2).splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def goes_on(self, name: str, more: int = 20, seconds: float = 30) -> None:
        """Wait until it has read so many files more."""
        before = self.seen().get(name, {}).get("ok", 0)
        until(lambda: self.seen().get(name, {}).get("ok", 0) >= before + more, seconds)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return [facts.phase for facts in self._engine.observe(self._workload)] == [Phase.ALIVE]


@pytest.fixture
def engine(docker_engine: str, base_image: str, tmp_path: Path) -> Iterator[DockerEngine]:
    deployment = f"mounts-{os.getpid()}"
    engine = DockerEngine(Settings(deployment=deployment, state=tmp_path / "engine"))
    engine.hub_address()
    yield engine
    for facts in engine.observe():
        engine.stop(facts.workload_id, 0)
    engine.purge_home(f"{deployment}-home")
    engine.remove_network()


def files() -> dict[str, bytes]:
    return {
        f"{number % 30}/{number}.bin": hashlib.sha256(str(number).encode()).digest() * 512
        for number in range(FILES)
    }


@pytest.fixture
def host(database_url: str, tmp_path: Path, minio_store: ObjectStore) -> Iterator[MountHost]:
    with mount_host(database_url, tmp_path, minio_store.access) as made:
        yield made


def start_reader(host: MountHost, engine: DockerEngine, workload: Workload) -> Reader:
    deployment = f"mounts-{os.getpid()}"
    home = engine.ensure_home(f"{deployment}-home")
    spec = build_spec(
        host.platform.settings,
        workload,
        None,
        (),
        environment={},
        mounts=(home, mount_of(host.platform.settings, workload.id)),
        command=("python3", "-u", "-c", READER, *host.rows(workload)),
    )
    labels = {**spec.labels, LABEL_DEPLOYMENT: deployment}
    spec = replace(spec, labels=labels, name=f"{deployment}-{workload.id}", image="dcloud/base")
    return Reader(engine, spec, workload.id)


@contextmanager
def turning(host: MountHost) -> Iterator[None]:
    """The keeper at work beside the test."""
    over = threading.Event()

    def turns() -> None:
        while not over.wait(0.3):
            host.keeper.turn()

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_notebook_reads_on_after_its_mount_died_and_storage_was_away(
    host: MountHost, engine: DockerEngine, minio_server: StorageServer
) -> None:
    _survives(host, engine, minio_server, away_seconds=4)


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_notebook_reads_on_after_storage_was_away_for_a_minute(
    host: MountHost, engine: DockerEngine, minio_server: StorageServer
) -> None:
    _survives(host, engine, minio_server, away_seconds=60)


def _survives(
    host: MountHost, engine: DockerEngine, server: StorageServer, away_seconds: float
) -> None:
    for name in ("kept", "streamed"):
        host.publish(name, files())
    workload = host.request(
        {"name": "alice/kept", "mode": "cached"}, {"name": "alice/streamed", "mode": "stream"}
    )
    host.ready(workload)
    reader = start_reader(host, engine, workload)
    with turning(host):
        for name in ("kept", "streamed"):
            reader.goes_on(name)
        for process in streams_of(host):
            process.send_signal(signal.SIGKILL)
        reader.goes_on("streamed")
        reader.goes_on("kept")
        server.stop(kill=True)
        try:
            reader.goes_on("kept")
            until(lambda: host.rows(workload)["streamed"].state is MountState.AWAY, 40)
            time.sleep(away_seconds)
        finally:
            server.start()
        reader.goes_on("streamed", seconds=40)
        until(lambda: host.rows(workload)["streamed"].state is MountState.READY, 20)
    seen = reader.seen()
    print(seen)
    assert reader.is_alive()
    assert seen["kept"]["wrong"] == seen["streamed"]["wrong"] == 0
    assert seen["kept"]["errors"] == {}
    engine.stop(workload.id, 0)
    host.end(workload)
    host.keeper.turn()
    assert host.mounted() == []
    assert not streams_of(host)


def streams_of(host: MountHost) -> list[psutil.Process]:
    """The rclones of a host."""
    own = str(host.places.root)
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(own in word for word in process.info["cmdline"] or [])
        and "rclone" in (process.info["cmdline"] or [""])[0]
    ]


def test_the_process_data_is_killed_while_it_copies_and_while_all_is_mounted(
    database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    with mount_host(database_url, tmp_path, minio_store.access) as host:
        large = {f"{number}.bin": os.urandom(8 << 20) for number in range(10)}
        host.publish("large", large)
        host.publish("small", {"a": b"a"})
        workload = host.request(
            {"name": "alice/large", "mode": "cached"}, {"name": "alice/small", "mode": "stream"}
        )

        def ready() -> bool:
            return all(row.state is MountState.READY for row in host.rows(workload).values())

        with process_data(host):  # dies while it copies
            until(lambda: host.places.copies.exists() and any(host.places.copies.iterdir()), 60)
        with process_data(host):  # dies when all is mounted
            until(ready, 60)
        folder = host.folder(workload, "large")
        for name, data in large.items():
            assert (folder / name).read_bytes() == data
        host.end(workload)
        with process_data(host):
            until(lambda: host.rows(workload)["large"].state is MountState.GONE, 60)
        assert host.mounted() == []
        assert not streams_of(host)


@contextmanager
def process_data(host: MountHost) -> Iterator[subprocess.Popen[bytes]]:
    """The real process ``data``; killed at the end."""
    settings = host.platform.settings.model_dump(mode="json", exclude_defaults=True)
    environment = {
        f"DCLOUD_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "hub_services.datasets"], env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
