"""What has to be done to the machine itself: OS packages and the Docker engine.

Where we are root and there is apt it is done, and said first. Otherwise the error carries the
exact command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import docker
import psutil
from docker.errors import DockerException
from requests.exceptions import RequestException

from dcloud_spawner.engines.sandbox import SandboxEngine
from dcloud_spawner.errors import ConfigurationError, EngineError
from dcloud_spawner.settings import Settings

Say = Callable[[str], None]

PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "bwrap": "bubblewrap",
    "setpriv": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "fusermount3": "fuse3",
}
"""Debian package that brings each command."""
DOCKER_COMMANDS = ("dockerd", "iptables", "mmdebstrap")
SANDBOX_COMMANDS = ("bwrap", "setpriv")
STREAM_COMMANDS = ("fusermount3",)
"""What mounts of datasets by stream need; copies do without."""

_DOCKER_START_SECONDS = 40.0
_DOCKER_SOCKET = Path("/var/run/docker.sock")
_DOCKERD_PID = Path("/var/run/docker.pid")


def is_root() -> bool:
    """Whether this process may change the machine."""
    return os.geteuid() == 0


def missing(commands: Iterable[str]) -> list[str]:
    """Commands that are not on PATH, the folders of administrators included."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return [command for command in commands if not shutil.which(command, path=path)]


def packages_for(commands: Iterable[str]) -> list[str]:
    """Packages that bring the commands, each once."""
    return list(dict.fromkeys(PACKAGES.get(command, command) for command in commands))


def install_command(packages: Iterable[str]) -> str:
    """What a person types to install packages."""
    return f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}"


def may_install() -> bool:
    """Whether OS packages can be installed without asking anybody."""
    return is_root() and shutil.which("apt-get") is not None


def install(packages: list[str], say: Say) -> None:
    """Install Debian packages; raises ConfigurationError with the command when it may not."""
    if not packages:
        return
    if not may_install():
        raise ConfigurationError(
            f"Missing OS packages: {', '.join(packages)}. Run:\n  {install_command(packages)}"
        )
    say(f"installing OS packages: {', '.join(packages)}")
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            [*apt, *step],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    # Some feed of the machine may be broken without harm to us, so only the second step counts.
    if done.returncode != 0:
        raise ConfigurationError(
            f"OS packages could not be installed. Run:\n  {install_command(packages)}\n"
            f"apt-get said:\n{done.stderr.strip()[-2000:]}"
        )


def prepare_mounts(say: Say, *, may_change: bool) -> None:
    """Have what streams of datasets need; without it they are had by copy."""
    absent = packages_for(missing(STREAM_COMMANDS))
    if not absent or not is_root():
        return
    try:
        if may_change:
            install(absent, say)
            return
        said = f"run: {install_command(absent)}"
    except ConfigurationError as error:
        said = str(error).splitlines()[0]
    say(f"datasets are mounted by copy alone: {said}")


def docker_version(timeout_seconds: float = 5.0) -> str:
    """Version of the Docker engine that answers, empty when none does."""
    try:
        client = docker.from_env(timeout=int(timeout_seconds))
    except DockerException:
        return ""
    try:
        return str(client.version()["Version"])
    except (DockerException, RequestException, OSError, KeyError):
        return ""
    finally:
        client.close()


def start_docker(log: Path, say: Say) -> bool:
    """Start an installed Docker engine and wait until it answers; False when that fails.

    The engine is started by hand only where no systemd would do it, and outlives ``dcloud
    down``: users' servers run in it.
    """
    if not is_root() or missing(["dockerd"]):
        return False
    if Path("/run/systemd/system").exists():
        say("starting the Docker engine (systemctl start docker)")
        subprocess.run(["systemctl", "start", "docker"], stdin=subprocess.DEVNULL, check=False)
        return _wait_for_docker(None)
    say(f"starting the Docker engine (dockerd, log in {log})")
    _forget_stale_pid()
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        )
    return _wait_for_docker(process)


def _wait_for_docker(process: subprocess.Popen[bytes] | None) -> bool:
    deadline = time.monotonic() + _DOCKER_START_SECONDS
    while time.monotonic() < deadline:
        if docker_version():
            return True
        if process is not None and process.poll() is not None:
            return bool(docker_version())  # another one may have been quicker
        time.sleep(0.2)
    return False


def _forget_stale_pid() -> None:
    """dockerd refuses to start while its pid file names a living process, whichever it is."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(_DOCKERD_PID.read_text())
        try:
            stale = psutil.Process(pid).name() != "dockerd"
        except psutil.NoSuchProcess:
            stale = True
        if stale:
            _DOCKERD_PID.unlink()


def prepare_engine(settings: Settings, log: Path, say: Say, *, may_change: bool = True) -> str:
    """Have an engine ready and return its name, ``docker`` or ``sandbox``.

    Raises ConfigurationError with the exact command when a forced engine cannot be had.
    """
    if settings.engine != "sandbox":
        if docker_version() or (may_change and _bring_docker(log, say)):
            return "docker"
        if settings.engine == "docker":
            raise ConfigurationError(f"No Docker engine answers. {docker_mend()}")
        say(f"no Docker engine answers, using the sandbox ({docker_mend()})")
    needed = packages_for(missing(SANDBOX_COMMANDS))
    if needed:
        if not may_change:
            raise ConfigurationError(f"The sandbox needs: {install_command(needed)}")
        install(needed, say)
    try:
        SandboxEngine(settings).ping()
    except EngineError as error:
        raise ConfigurationError(f"No engine can be had. {error} Or: {docker_mend()}") from error
    return "sandbox"


def docker_mend() -> str:
    """The exact command that would bring a Docker engine."""
    if _DOCKER_SOCKET.exists() and not os.access(_DOCKER_SOCKET, os.W_OK):
        return "It runs, but not for you. Run: sudo usermod -aG docker $USER, and sign in again"
    absent = packages_for(missing(["dockerd", "iptables"]))
    if absent:
        return f"Run: {install_command(absent)}"
    if Path("/run/systemd/system").exists():
        return "Run: sudo systemctl start docker, and be in the group docker"
    return "Run as root: dockerd >/var/log/dockerd.log 2>&1 &"


def _bring_docker(log: Path, say: Say) -> bool:
    absent = missing(DOCKER_COMMANDS)
    try:
        if may_install():
            install(packages_for(absent), say)
    except ConfigurationError as error:
        say(str(error))
    return start_docker(log, say)
