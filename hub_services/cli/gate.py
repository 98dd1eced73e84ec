"""The gate in front of the storage: uploads by the hub's own address (deploy/gate/gate.js)."""

from __future__ import annotations

from collections.abc import Mapping

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import storage_address
from hub_services.cli.deployment import CHECKOUT
from hub_services.cli.node import node_binary

RECOGNISE = "deploy/gate/gate.js"
"""A part of its command line."""


def gate_command() -> list[str]:
    """The command that starts it."""
    return [str(node_binary()), "--use-system-ca", str(CHECKOUT / "deploy" / "gate" / "gate.js")]


def gate_environment(settings: Settings) -> Mapping[str, str]:
    """Where it listens, what it lets in, and where that goes. It knows no key."""
    return {
        "DCLOUD_GATE_PORT": str(settings.storage_gate_port),
        "DCLOUD_GATE_BUCKET": settings.storage_bucket,
        "DCLOUD_GATE_TARGET": storage_address(settings),
    }
