"""The users' own network: they reach the hub and the world, not each other nor this host."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import socket
import subprocess
from urllib.parse import urlsplit

import docker
import psutil
from docker.errors import APIError, NotFound

from dcloud_spawner.errors import EngineError
from dcloud_spawner.settings import Settings

log = logging.getLogger(__name__)

METADATA_ADDRESSES = ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32")
"""Where clouds tell a machine its own secrets: link-local, Azure's wire server, Alibaba's."""


class DockerNetwork:
    """A bridge without container-to-container traffic, and a packet filter for the host side."""

    def __init__(self, settings: Settings) -> None:
        self.name = f"{settings.deployment}-users"
        self._settings = settings
        self._gateway = ""

    def ensure(self, client: docker.APIClient) -> str:
        """Make the network if it is missing; returns the host's address on it."""
        if self._gateway:
            return self._gateway
        try:
            found = client.inspect_network(self.name)
        except NotFound:
            # Another process may make it at the same moment: then its network is ours.
            with contextlib.suppress(APIError):
                client.create_network(
                    self.name,
                    driver="bridge",
                    check_duplicate=True,
                    labels={"dcloud.deployment": self._settings.deployment},
                    options={"com.docker.network.bridge.enable_icc": "false"},
                )
            found = client.inspect_network(self.name)
        gateway = found["IPAM"]["Config"][0].get("Gateway")
        if not gateway:
            raise EngineError(f"The Docker network {self.name} has no gateway address.")
        self._filter(found["Id"][:12])
        self._gateway = gateway.split("/")[0]
        return self._gateway

    def remove(self, client: docker.APIClient) -> None:
        """Take the network and its packet filter away again; no container may be on it."""
        self._gateway = ""
        try:
            identifier = client.inspect_network(self.name)["Id"][:12]
        except NotFound:
            return
        client.remove_network(self.name)
        if not _can_filter():
            return
        for parent, jump, chain in _jumps(identifier):
            _iptables("-D", parent, *jump, check=False)
            _iptables("-F", chain, check=False)
            _iptables("-X", chain, check=False)

    def _filter(self, identifier: str) -> None:
        """Let containers open connections to the ports of hub, API and storage on this host and
        to no other, and to no metadata service of a cloud.

        Needs root; ``dcloud doctor`` says so when it is missing.
        """
        if not _can_filter():
            log.warning("Not root or no iptables: containers can reach open ports of this host.")
            return
        reset = "-p tcp -j REJECT --reject-with tcp-reset"
        inside = [
            "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
            f"-p tcp --dport {self._settings.hub_port} -j RETURN",
            f"-p tcp --dport {self._settings.web_port} -j RETURN",
            *storage_rules(self._settings),
            reset,
            "-j REJECT",
        ]
        outside = [
            f"-d {address} {verdict}"
            for address in METADATA_ADDRESSES
            for verdict in (reset, "-j REJECT")
        ]
        jumps = _jumps(identifier)
        # Both chains are replaced in one commit: another process of ours may do the same now,
        # and servers that run must not be without a filter for a moment.
        lines = ["*filter"]
        for (_, _, chain), rules in zip(jumps, (inside, outside), strict=True):
            lines += [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules)]
        _run(["iptables-restore", "-w", "--noflush"], stdin="\n".join([*lines, "COMMIT", ""]))
        for parent, jump, _ in jumps:
            if _iptables("-C", parent, *jump, check=False) != 0:
                _iptables("-I", parent, "1", *jump)


def storage_rules(settings: Settings) -> list[str]:
    """Let containers reach an S3 server that runs on this host by its public address, and no
    other port of that address. The small default has no such address: nobody has keys for it."""
    if not settings.storage_url or not settings.storage_public_url:
        return []
    address = urlsplit(settings.storage_public_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(address.hostname, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        log.warning("storage_public_url is not known here: %s", error)
        return []
    hosts = {ipaddress.ip_address(entry[4][0]) for entry in found}
    own = {
        ipaddress.ip_address(each.address)
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family == socket.AF_INET
    }
    return [
        f"-p tcp -d {host} --dport {port} -j RETURN"
        for host in sorted(hosts & own, key=str)
        if not host.is_loopback
    ]


def _jumps(identifier: str) -> tuple[tuple[str, list[str], str], ...]:
    """Built-in chain, rule and our chain: for packets to this host and for forwarded ones.

    Docker itself puts DOCKER-USER before all its own rules, also after it restarts.
    """
    forward = "DOCKER-USER" if _iptables("-L", "DOCKER-USER", "-n", check=False) == 0 else "FORWARD"
    return tuple(
        (parent, ["-i", f"br-{identifier}", "-j", chain], chain)
        for parent, chain in (
            ("INPUT", f"DCLOUD-{identifier}"),
            (forward, f"DCLOUD-OUT-{identifier}"),
        )
    )


def _can_filter() -> bool:
    return os.geteuid() == 0 and shutil.which("iptables") is not None


def _iptables(*arguments: str, check: bool = True) -> int:
    return _run(["iptables", "-w", *arguments], check=check)


def _run(command: list[str], *, stdin: str = "", check: bool = True) -> int:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise EngineError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.returncode
