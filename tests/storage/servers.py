"""S3 servers that tests start, stop for a while and start again."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from dcloud_spawner.storage import default
from dcloud_spawner.storage.access import StorageAccess
from tests.patience import patient
from tests.services import free_port

REGION = "us-east-1"


@dataclass
class StorageServer:
    """A server of our own on a loopback port, with its data in a folder."""

    kind: str
    """minio or rclone."""
    folder: Path
    port: int
    command: list[str]
    environment: Mapping[str, str] = field(repr=False)
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    process: subprocess.Popen[bytes] | None = None
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Of the S3 API."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def access(self, bucket: str = "dcloud", **more: str) -> StorageAccess:
        """The administrator's access to one bucket."""
        return StorageAccess(self.url, bucket, REGION, self.access_key, self.secret_key, **more)

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + patient(30)
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)
        if self.kind == "minio":
            self._wait_for_minio(deadline)

    def _wait_for_minio(self, deadline: float) -> None:
        """The port is open before the keys are known."""
        while time.monotonic() < deadline:
            try:
                ready = httpx.get(
                    f"{self.url}/minio/health/ready", timeout=2, verify=False, trust_env=False
                )
                if ready.status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise RuntimeError("MinIO does not come up")

    def stop(self, *, kill: bool = False) -> None:
        """End it; its data stays."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.process.wait()
        self.process = None

    def freeze(self) -> None:
        """Let it neither answer nor refuse."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def minio(
    binary: Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    host: str = "127.0.0.1",
    certificates: Path | None = None,
) -> Iterator[StorageServer]:
    """A MinIO with fresh root keys; ``environment`` adds settings (``MINIO_...``). ``host``: where
    it listens, "" everywhere. ``certificates``: a folder with private.key and public.crt, for
    TLS."""
    access_key, secret_key = f"root{secrets.token_hex(6)}", secrets.token_hex(20)
    port = free_port()
    server = StorageServer(
        "minio",
        folder,
        port,
        [
            str(binary),
            "server",
            "--quiet",
            f"--address={host}:{port}",
            f"--console-address=127.0.0.1:{free_port()}",
            *([f"--certs-dir={certificates}"] if certificates else []),
            str(folder / "data"),
        ],
        {
            "MINIO_ROOT_USER": access_key,
            "MINIO_ROOT_PASSWORD": secret_key,
            "MINIO_UPDATE": "off",
            "MINIO_BROWSER": "off",
            **(environment or {}),
        },
        access_key,
        secret_key,
        scheme="https" if certificates else "http",
    )
    yield from _running(server)


@contextmanager
def rclone(folder: Path) -> Iterator[StorageServer]:
    """The small default with fresh keys."""
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    port = free_port()
    (folder / "data").mkdir(exist_ok=True)
    server = StorageServer(
        "rclone",
        folder,
        port,
        default.command(folder / "data", port),
        default.environment(access_key, secret_key),
        access_key,
        secret_key,
    )
    yield from _running(server)


def _running(server: StorageServer) -> Iterator[StorageServer]:
    server.start()
    try:
        yield server
    finally:
        if server.process and server.process.poll() is None:
            server.thaw()
        server.stop(kill=True)
