"""Datasets and their versions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)

from dcloud_spawner.store.database import UtcDateTime
from dcloud_spawner.store.datasets_schema import dataset_versions, datasets

USER = "user"
PROJECT = "project"

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for no time, where times are put in order."""


class Mode(StrEnum):
    """How a version is mounted."""

    CACHED = "cached"
    """From a copy on the host, shared by all who use it."""
    STREAM = "stream"
    """Straight from storage, with a read cache."""


class VersionState(StrEnum):
    """How far a version is."""

    DRAFT = "draft"
    PUBLISHING = "publishing"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Dataset:
    """One dataset. Sizes in bytes; ``files`` and ``size_bytes`` are of the latest version."""

    id: str
    owner_kind: str
    owner: str
    """Name of the user, or id of the project's account."""
    owner_name: str
    name: str
    description: str
    tags: Sequence[str]
    licence: str
    search_text: str
    everyone: bool
    mount_mode: str
    latest_number: int | None
    latest_version: str | None
    size_bytes: int
    files: int
    stored_bytes: int
    created_by: str
    created_at: datetime
    changed_at: datetime
    last_used_at: datetime | None
    deleted_at: datetime | None
    deleted_by: str | None

    @property
    def reference(self) -> str:
        """As people write it: ``owner/name``."""
        return f"{self.owner_name}/{self.name}"


@dataclass(frozen=True)
class Version:
    """One version, or the draft of the next one (``number`` is None)."""

    id: str
    dataset: str
    number: int | None
    state: VersionState
    note: str
    files: int
    size_bytes: int
    manifest_sha256: str | None
    based_on: str | None
    created_by: str
    created_at: datetime
    published_by: str | None
    published_at: datetime | None
    problem: str


def search_text(name: str, owner: str, tags: Sequence[str], description: str) -> str:
    """What a search looks in."""
    return "\n".join((f"{owner}/{name}", " ".join(tags), description)).casefold()


def insert(
    connection: Connection,
    *,
    owner_kind: str,
    owner: str,
    owner_name: str,
    name: str,
    created_by: str,
    at: datetime,
    description: str = "",
    tags: Sequence[str] = (),
    licence: str = "",
    everyone: bool = False,
    mount_mode: str = Mode.CACHED,
) -> Dataset:
    """A new dataset without versions. IntegrityError when the owner has one of that name."""
    identifier = uuid.uuid4().hex
    connection.execute(
        datasets.insert().values(
            id=identifier,
            owner_kind=owner_kind,
            owner=owner,
            owner_name=owner_name,
            name=name,
            description=description,
            tags=list(tags),
            licence=licence,
            search_text=search_text(name, owner_name, tags, description),
            everyone=everyone,
            mount_mode=mount_mode,
            created_by=created_by,
            created_at=at,
            changed_at=at,
        )
    )
    return get(connection, identifier)


def find(connection: Connection, identifier: str) -> Dataset | None:
    """The dataset of an id, in the bin or not."""
    row = connection.execute(select(datasets).where(datasets.c.id == identifier)).one_or_none()
    return _dataset(row) if row else None


def get(connection: Connection, identifier: str) -> Dataset:
    """The dataset of an id, which must exist."""
    return _dataset(connection.execute(select(datasets).where(datasets.c.id == identifier)).one())


def named(
    connection: Connection, owner_name: str, name: str, owner_kind: str | None = None
) -> Sequence[Dataset]:
    """Datasets of ``owner/name`` that are not in the bin: at most a person's and a project's,
    the person's first."""
    query = (
        select(datasets)
        .where(
            datasets.c.owner_name == owner_name,
            datasets.c.name == name,
            datasets.c.deleted_at.is_(None),
        )
        .order_by(datasets.c.owner_kind.desc())
    )
    if owner_kind is not None:
        query = query.where(datasets.c.owner_kind == owner_kind)
    return [_dataset(row) for row in connection.execute(query)]


def change(connection: Connection, identifier: str, **values: Any) -> Dataset:
    """Write some columns."""
    connection.execute(update(datasets).where(datasets.c.id == identifier).values(**values))
    return get(connection, identifier)


def store_more(connection: Connection, identifier: str, more_bytes: int) -> None:
    """Count bytes that are stored for a dataset, or no longer (negative)."""
    connection.execute(
        update(datasets)
        .where(datasets.c.id == identifier)
        .values(stored_bytes=datasets.c.stored_bytes + more_bytes)
    )


def stored_by(connection: Connection, owner_kind: str, owner: str) -> int:
    """Bytes of all datasets of an owner, those in the bin too."""
    total = connection.execute(
        select(func.coalesce(func.sum(datasets.c.stored_bytes), 0)).where(
            datasets.c.owner_kind == owner_kind, datasets.c.owner == owner
        )
    ).scalar_one()
    return int(total)


@dataclass(frozen=True)
class Owner:
    """Whose datasets are: ``kind`` user and a name, or project and the id of its account."""

    kind: str
    name: str


def owners(connection: Connection) -> Sequence[Owner]:
    """All who have a dataset, in the bin too."""
    query = select(datasets.c.owner_kind, datasets.c.owner).distinct()
    rows = connection.execute(query.order_by(datasets.c.owner_kind, datasets.c.owner))
    return [Owner(row.owner_kind, row.owner) for row in rows]


def of_owner(connection: Connection, owner_kind: str, owner: str) -> Sequence[Dataset]:
    """All datasets of an owner, those in the bin too."""
    query = select(datasets).where(datasets.c.owner_kind == owner_kind, datasets.c.owner == owner)
    return [_dataset(row) for row in connection.execute(query.order_by(datasets.c.name))]


def page(
    connection: Connection,
    condition: ColumnElement[bool],
    *,
    words: Sequence[str] = (),
    binned: bool = False,
    order: str = "changed_at",
    descending: bool = True,
    after: tuple[object, str] | None = None,
    limit: int = 50,
) -> Sequence[Dataset]:
    """Datasets that meet a condition (``rights.visible``), one part of the list.

    ``words`` must all be in the name, tags or description. ``order`` is a column; ``after`` is
    its value (NEVER for None) and the id of the last one that was shown.
    """
    column: ColumnElement[Any] = datasets.c[order]
    if order == "last_used_at":
        column = func.coalesce(column, literal(NEVER, UtcDateTime))
    query = select(datasets).where(condition)
    bin_ = datasets.c.deleted_at
    query = query.where(bin_.is_not(None) if binned else bin_.is_(None))
    for word in words:
        query = query.where(datasets.c.search_text.contains(word.casefold(), autoescape=True))
    if after is not None:
        value, identifier = after
        beyond = column < value if descending else column > value
        same = datasets.c.id < identifier if descending else datasets.c.id > identifier
        query = query.where(or_(beyond, and_(column == value, same)))
    ends = (column.desc(), datasets.c.id.desc()) if descending else (column, datasets.c.id)
    return [_dataset(row) for row in connection.execute(query.order_by(*ends).limit(limit))]


def count(
    connection: Connection, condition: ColumnElement[bool], *, words: Sequence[str] = ()
) -> int:
    """How many there are of such a list, without the bin."""
    query = select(func.count()).select_from(datasets).where(condition)
    query = query.where(datasets.c.deleted_at.is_(None))
    for word in words:
        query = query.where(datasets.c.search_text.contains(word.casefold(), autoescape=True))
    return int(connection.execute(query).scalar_one())


def in_bin_since(connection: Connection, before: datetime) -> Sequence[Dataset]:
    """Datasets that were thrown away before a time."""
    query = select(datasets).where(datasets.c.deleted_at < before)
    return [_dataset(row) for row in connection.execute(query)]


def remove(connection: Connection, identifier: str) -> None:
    """Forget a dataset of which no version is left."""
    connection.execute(delete(datasets).where(datasets.c.id == identifier))


# ---------------------------------------------------------------------------- versions


def add_draft(
    connection: Connection, dataset: str, by: str, at: datetime, based_on: str | None = None
) -> Version:
    """A draft. IntegrityError when there is one."""
    identifier = uuid.uuid4().hex
    connection.execute(
        dataset_versions.insert().values(
            id=identifier,
            dataset=dataset,
            state=VersionState.DRAFT.value,
            based_on=based_on,
            created_by=by,
            created_at=at,
        )
    )
    return get_version(connection, identifier)


def find_version(connection: Connection, identifier: str) -> Version | None:
    """The version of an id."""
    row = connection.execute(
        select(dataset_versions).where(dataset_versions.c.id == identifier)
    ).one_or_none()
    return _version(row) if row else None


def get_version(connection: Connection, identifier: str) -> Version:
    """The version of an id, which must exist."""
    found = find_version(connection, identifier)
    assert found is not None, identifier
    return found


def numbered(connection: Connection, dataset: str, number: int) -> Version | None:
    """A published version by its number."""
    row = connection.execute(
        select(dataset_versions).where(
            dataset_versions.c.dataset == dataset, dataset_versions.c.number == number
        )
    ).one_or_none()
    return _version(row) if row else None


def draft_of(connection: Connection, dataset: str) -> Version | None:
    """The draft of a dataset, also while it is being published."""
    row = connection.execute(
        select(dataset_versions).where(
            dataset_versions.c.dataset == dataset, dataset_versions.c.number.is_(None)
        )
    ).one_or_none()
    return _version(row) if row else None


def versions_of(connection: Connection, dataset: str) -> Sequence[Version]:
    """All versions, the draft first, then the newest."""
    query = (
        select(dataset_versions)
        .where(dataset_versions.c.dataset == dataset)
        .order_by(dataset_versions.c.number.is_not(None), dataset_versions.c.number.desc())
    )
    return [_version(row) for row in connection.execute(query)]


def get_versions(connection: Connection, identifiers: Sequence[str]) -> dict[str, Version]:
    """Some versions by id."""
    query = select(dataset_versions).where(dataset_versions.c.id.in_(identifiers))
    return {row.id: _version(row) for row in connection.execute(query)}


def change_version(connection: Connection, identifier: str, **values: Any) -> Version:
    """Write some columns."""
    connection.execute(
        update(dataset_versions).where(dataset_versions.c.id == identifier).values(**values)
    )
    return get_version(connection, identifier)


def remove_version(connection: Connection, identifier: str) -> None:
    """Forget a version of which no file is left."""
    connection.execute(delete(dataset_versions).where(dataset_versions.c.id == identifier))


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(**row._mapping)


def _version(row: Row[Any]) -> Version:
    return Version(**{**row._mapping, "state": VersionState(row.state)})
