"""Reading datasets as servers do, against the local disk and boto3 in the same run.

MinIO, the mounts and the local file are on one disk of this machine. A file of 1 GiB is read from
beginning to end in pieces of 1 MiB, and 2,000 files of 10 KB by 16 threads, ``cold`` with all
caches empty (the kernel's, and the stream's own) and ``warm`` once more right after it. Everything
is measured in turn, round by round, and the medians are compared.

``dataset_cached_*``  a copy on this host, beside the same files in a plain folder
``dataset_stream_*``  rclone's mount, beside boto3: ``get_object`` read to its end, and 16 threads

``value`` and ``peer_value`` of reads are MiB/s (higher is better, the ratio should be at least 0.95
cached, 0.7 stream cold, 1.0 stream warm against boto3's cold read); of small files they are seconds
(the ratio should be at most 4).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.boto_peer import BotoPeer, boto_peer
from bench.result import Result, paired
from dcloud_spawner.mounts import kernel
from dcloud_spawner.mounts.places import STREAM
from dcloud_spawner.mounts.streams import Streams
from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.workloads import Workload
from tests.mounting import MountHost, mount_host
from tests.services import minio_binary
from tests.storage.servers import minio

ROUNDS = int(os.environ.get("DCLOUD_BENCH_ROUNDS", "7"))
SMALL_FILES = 2000
SMALL_BYTES = 10_000
LARGE_MIB = 1024
THREADS = 16
WARM_READS = 3
"""The best of so many counts as warm: what comes from memory takes a moment, and so do others."""
MIB = 1 << 20
DISK_TURNS = ("local", "cached", "cached", "local")
"""What the local disk gives is measured several times a round: it takes the least time."""

Times = dict[str, list[float]]


def measure() -> dict[str, Result]:
    """All figures of this module."""
    if os.geteuid() != 0:
        print("No figures of datasets: mounts and empty caches need root.")
        return {}
    folder = Path(tempfile.mkdtemp(prefix="dcloud-bench-datasets-"))
    try:
        with minio(minio_binary(), folder) as server, _host(folder, server.access()) as stage:
            with boto_peer(server.access(), THREADS) as boto:
                stage.boto = boto
                for number in range(ROUNDS + 1):
                    print(f"datasets: round {number} of {ROUNDS}", flush=True)
                    stage.round(counts=number > 0)  # the first one warms all programs up
            return _results(stage.times)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _results(times: Times) -> dict[str, Result]:
    def speeds(name: str) -> list[float]:
        return [LARGE_MIB / seconds for seconds in times[name]]

    def read(ours: str, peer: str, words: str) -> Result:
        return paired(speeds(ours), speeds(peer), "MiB/s", words)

    def small(ours: str, peer: str, words: str) -> Result:
        return paired(times[ours], times[peer], "s", words)

    disk, boto = "the same file on the local disk", "boto3, the first read"
    files, objects = "the same files on the local disk", "boto3 with 16 threads, the first time"
    return {
        "dataset_cached_read_cold": read("cached cold", "local cold", disk),
        "dataset_cached_read_warm": read("cached warm", "local warm", disk),
        "dataset_stream_read_cold": read("stream cold", "boto cold", boto),
        "dataset_stream_read_warm": read("stream warm", "boto cold", boto),
        "dataset_cached_files_cold": small("cached files cold", "local files cold", files),
        "dataset_cached_files_warm": small("cached files warm", "local files warm", files),
        "dataset_stream_files_cold": small("stream files cold", "boto files cold", objects),
        "dataset_stream_files_warm": small("stream files warm", "boto files cold", objects),
    }


@dataclass
class _Stage:
    host: MountHost
    local: Path
    large: Dataset
    small: Dataset
    cached: Workload
    streamed: Workload
    times: Times
    boto: BotoPeer | None = None

    def round(self, *, counts: bool) -> None:
        """Everything once, cold and warm."""
        assert self.boto is not None
        found: Times = defaultdict(list)
        large = {
            "local": self.local / "large.bin",
            "cached": self.host.folder(self.cached, "large") / "large.bin",
            "stream": self.host.folder(self.streamed, "large") / "large.bin",
        }
        small = {
            "local": self.local / "small",
            "cached": self.host.folder(self.cached, "small"),
            "stream": self.host.folder(self.streamed, "small"),
        }
        key = file_key(self.large.id, str(self.large.latest_version), "large.bin")
        keys = [file_key(self.small.id, str(self.small.latest_version), p) for p in small_paths()]
        for name in DISK_TURNS:
            for kind, read, paths in (("", _read, large), (" files", _read_small, small)):
                self._empty(streams=False)
                found[f"{name}{kind} cold"].append(read(paths[name]))
                found[f"{name}{kind} warm"].append(_best(read, paths[name]))
        self._empty(streams=False)
        found["boto cold"].append(self.boto.read(key))
        self._empty(streams=True)
        found["stream cold"].append(_read(large["stream"]))
        found["stream warm"].append(_best(_read, large["stream"]))
        self._empty(streams=False)
        found["boto files cold"].append(self.boto.read_many(keys))
        self._empty(streams=False)
        found["stream files cold"].append(_read_small(small["stream"]))
        found["stream files warm"].append(_best(_read_small, small["stream"]))
        if counts:
            for name, seconds in found.items():
                self.times[name] += seconds

    def _empty(self, *, streams: bool) -> None:
        """Empty the kernel's caches, and the streams' own by starting them anew."""
        if streams:
            for dataset in (self.large, self.small):
                version = str(dataset.latest_version)
                kernel.detach(self.host.folder(self.streamed, dataset.name))
                kernel.detach(self.host.places.source(version, STREAM))
                Streams(self.host.places, self.host.platform.storage.access, 0).end(version)
            self.host.restart()
            self.host.ready(self.streamed, self.cached)
        Path("/proc/sys/vm/drop_caches").write_text("3")


@contextmanager
def _host(folder: Path, access: StorageAccess) -> Iterator[_Stage]:
    store = ObjectStore(access)
    store.ensure_bucket()
    store.close()
    local = folder / "local"
    (local / "small").mkdir(parents=True)
    block = os.urandom(MIB)
    data = b"".join(number.to_bytes(8, "big") + block[8:] for number in range(LARGE_MIB))
    (local / "large.bin").write_bytes(data)
    files = {path: os.urandom(SMALL_BYTES) for path in small_paths()}
    for path, content in files.items():
        (local / "small" / path).parent.mkdir(exist_ok=True)
        (local / "small" / path).write_bytes(content)
    with mount_host(f"sqlite:///{folder / 'store.sqlite'}", folder, access) as host:
        large = host.publish("large", {"large.bin": data})
        del data
        small = host.publish("small", files)
        wishes = ["alice/large", "alice/small"]
        requests = [
            host.request(*({"name": name, "mode": mode} for name in wishes), user=mode)
            for mode in ("cached", "stream")
        ]
        host.ready(*requests, seconds=120)
        os.sync()  # what is not on the disk yet stays in memory, caches emptied or not
        yield _Stage(host, local, large, small, *requests, defaultdict(list))


def small_paths() -> list[str]:
    """2,000 names in 20 folders."""
    return [f"{number % 20:02}/{number:05}.bin" for number in range(SMALL_FILES)]


def _best(read: Callable[[Path], float], path: Path) -> float:
    return min(read(path) for _ in range(WARM_READS))


def _read(path: Path) -> float:
    began, total, buffer = time.perf_counter(), 0, bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            total += size
    assert total == LARGE_MIB * MIB
    return time.perf_counter() - began


def _read_small(folder: Path) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(lambda path: len((folder / path).read_bytes()), small_paths()))
    assert total == SMALL_FILES * SMALL_BYTES
    return time.perf_counter() - began
