"""What imports of this deployment may reach, as this machine is now. Resolves names."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import psutil
from sqlalchemy import make_url

from dcloud_spawner.datasets.addresses import Address, Reach, against
from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.settings import Settings


class NotReached(InvalidChoice):
    """The address is one that imports do not reach."""

    code = "address_not_allowed"

    def __init__(self, host: str, reason: str, field: str = "") -> None:
        super().__init__(
            f"{host}: an import cannot come from there, for {reason}.",
            hint="An administrator can open a network for imports (import_networks).",
            field=field,
        )


def reach_of(settings: Settings) -> Reach:
    """What imports may reach. Blocks."""
    own: set[Address] = set()
    for found in psutil.net_if_addrs().values():
        for each in found:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                own.add(ip_address(each.address.partition("%")[0]))
    ports = {settings.port, settings.hub_port, settings.proxy_api_port, settings.web_port}
    for url in (settings.public_url, settings.storage_url, settings.storage_public_url):
        if url:
            parts = urlsplit(url)
            own |= _addresses(parts.hostname)
            ports.add(parts.port or {"http": 80}.get(parts.scheme, 443))
    for url in (settings.store_url, settings.hub_store_url):
        found_url = make_url(url)
        own |= _addresses(found_url.host)
        if found_url.port:
            ports.add(found_url.port)
    ports |= {settings.storage_port, settings.storage_gate_port}
    return Reach(allowed=settings.import_networks, own=frozenset(own), own_ports=frozenset(ports))


def _addresses(host: str | None) -> set[Address]:
    if not host:
        return set()
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return {ip_address(str(each[4][0]).partition("%")[0]) for each in found}
    return set()


def resolved(host: str, port: int) -> list[tuple[Any, ...]]:
    """Where a name leads now, as ``socket.getaddrinfo`` says. Raises OSError, UnicodeError."""
    return [*socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM)]


def bare(host: str) -> str:
    """The host without what an address of the web may have around it."""
    return host.strip("[]").rstrip(".")


def refuse_inside(settings: Settings, url: str, field: str) -> None:
    """Say at once what no import would connect to. A name that says nothing now is left to the
    import, which judges every connection by itself. Blocks; raises NotReached."""
    parts = urlsplit(url)
    host = bare(parts.hostname or "")
    port = parts.port or {"http": 80}.get(parts.scheme, 443)
    try:
        found = resolved(host, port)
    except (OSError, UnicodeError):
        return
    reach = reach_of(settings)
    reasons = [against(str(each[4][0]), port, reach) for each in found]
    refused = [reason for reason in reasons if reason is not None]
    if refused and len(refused) == len(reasons):
        raise NotReached(host, refused[-1], field)
