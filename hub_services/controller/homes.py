"""Measures the homes, so that pages can show what a user has on disk."""

from __future__ import annotations

from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import homes


def measure_homes(platform: Platform) -> None:
    """Ask the engine for the size of every home and write it down. Blocks, maybe for long."""
    sizes = platform.engine.homes()
    now = utc_now()
    with platform.database.transaction() as connection:
        for volume, size_bytes in sizes.items():
            if size_bytes >= 0:
                homes.set_size(connection, volume, size_bytes, now)
