"""What the pages of datasets ask at once for a whole list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, and_, case, func, or_, select

from dcloud_spawner.store.datasets import Dataset, VersionState
from dcloud_spawner.store.datasets_schema import dataset_jobs, dataset_versions, datasets


class Order(StrEnum):
    """By what a list is sorted; the first of it comes first."""

    CHANGED = "changed"
    USED = "used"
    NAME = "name"
    SIZE = "size"


_COLUMNS: Mapping[Order, tuple[Column[Any], bool]] = {
    Order.CHANGED: (datasets.c.changed_at, True),
    Order.USED: (datasets.c.last_used_at, True),
    Order.NAME: (datasets.c.name, False),
    Order.SIZE: (datasets.c.size_bytes, True),
}
"""The column, and whether its largest comes first."""


def place(dataset: Dataset, order: Order) -> Any:
    """The value of a dataset by which a list is sorted: with its id, where the next part begins.
    None, which was never used, comes last."""
    return {
        Order.CHANGED: dataset.changed_at,
        Order.USED: dataset.last_used_at,
        Order.NAME: dataset.name,
        Order.SIZE: dataset.size_bytes,
    }[order]


def _has(connection: Connection, word: str) -> ColumnElement[bool]:
    """Whether a dataset has a word; not by LIKE, which takes three times as long."""
    find = func.instr if connection.dialect.name == "sqlite" else func.strpos
    return find(datasets.c.search_text, word.casefold()) > 0


def _wanted(
    connection: Connection, condition: ColumnElement[bool], words: Sequence[str], binned: bool
) -> ColumnElement[bool]:
    away = datasets.c.deleted_at
    found = [condition, away.is_not(None) if binned else away.is_(None)]
    found += [_has(connection, word) for word in words]
    return and_(*found)


def listed(
    connection: Connection,
    condition: ColumnElement[bool],
    order: Order,
    *,
    words: Sequence[str] = (),
    binned: bool = False,
    after: tuple[Any, str] | None = None,
    limit: int,
) -> Sequence[Dataset]:
    """One part of a list: what meets the condition, is in the bin or not, and has all the words.
    ``after`` is :func:`place` and id of the last one of the part before."""
    column, descending = _COLUMNS[order]
    query = select(datasets).where(_wanted(connection, condition, words, binned))
    if after is not None:
        query = query.where(_beyond(column, descending, *after))
    # Both in one direction, as an index has them.
    ends = (
        (column.desc().nulls_last(), datasets.c.id.desc())
        if descending
        else (column, datasets.c.id)
    )
    query = query.order_by(*ends).limit(limit)
    return [Dataset(**row._mapping) for row in connection.execute(query)]


def _beyond(
    column: Column[Any], descending: bool, value: Any, identifier: str
) -> ColumnElement[bool]:
    """What comes after a place."""
    if not descending:
        return or_(column > value, and_(column == value, datasets.c.id > identifier))
    if value is None:
        return and_(column.is_(None), datasets.c.id < identifier)
    same = and_(column == value, datasets.c.id < identifier)
    return or_(column < value, same, column.is_(None))


def counts(
    connection: Connection,
    visible: ColumnElement[bool],
    parts: Mapping[str, ColumnElement[bool]],
    words: Sequence[str] = (),
) -> dict[str, int]:
    """How many of what is visible and has all the words are of each part, by its name."""
    names = list(parts)
    sums = [func.coalesce(func.sum(case((parts[name], 1), else_=0)), 0) for name in names]
    query = (
        select(*sums).select_from(datasets).where(_wanted(connection, visible, words, binned=False))
    )
    row = connection.execute(query).one()
    return {name: int(value) for name, value in zip(names, row, strict=True)}


@dataclass(frozen=True)
class Draft:
    """The draft of a dataset."""

    dataset: str
    files: int
    publishing: bool


def drafts_of(connection: Connection, identifiers: Sequence[str]) -> dict[str, Draft]:
    """Drafts by dataset."""
    table = dataset_versions.c
    query = select(table.dataset, table.files, table.state).where(
        table.dataset.in_(identifiers), table.number.is_(None)
    )
    return {
        row.dataset: Draft(row.dataset, row.files, row.state == VersionState.PUBLISHING.value)
        for row in connection.execute(query)
    }


def purging(connection: Connection, identifiers: Sequence[str]) -> set[str]:
    """Which datasets of the bin are being removed for good."""
    table = dataset_jobs.c
    query = select(table.dataset).where(
        table.dataset.in_(identifiers),
        table.kind == "purge",
        table.state.in_(("queued", "running")),
    )
    return set(connection.execute(query).scalars())
