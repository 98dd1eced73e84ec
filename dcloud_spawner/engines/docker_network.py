"""The users' own network: they reach the hub and the world, not each other nor this host."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess

import docker
from docker.errors import APIError, NotFound

from dcloud_spawner.errors import EngineError
from dcloud_spawner.settings import Settings

log = logging.getLogger(__name__)


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
        self._gateway = gateway.split("/")[0]
        self._filter(f"br-{found['Id'][:12]}")
        return self._gateway

    def _filter(self, bridge: str) -> None:
        """Let containers open connections to the hub's port on this host and to no other.

        Needs root; ``dcloud doctor`` says so when it is missing.
        """
        if os.geteuid() != 0 or shutil.which("iptables") is None:
            log.warning("Not root or no iptables: containers can reach open ports of this host.")
            return
        chain = f"DCLOUD-{bridge[3:]}"
        rules = [
            ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN"],
            ["-p", "tcp", "--dport", str(self._settings.hub_port), "-j", "RETURN"],
            ["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"],
            ["-j", "REJECT"],
        ]
        _iptables("-N", chain, check=False)
        _iptables("-F", chain)
        for rule in rules:
            _iptables("-A", chain, *rule)
        jump = ["-i", bridge, "-j", chain]
        if _iptables("-C", "INPUT", *jump, check=False) != 0:
            _iptables("-I", "INPUT", "1", *jump)


def _iptables(*arguments: str, check: bool = True) -> int:
    done = subprocess.run(
        ["iptables", "-w", *arguments], capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise EngineError(f"iptables {' '.join(arguments)}: {done.stderr.strip()}")
    return done.returncode
