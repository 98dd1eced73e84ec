"""From which address a request came."""

from __future__ import annotations

import ipaddress

import psutil
from jupyterhub.handlers import BaseHandler
from tornado.httputil import HTTPServerRequest


def own_addresses() -> list[str]:
    """Every address of this machine. The proxy on it may reach the hub from any of them: Docker
    rewrites what goes to a bridge's address over loopback to the machine's first address."""
    return sorted(
        {
            found
            for addresses in psutil.net_if_addrs().values()
            for address in addresses
            if (found := _address(address.address.partition("%")[0]))
        }
    )


def address_of(handler: BaseHandler) -> str:
    """The address a request of the hub came from, as our own proxies saw it."""
    trusted = frozenset(handler.app.trusted_downstream_ips)
    return source_address(handler.request, trusted)


def source_address(request: HTTPServerRequest, trusted: frozenset[str] = frozenset()) -> str:
    """The address of the client as the nearest proxy of ours saw it; empty when nobody knows.

    Tornado's ``remote_ip`` believes X-Real-Ip and X-Forwarded-For of anybody, so a client could
    choose it: to dodge the slow-down, or to put another's address into the action log. Here a
    header counts only when the peer is a proxy of ours, on this machine or in ``trusted`` (the
    hub's ``trusted_downstream_ips``), and of the list only what such a proxy added at its end.
    """
    context = getattr(request.connection, "context", None)
    peer = _address(getattr(context, "_orig_remote_ip", None) or request.remote_ip or "")
    if not (peer in trusted or (peer and ipaddress.ip_address(peer).is_loopback)):
        return peer
    for candidate in reversed(",".join(request.headers.get_list("X-Forwarded-For")).split(",")):
        address = _address(candidate.strip())
        if address not in trusted:
            return address or peer
        peer = address
    return peer


def _address(text: str) -> str:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
