"""Measures the homes, so that pages can show what a user has on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dcloud_spawner.datasets import own_spaces
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.errors import StorageAway, StorageRefused
from dcloud_spawner.store import homes

log = logging.getLogger(__name__)


def measure_homes(platform: Platform) -> None:
    """Ask the engine for the size of every home and write it down, with what lies in its user's
    own space in storage. Blocks, maybe for long."""
    sizes = platform.engine.homes()
    spaces = _spaces(platform, [volume for volume, size in sizes.items() if size >= 0])
    now = utc_now()
    with platform.database.transaction() as connection:
        for volume, size_bytes in sizes.items():
            if volume in spaces and size_bytes >= 0:
                space = spaces[volume]
                homes.set_size(connection, volume, size_bytes + space, now, space_bytes=space)


def _spaces(platform: Platform, volumes: Iterable[str]) -> dict[str, int]:
    """Bytes by home. While the storage is away, only of none: a size without the space would be
    too small, and the last one stands."""
    found: dict[str, int] = {}
    try:
        for volume in volumes:
            found[volume] = own_spaces.size_bytes(platform, volume)
    except (StorageAway, StorageRefused, ConfigurationError) as error:
        log.warning("Own spaces in storage cannot be measured: %s", error)
    return found
