"""Whom datasets are shared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, select, update

from dcloud_spawner.store.datasets_schema import dataset_shares

USER = "user"
GROUP = "group"
PROJECT = "project"
KINDS = (USER, GROUP, PROJECT)


@dataclass(frozen=True)
class Share:
    """Somebody's right to a dataset of another. ``right`` is read or write; ``name`` is that of
    the user or group, or the id of the project's account."""

    dataset: str
    kind: str
    name: str
    right: str
    by: str
    at: datetime
    missing: int | None = None
    """Of a group: in how many looks in a row the hub did not have it; None: it never had it."""


def of_dataset(connection: Connection, dataset: str) -> Sequence[Share]:
    """All shares of a dataset, by kind and name."""
    query = (
        select(dataset_shares)
        .where(dataset_shares.c.dataset == dataset)
        .order_by(dataset_shares.c.kind.desc(), dataset_shares.c.name)
    )
    return [Share(**row._mapping) for row in connection.execute(query)]


def of_datasets(connection: Connection, datasets: Sequence[str]) -> dict[str, list[Share]]:
    """The shares of several, for a list."""
    found: dict[str, list[Share]] = {identifier: [] for identifier in datasets}
    query = select(dataset_shares).where(dataset_shares.c.dataset.in_(datasets))
    for row in connection.execute(query.order_by(dataset_shares.c.kind, dataset_shares.c.name)):
        found[row.dataset].append(Share(**row._mapping))
    return found


def put(
    connection: Connection, dataset: str, kind: str, name: str, right: str, by: str, at: datetime
) -> None:
    """Share, or change the right."""
    remove(connection, dataset, kind, name)
    connection.execute(
        dataset_shares.insert().values(
            dataset=dataset, kind=kind, name=name, right=right, by=by, at=at
        )
    )


def remove(connection: Connection, dataset: str, kind: str, name: str) -> bool:
    """Share no longer; whether it was shared so."""
    done = connection.execute(
        delete(dataset_shares).where(
            and_(
                dataset_shares.c.dataset == dataset,
                dataset_shares.c.kind == kind,
                dataset_shares.c.name == name,
            )
        )
    )
    return done.rowcount == 1


def remove_with(connection: Connection, kind: str, name: str) -> Sequence[str]:
    """Nothing is shared with them any more; returns the datasets that were."""
    mine = and_(dataset_shares.c.kind == kind, dataset_shares.c.name == name)
    found = connection.execute(select(dataset_shares.c.dataset).where(mine)).scalars().all()
    connection.execute(delete(dataset_shares).where(mine))
    return found


def groups(connection: Connection) -> Sequence[str]:
    """Those that anything is shared with."""
    query = select(dataset_shares.c.name).where(dataset_shares.c.kind == GROUP)
    return connection.execute(query.distinct().order_by(dataset_shares.c.name)).scalars().all()


def look_for_groups(connection: Connection, present: Collection[str], *, count: bool) -> None:
    """Write down which groups the hub has; with ``count``, once more which it has no longer."""
    table = dataset_shares
    of_group = table.c.kind == GROUP
    rows = connection.execute(select(table.c.name, table.c.missing).where(of_group)).all()
    back = {row.name for row in rows if row.name in present and row.missing != 0}
    gone = {row.name for row in rows if row.name not in present and row.missing is not None}
    for name in sorted(back):
        mine = and_(of_group, table.c.name == name)
        connection.execute(update(table).where(mine).values(missing=0))
    for name in sorted(gone) if count else ():
        mine = and_(of_group, table.c.name == name, table.c.missing.is_not(None))
        connection.execute(update(table).where(mine).values(missing=table.c.missing + 1))


def missing_groups(connection: Connection, looks: int) -> Sequence[str]:
    """Groups that were not there in so many looks in a row, or more."""
    query = select(dataset_shares.c.name).where(
        dataset_shares.c.kind == GROUP, dataset_shares.c.missing >= looks
    )
    return connection.execute(query.distinct().order_by(dataset_shares.c.name)).scalars().all()


def remove_all(connection: Connection, dataset: str) -> None:
    """Share a dataset with nobody."""
    connection.execute(delete(dataset_shares).where(dataset_shares.c.dataset == dataset))
