"""Whose address a request counts for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from dcloud_spawner.authenticator.source import source_address


def _request(peer: str, **headers: str) -> HTTPServerRequest:
    made = HTTPHeaders(
        {"Host": "hub"} | {name.replace("_", "-"): value for name, value in headers.items()}
    )
    context: Any = SimpleNamespace(_orig_remote_ip=peer, remote_ip=peer)
    connection = SimpleNamespace(context=context)
    start = RequestStartLine("GET", "/", "HTTP/1.1")
    return HTTPServerRequest(start_line=start, headers=made, connection=cast(Any, connection))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "10.0.0.7", "10.0.0.7"),
        ("127.0.0.1", "6.6.6.6, 10.0.0.7", "10.0.0.7"),
        ("127.0.0.1", "6.6.6.6,127.0.0.9", "127.0.0.9"),
        ("127.0.0.1", "::ffff:10.0.0.7", "10.0.0.7"),
        ("::1", "2001:db8::5", "2001:db8::5"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        # Not through our proxy: a container that reaches the hub's own port.
        ("172.18.0.5", "6.6.6.6", "172.18.0.5"),
        # A further proxy of ours, 10.0.0.1, stands before.
        ("127.0.0.1", "6.6.6.6, 192.0.2.9, 10.0.0.1", "192.0.2.9"),
        ("10.0.0.1", "6.6.6.6, 192.0.2.9", "192.0.2.9"),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("", "6.6.6.6", ""),
    ],
)
def test_an_address_is_believed_of_our_own_proxies_only(
    peer: str, forwarded: str | None, address: str
) -> None:
    headers = {"X_Forwarded_For": forwarded} if forwarded else {}
    request = _request(peer, X_Real_Ip="6.6.6.6", **headers)
    assert source_address(request, frozenset({"10.0.0.1"})) == address
