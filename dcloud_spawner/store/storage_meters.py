"""Up to when homes and datasets are charged, and what each charge was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from dcloud_spawner.store.entries import Entry, Kind
from dcloud_spawner.store.ledger_schema import entries, storage_charges, storage_meters


@dataclass(frozen=True)
class StorageCharge:
    """What one charge was made from."""

    key: str
    """Of its entry."""
    subject: str
    """Whose size it is: a volume, or the datasets of an owner."""
    account: str
    from_at: datetime
    until_at: datetime
    size_bytes: int | None
    """None: it was charged before sizes were kept."""
    measured_at: datetime | None


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


def keep(connection: Connection, charge: StorageCharge) -> None:
    """Keep what an entry was made from, in its transaction."""
    connection.execute(storage_charges.insert().values(asdict(charge)))


def charges(connection: Connection) -> Iterator[tuple[StorageCharge, Entry | None]]:
    """What charges were made from, of each subject in the order of time, with their entries; None
    where there is no such entry."""
    written = [column.label(f"entry_{column.name}") for column in entries.c]
    query = (
        select(storage_charges, *written)
        .outerjoin(entries, entries.c.key == storage_charges.c.key)
        .order_by(storage_charges.c.subject, storage_charges.c.from_at, storage_charges.c.key)
    )
    for row in connection.execute(query, execution_options={"yield_per": 1000}):
        values = row._mapping
        entry = {column.name: values[f"entry_{column.name}"] for column in entries.c}
        yield (
            StorageCharge(**{column.name: values[column.name] for column in storage_charges.c}),
            Entry(**{**entry, "kind": Kind(entry["kind"])}) if entry["id"] is not None else None,
        )


def unexplained(connection: Connection) -> list[int]:
    """Ids of charges that are of no session, and of which nobody knows what they were made from."""
    query = (
        select(entries.c.id)
        .outerjoin(storage_charges, storage_charges.c.key == entries.c.key)
        .where(
            entries.c.workload.is_(None),
            entries.c.kind == Kind.CHARGE.value,
            storage_charges.c.key.is_(None),
        )
        .order_by(entries.c.id)
    )
    return list(connection.scalars(query))
