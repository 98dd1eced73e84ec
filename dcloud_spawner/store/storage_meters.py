"""Up to when each home is charged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select, update

from dcloud_spawner.store.ledger_schema import storage_meters


def watermarks(connection: Connection) -> Mapping[str, datetime]:
    """The time of each volume that has one."""
    rows = connection.execute(select(storage_meters.c.volume, storage_meters.c.watermark_at))
    return {row.volume: row.watermark_at for row in rows}


def set_watermark(connection: Connection, volume: str, at: datetime) -> None:
    """Everything until then is charged."""
    changed = connection.execute(
        update(storage_meters).where(storage_meters.c.volume == volume).values(watermark_at=at)
    )
    if changed.rowcount == 0:
        connection.execute(storage_meters.insert().values(volume=volume, watermark_at=at))
