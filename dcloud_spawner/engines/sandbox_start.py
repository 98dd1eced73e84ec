"""The hub's side of a sandbox's start: its port, and the conversation with its supervisor."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import dcloud_spawner
from dcloud_spawner.engines.sandbox_records import SandboxFolder
from dcloud_spawner.errors import EngineError, LaunchFailed

FIRST_PORT = 20_000
ADDRESS = "127.0.0.1"
SERVICE_URL = "JUPYTERHUB_SERVICE_URL"


def start_supervisor(
    folder: SandboxFolder,
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_seconds: float,
) -> None:
    """Start a detached supervisor for a folder with a plan; returns once the command runs.

    Raises LaunchFailed with the reason when it cannot run, EngineError when nothing is said in
    time. The caller removes what may be left.
    """
    deadline = time.monotonic() + timeout_seconds
    package_root = Path(dcloud_spawner.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "dcloud_spawner.engines.sandbox_supervisor", str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Not the hub's environment: that has secrets, and this process lives in everybody's ps.
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        cwd=package_root,
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin as orders, process.stdout as answers:
        process.wait()  # only the first half: it forks and ends at once
        _answer(answers.fileno(), deadline)
        message = {"command": list(command), "environment": dict(environment)}
        with contextlib.suppress(BrokenPipeError):
            orders.write(json.dumps(message).encode() + b"\n")
        _answer(answers.fileno(), deadline)


def _answer(descriptor: int, deadline: float) -> None:
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise EngineError("the sandbox's supervisor did not answer in time")
        data = os.read(descriptor, 65536)
        if not data:
            raise EngineError("the sandbox's supervisor ended without an answer")
        line += data
    message = json.loads(line)
    if "error" in message:
        raise LaunchFailed(f"The sandbox cannot run: {message['error']}")


@contextlib.contextmanager
def port_lock(sandboxes: Path) -> Iterator[None]:
    """Held from the choice of a port until it stands in a plan, so that none is chosen twice."""
    with open(sandboxes / ".ports", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def choose_port(wanted: int, taken: Collection[int]) -> int:
    """A port free on this host: the wanted one, or any below the kernel's own range when 0."""
    if wanted:
        if wanted in taken or not _free(wanted):
            raise LaunchFailed(f"Port {wanted} is taken: sandboxes share the host's network.")
        return wanted
    candidates = range(FIRST_PORT, max(_first_ephemeral_port(), FIRST_PORT + 1000))
    for port in random.sample(candidates, k=len(candidates)):
        if port not in taken and _free(port):
            return port
    raise LaunchFailed("No port is free on this host.")


def with_port(environment: Mapping[str, str], port: int) -> dict[str, str]:
    """The environment with the server told to listen on that port, on loopback only."""
    changed = dict(environment)
    if SERVICE_URL in changed:
        url = urlsplit(changed[SERVICE_URL])
        changed[SERVICE_URL] = urlunsplit(url._replace(netloc=f"{ADDRESS}:{port}"))
    return changed


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, else ports of connections that just ended look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _first_ephemeral_port() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        return 32_768
    return int(text.split()[0])
