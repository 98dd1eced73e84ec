"""Which ports a deployment needs, and who holds one that is taken."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import is_default


@dataclass(frozen=True)
class PortUse:
    """A port the deployment listens on, and the setting that changes it."""

    host: str
    port: int
    setting: str
    purpose: str
    program: str


def ports_of(settings: Settings) -> tuple[PortUse, ...]:
    """Every port of a deployment."""
    storage = PortUse(
        "127.0.0.1", settings.storage_port, "DCLOUD_STORAGE_PORT", "storage", "storage"
    )
    return (
        *((storage,) if is_default(settings) else ()),
        PortUse(
            settings.storage_gate_host,
            settings.storage_gate_port,
            "DCLOUD_STORAGE_GATE_PORT",
            "uploads to the storage",
            "gate",
        ),
        PortUse(settings.host, settings.port, "DCLOUD_PORT", "the address users see", "proxy"),
        PortUse(
            "127.0.0.1", settings.proxy_api_port, "DCLOUD_PROXY_API_PORT", "proxy API", "proxy"
        ),
        PortUse("127.0.0.1", settings.web_port, "DCLOUD_WEB_PORT", "queue page and API", "web"),
        PortUse("0.0.0.0", settings.hub_port, "DCLOUD_HUB_PORT", "the hub's own API", "hub"),
    )


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the servers do: a connection in TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def holder(port: int) -> str:
    """Name and id of the process that listens on a port, as far as we may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"{_program(psutil.Process(connection.pid))} (process {connection.pid})"
    except psutil.Error:
        pass
    return "another process"


def _program(process: psutil.Process) -> str:
    """The program's file name: what a process calls itself may be a thread's name."""
    return os.path.basename(process.exe()) or process.name()
