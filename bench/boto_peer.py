"""boto3 as a peer: in an environment of its own, for it wants older parts than DCloud has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcloud_spawner.storage.access import StorageAccess
from tests.services import cache_dir

BOTO3 = "boto3==1.44.5"
WORKER = Path(__file__).with_name("boto_worker.py")


class BotoPeer:
    """One process with one client. Every act says how many seconds it took."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self, key: str) -> float:
        """An object from beginning to end."""
        return self._do(act="read", key=key)

    def read_many(self, keys: list[str]) -> float:
        """Small objects by all threads."""
        return self._do(act="read_many", keys=keys)

    def upload(self, path: Path, key: str) -> float:
        """A file, as ``upload_file`` does it."""
        return self._do(act="upload", path=str(path), key=key)

    def _do(self, **order: Any) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "boto3 failed; its words are above"
        return float(json.loads(answer)["seconds"])


@contextmanager
def boto_peer(access: StorageAccess, threads: int = 16) -> Iterator[BotoPeer]:
    """boto3 on a storage."""
    process = subprocess.Popen(
        [str(_python()), str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    first = {
        "bucket": access.bucket,
        "threads": threads,
        "endpoint_url": access.url,
        "region_name": access.region,
        "aws_access_key_id": access.access_key,
        "aws_secret_access_key": access.secret_key,
    }
    process.stdin.write(json.dumps(first) + "\n")
    process.stdin.flush()
    try:
        yield BotoPeer(process)
    finally:
        process.stdin.close()
        process.wait(10)


def _python() -> Path:
    """An interpreter with boto3."""
    folder = cache_dir() / "bench" / BOTO3
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", BOTO3], check=True)
        (folder / "complete").touch()
    return python
