"""Multipart uploads that are under way."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from dcloud_spawner.store.datasets_schema import dataset_uploads

OPEN = "open"
COMPLETING = "completing"


@dataclass(frozen=True)
class Upload:
    """One upload. ``storage_upload`` is the storage's own id of it."""

    id: str
    version: str
    path: str
    size_bytes: int
    modified_ms: int | None
    part_bytes: int
    storage_upload: str
    state: str
    by: str
    created_at: datetime
    touched_at: datetime

    @property
    def parts(self) -> int:
        """How many parts the whole has."""
        return max(1, -(-self.size_bytes // self.part_bytes))

    def bytes_of(self, number: int) -> int:
        """Size of a part, counted from 1."""
        if not 1 <= number <= self.parts:
            raise ValueError(number)
        return min(self.part_bytes, self.size_bytes - (number - 1) * self.part_bytes)


def insert(
    connection: Connection,
    *,
    version: str,
    path: str,
    size_bytes: int,
    modified_ms: int | None,
    part_bytes: int,
    storage_upload: str,
    by: str,
    at: datetime,
) -> Upload:
    """Note one. IntegrityError when there is one of that path."""
    identifier = uuid.uuid4().hex
    connection.execute(
        dataset_uploads.insert().values(
            id=identifier,
            version=version,
            path=path,
            size_bytes=size_bytes,
            modified_ms=modified_ms,
            part_bytes=part_bytes,
            storage_upload=storage_upload,
            by=by,
            created_at=at,
            touched_at=at,
        )
    )
    found = find(connection, identifier)
    assert found is not None
    return found


def find(connection: Connection, identifier: str) -> Upload | None:
    """The upload of an id."""
    row = connection.execute(
        select(dataset_uploads).where(dataset_uploads.c.id == identifier)
    ).one_or_none()
    return Upload(**row._mapping) if row else None


def of_path(connection: Connection, version: str, path: str) -> Upload | None:
    """The upload to a path."""
    row = connection.execute(
        select(dataset_uploads).where(
            dataset_uploads.c.version == version, dataset_uploads.c.path == path
        )
    ).one_or_none()
    return Upload(**row._mapping) if row else None


def of_version(connection: Connection, version: str) -> Sequence[Upload]:
    """All of a version, by path."""
    query = select(dataset_uploads).where(dataset_uploads.c.version == version)
    return [
        Upload(**row._mapping) for row in connection.execute(query.order_by(dataset_uploads.c.path))
    ]


def untouched_since(connection: Connection, before: datetime) -> Sequence[Upload]:
    """Uploads with which nobody went on."""
    query = select(dataset_uploads).where(dataset_uploads.c.touched_at < before)
    return [Upload(**row._mapping) for row in connection.execute(query)]


def bytes_of(connection: Connection, version: str) -> int:
    """What the open uploads of a version will bring."""
    total = connection.execute(
        select(func.coalesce(func.sum(dataset_uploads.c.size_bytes), 0)).where(
            dataset_uploads.c.version == version
        )
    ).scalar_one()
    return int(total)


def change(connection: Connection, identifier: str, **values: Any) -> None:
    """Write some columns."""
    connection.execute(
        update(dataset_uploads).where(dataset_uploads.c.id == identifier).values(**values)
    )


def claim(connection: Connection, identifier: str, at: datetime) -> bool:
    """Take an open upload for completion; False when another did, or it is gone."""
    done = connection.execute(
        update(dataset_uploads)
        .where(dataset_uploads.c.id == identifier, dataset_uploads.c.state == OPEN)
        .values(state=COMPLETING, touched_at=at)
    )
    return done.rowcount == 1


def remove(connection: Connection, identifier: str) -> bool:
    """Forget one; whether it was there."""
    done = connection.execute(delete(dataset_uploads).where(dataset_uploads.c.id == identifier))
    return done.rowcount == 1
