"""Streams: one ``rclone mount`` a version, read-only, with a read cache on this host.

Its process outlives whoever started it. A file beside its cache says which one it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from dcloud_spawner.mounts.places import STREAM, Places
from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.default import rclone_binary
from dcloud_spawner.storage.keys import version_prefix

REMOTE = "DATASETS"

LOG_LINES = 5

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Streams:
    """The streams of this host. ``cache_bytes`` is the most that the cache of one may hold."""

    def __init__(self, places: Places, access: StorageAccess, cache_bytes: int) -> None:
        self._places = places
        self._access = access
        self._cache_bytes = cache_bytes

    def start(self, dataset: str, version: str) -> None:
        """Start mounting a version; whether it is there shows in the list of mounts, and whether
        it failed by :meth:`is_alive`."""
        folder = self._places.stream(version)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        drop_cache_of_another_boot(folder, BOOT.read_text().strip())
        point = self._places.source(version, STREAM)
        point.mkdir(parents=True, exist_ok=True, mode=0o700)
        prefix = version_prefix(dataset, version).rstrip("/")
        source = f"{REMOTE}:{self._access.bucket}/{prefix}"
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command(source, point, folder / "cache", self._cache_bytes),
                env={**_plain_environment(), **environment(self._access)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        _reap(process)
        written = json.dumps({"pid": process.pid, "started": _started(process.pid)})
        draft = folder / "process.new"
        draft.write_text(written)
        draft.rename(folder / "process")

    def is_alive(self, version: str) -> bool:
        """Whether its process runs."""
        return self._process(version) is not None

    def known(self) -> list[str]:
        """Versions of which something is kept here."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._places.streams))
        return []

    def end(self, version: str) -> None:
        """End its process, which is unmounted already, and forget its cache."""
        self.kill(version)
        shutil.rmtree(self._places.stream(version), ignore_errors=True)

    def kill(self, version: str) -> None:
        """End its process; what it had cached stays for the next one."""
        process = self._process(version)
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(5)

    def last_words(self, version: str) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            lines = (self._places.stream(version) / "log").read_text("utf-8", "replace")
            return " ".join(lines.splitlines()[-LOG_LINES:])[-500:]
        return ""

    def _process(self, version: str) -> psutil.Process | None:
        try:
            known = json.loads((self._places.stream(version) / "process").read_text())
            process = psutil.Process(known["pid"])
            if process.create_time() != known["started"]:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None


def drop_cache_of_another_boot(folder: Path, boot: str) -> None:
    """What rclone noted as read may not have been on the disk when the host lost its power: then
    its cache has zeros where a file has bytes. A kill -9 loses nothing."""
    known = folder / "boot"
    if known.exists() and known.read_text() == boot:
        return
    cache = folder / "cache"
    if cache.exists():
        shutil.rmtree(cache)
    known.write_text(boot)


def can_stream() -> bool:
    """Whether this host can mount by FUSE."""
    return Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None


def command(source: str, point: Path, cache: Path, cache_bytes: int) -> list[str]:
    """The mount of one version. What is published never changes, so nothing is ever looked up
    twice, and a file is what its name and size say."""
    return [
        str(rclone_binary()),
        # The kernel is asked for reads of up to 1 MiB by this one, for 128 KiB by `mount`.
        *("mount2", source, str(point)),
        *("--read-only", "--allow-other", "--uid=0", "--gid=0"),
        *("--file-perms=0444", "--dir-perms=0555", "--umask=0"),
        f"--cache-dir={cache}",
        "--vfs-cache-mode=full",
        f"--vfs-cache-max-size={cache_bytes}",
        "--vfs-cache-max-age=8760h",
        "--vfs-fast-fingerprint",
        "--no-modtime",
        "--no-checksum",
        "--poll-interval=0",
        "--dir-cache-time=8760h",
        "--attr-timeout=1h",
        # One connection for one file, well ahead of who reads it: more of them cost more
        # processor time than they bring.
        "--vfs-read-chunk-size=off",
        "--vfs-read-ahead=256M",
        # While one part is written to the cache the next ones come: without it a first read has
        # 0.70 of boto3's speed, with it 0.81 (two cores, storage on the same host).
        "--buffer-size=16Mi",
        # Below 1 MiB: an answer of exactly that does not fit into a pipe with its header.
        "--max-read-ahead=960k",
        # Storage that is away for a minute is waited for; then reads fail.
        "--low-level-retries=20",
        "--contimeout=5s",
        "--timeout=30s",
        "--log-level=NOTICE",
        "--config=",
    ]


def environment(access: StorageAccess) -> Mapping[str, str]:
    """The storage and its keys, where no command line shows them."""
    values = {
        "TYPE": "s3",
        "PROVIDER": "Minio",
        "ENV_AUTH": "false",
        "ENDPOINT": access.url,
        "REGION": access.region,
        "ACCESS_KEY_ID": access.access_key,
        "SECRET_ACCESS_KEY": access.secret_key,
        "FORCE_PATH_STYLE": "true",
        "NO_CHECK_BUCKET": "true",
        "NO_HEAD_OBJECT": "true",
        # Names as they are: a backslash or a trailing space is a part of a name.
        "ENCODING": "Slash,InvalidUtf8",
    }
    if access.session_token:
        values["SESSION_TOKEN"] = access.session_token
    return {f"RCLONE_CONFIG_{REMOTE}_{name}": value for name, value in values.items()}


def _plain_environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/nonexistent"}


def _started(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


_children: list[subprocess.Popen[bytes]] = []


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Remember a child, and forget those that have ended, so that none stays a zombie."""
    _children[:] = [child for child in _children if child.poll() is None]
    _children.append(process)
