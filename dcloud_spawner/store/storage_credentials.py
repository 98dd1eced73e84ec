"""Short-lived credentials that were given out: whose a request at the storage was.

The secret and the session token are in no table; the access key alone opens nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select

from dcloud_spawner.store.datasets_schema import storage_credentials


@dataclass(frozen=True)
class Credential:
    """One that was given to a server of somebody."""

    access_key: str
    user: str
    workload: str | None
    datasets: tuple[str, ...]
    """Ids of the datasets that it reaches."""
    issued_at: datetime
    expires_at: datetime


def insert(connection: Connection, credential: Credential) -> None:
    """Remember to whom it was given."""
    connection.execute(
        storage_credentials.insert().values(
            access_key=credential.access_key,
            user=credential.user,
            workload=credential.workload,
            datasets=list(credential.datasets),
            issued_at=credential.issued_at,
            expires_at=credential.expires_at,
        )
    )


def by_key(connection: Connection, access_keys: Collection[str]) -> Mapping[str, Credential]:
    """Those of some access keys that were given out by us."""
    query = select(storage_credentials).where(storage_credentials.c.access_key.in_(access_keys))
    found = [_credential(row) for row in connection.execute(query)] if access_keys else []
    return {credential.access_key: credential for credential in found}


def alive(connection: Connection, user: str, now: datetime) -> Sequence[Credential]:
    """Those of somebody that still open something, the newest first."""
    table = storage_credentials.c
    query = select(storage_credentials).where(table.user == user, table.expires_at > now)
    return [_credential(row) for row in connection.execute(query.order_by(table.issued_at.desc()))]


def holders(connection: Connection, now: datetime) -> Sequence[str]:
    """Whoever has such that still open something, by name."""
    table = storage_credentials.c
    query = select(table.user).where(table.expires_at > now).distinct().order_by(table.user)
    return connection.execute(query).scalars().all()


def forget(connection: Connection, before: datetime) -> int:
    """Forget those that expired before a time; returns how many."""
    return connection.execute(
        delete(storage_credentials).where(storage_credentials.c.expires_at < before)
    ).rowcount


def _credential(row: object) -> Credential:
    values = dict(row._mapping)  # type: ignore[attr-defined]
    return Credential(**{**values, "datasets": tuple(values["datasets"])})
