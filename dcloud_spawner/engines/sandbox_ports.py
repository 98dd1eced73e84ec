"""Ports of sandboxes, which all share the host's loopback address."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from dcloud_spawner.errors import LaunchFailed

FIRST_PORT = 20_000
ADDRESS = "127.0.0.1"
SERVICE_URL = "JUPYTERHUB_SERVICE_URL"
_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


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


def listens_alone(init_pid: int, port: int) -> bool:
    """Whether every socket that listens on a port belongs to one sandbox, and there is one.

    ``init_pid`` is process 1 of the sandbox. Any sandbox may listen on any free port, so a
    server that answers need not be the one we started.
    """
    wanted = _listeners(port)
    return bool(wanted) and wanted <= _sockets_of_namespace(init_pid)


def _listeners(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _sockets_of_namespace(init_pid: int) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        namespace = os.readlink(f"/proc/{init_pid}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended while we looked
                if os.readlink(process / "ns/pid") == namespace:
                    found.update(os.readlink(link) for link in (process / "fd").iterdir())
    return found
