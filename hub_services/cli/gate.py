"""The gate in front of the storage: uploads by the hub's own address (deploy/gate/gate.js)."""

from __future__ import annotations

from collections.abc import Mapping

from dcloud_spawner.settings import Settings
from dcloud_spawner.storage.access import StorageAccess, access_of, storage_address
from dcloud_spawner.storage.sealing import sealing_key
from hub_services.cli.deployment import CHECKOUT
from hub_services.cli.node import node_binary

RECOGNISE = "deploy/gate/gate.js"
"""A part of its command line."""


def gate_command() -> list[str]:
    """The command that starts it."""
    return [str(node_binary()), "--use-system-ca", str(CHECKOUT / "deploy" / "gate" / "gate.js")]


def gate_environment(settings: Settings, access: StorageAccess | None = None) -> Mapping[str, str]:
    """Where it listens, what it lets in, where that goes, and what opens what is sealed. It knows
    no key of the storage."""
    return {
        "DCLOUD_GATE_KEY": sealing_key(access or access_of(settings)).hex(),
        "DCLOUD_GATE_HOST": settings.storage_gate_host,
        "DCLOUD_GATE_PORT": str(settings.storage_gate_port),
        "DCLOUD_GATE_BUCKET": settings.storage_bucket,
        "DCLOUD_GATE_TARGET": storage_address(settings),
    }
