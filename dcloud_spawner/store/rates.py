"""Rows of rates; what they mean is in ``dcloud_spawner.ledger.rates``."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from dcloud_spawner.ledger.rates import Rate, RateBook, Resource
from dcloud_spawner.store.ledger_schema import rates


def read_book(connection: Connection) -> RateBook:
    """All rates."""
    return RateBook(
        Rate(**{**row._mapping, "resource": Resource(row.resource)})
        for row in connection.execute(select(rates))
    )


def add_rate(
    connection: Connection,
    resource: Resource,
    microcredits: int,
    valid_from: datetime,
    *,
    gpu_model: str = "",
    tier: str = "",
    created_by: str,
    at: datetime,
) -> int:
    """Add a rate; returns its id. That it is not for the past is the caller's to check."""
    result = connection.execute(
        rates.insert().values(
            resource=resource.value,
            gpu_model=gpu_model,
            tier=tier,
            microcredits=microcredits,
            valid_from=valid_from,
            created_by=created_by,
            created_at=at,
        )
    )
    found = result.inserted_primary_key
    assert found is not None
    return int(found[0])
