"""Which addresses an import may fetch from: the world, and nothing that is inside (pure).

A name says nothing: what counts is the address that is really connected to, so the one that a
name was resolved to is asked about here and then connected to, and no other
(``hub_services.datasets.outside``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Not the world's, or not one machine's: IANA's special-purpose registries, multicast, and the
# addresses at which clouds answer their guests.
_INSIDE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
        "::/3",  # unspecified, loopback, mapped, NAT64: what is inside them is looked at first
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "4000::/2",
        "8000::/1",  # unique local, link-local, site-local, multicast
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")

LOWEST_FREE_PORT = 1024
WEB_PORTS = (80, 443)


@dataclass(frozen=True)
class Reach:
    """What this deployment lets imports reach."""

    allowed: Sequence[Network] = ()
    """Networks inside that an administrator opened for imports."""
    own: Collection[Address] = field(default_factory=frozenset)
    """Addresses of this machine, its storage and its database."""
    own_ports: Collection[int] = field(default_factory=frozenset)
    """Ports of the platform: never, at an address of this machine, whatever is allowed."""


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks as settings write them; raises ValueError."""
    return tuple(ip_network(text) for text in texts)


def innermost(address: Address) -> Address:
    """The address that packets reach: what IPv6 wraps of IPv4 is unwrapped."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if int(address) >> 32 == 0 and int(address) > 1:  # "::10.0.0.1", long out of use
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def against(text: str, port: int, reach: Reach) -> str | None:
    """Why a connection to this address and port may not be; None when it may."""
    given = ip_address(text.partition("%")[0])
    address = innermost(given)
    own = address in reach.own or given in reach.own
    opened = any(address in network for network in reach.allowed)
    if (own or address.is_loopback or address.is_unspecified) and port in reach.own_ports:
        return "it is a part of this platform"
    if not opened:
        if own:
            return "it is a machine of this platform"
        # What wraps another address is no address of a server of its own.
        if given != address or _inside(address):
            return "it is not in the public internet"
    if port < LOWEST_FREE_PORT and port not in WEB_PORTS:
        return f"port {port} is not one of the web's"
    return None


def _inside(address: Address) -> bool:
    return (
        any(address in network for network in _INSIDE)
        or not address.is_global
        or address.is_multicast
    )
