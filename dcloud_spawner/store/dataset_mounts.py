"""What workloads have under ``~/datasets``, and the copies on hosts that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, select, update

from dcloud_spawner.store.datasets_schema import dataset_copies, workload_datasets
from dcloud_spawner.store.schema import State, workloads


class MountState(StrEnum):
    """How far a mount is."""

    WAITING = "waiting"
    PREPARING = "preparing"
    READY = "ready"
    AWAY = "away"
    """It died or storage is away; it comes back by itself."""
    FAILED = "failed"
    REVOKED = "revoked"
    """Its user may not read the dataset any more."""
    GONE = "gone"
    """Unmounted, its workload has ended."""


@dataclass(frozen=True)
class WorkloadDataset:
    """One dataset of one workload; ``name`` is the folder under ~/datasets."""

    workload: str
    name: str
    dataset: str
    version: str
    mode: str
    state: MountState
    message: str
    changed_at: datetime


@dataclass(frozen=True)
class Use:
    """Whose workload has a dataset."""

    mount: WorkloadDataset
    user: str
    server_name: str
    workload_state: State


@dataclass(frozen=True)
class Copy:
    """A version on a host. ``state``: filling, complete, leaving. Sizes in bytes."""

    node: str
    version: str
    state: str
    done_bytes: int
    total_bytes: int
    message: str
    created_at: datetime
    used_at: datetime


def insert(
    connection: Connection,
    workload: str,
    name: str,
    dataset: str,
    version: str,
    mode: str,
    at: datetime,
) -> None:
    """A workload will have a dataset."""
    connection.execute(
        workload_datasets.insert().values(
            workload=workload,
            name=name,
            dataset=dataset,
            version=version,
            mode=mode,
            state=MountState.WAITING.value,
            changed_at=at,
        )
    )


def of_workload(connection: Connection, workload: str) -> Sequence[WorkloadDataset]:
    """What a workload has, by name."""
    query = select(workload_datasets).where(workload_datasets.c.workload == workload)
    rows = connection.execute(query.order_by(workload_datasets.c.name))
    return [_mount(row._mapping) for row in rows]


def open_uses(connection: Connection, dataset: str | None = None) -> Sequence[Use]:
    """What workloads that have not ended have, and of ended ones what is still mounted."""
    query = (
        select(workload_datasets, workloads.c.user, workloads.c.server_name, workloads.c.state)
        .join(workloads, workloads.c.id == workload_datasets.c.workload)
        .where(
            (workloads.c.state != State.ENDED.value)
            | (workload_datasets.c.state != MountState.GONE.value)
        )
        .order_by(workload_datasets.c.workload, workload_datasets.c.name)
    )
    if dataset is not None:
        query = query.where(workload_datasets.c.dataset == dataset)
    columns = list(workload_datasets.c)
    return [
        Use(
            _mount({column.name: row._mapping[column] for column in columns}),
            row._mapping[workloads.c.user],
            row._mapping[workloads.c.server_name],
            State(row._mapping[workloads.c.state]),
        )
        for row in connection.execute(query)
    ]


def lately(connection: Connection, dataset: str, limit: int = 20) -> Sequence[Any]:
    """Who had a dataset, the latest first: rows of user, server_name, version, name, mode,
    submitted_at, ended_at."""
    query = (
        select(
            workloads.c.user,
            workloads.c.server_name,
            workload_datasets.c.version,
            workload_datasets.c.mode,
            workloads.c.submitted_at,
            workloads.c.ended_at,
        )
        .join(workloads, workloads.c.id == workload_datasets.c.workload)
        .where(workload_datasets.c.dataset == dataset)
        .order_by(workloads.c.sequence.desc())
        .limit(limit)
    )
    return connection.execute(query).all()


def set_state(
    connection: Connection,
    workload: str,
    name: str,
    state: MountState,
    at: datetime,
    message: str = "",
) -> None:
    """Write how far a mount is."""
    connection.execute(
        update(workload_datasets)
        .where(workload_datasets.c.workload == workload, workload_datasets.c.name == name)
        .values(state=state.value, message=message, changed_at=at)
    )


def copies(connection: Connection, node: str) -> Sequence[Copy]:
    """The copies on a host, the least recently used first."""
    query = select(dataset_copies).where(dataset_copies.c.node == node)
    rows = connection.execute(query.order_by(dataset_copies.c.used_at, dataset_copies.c.version))
    return [Copy(**row._mapping) for row in rows]


def add_copy(
    connection: Connection, node: str, version: str, total_bytes: int, at: datetime
) -> None:
    """A copy begins to be filled."""
    connection.execute(
        dataset_copies.insert().values(
            node=node,
            version=version,
            state="filling",
            total_bytes=total_bytes,
            created_at=at,
            used_at=at,
        )
    )


def change_copy(connection: Connection, node: str, version: str, **values: Any) -> None:
    """Write some columns."""
    connection.execute(
        update(dataset_copies)
        .where(dataset_copies.c.node == node, dataset_copies.c.version == version)
        .values(**values)
    )


def remove_copy(connection: Connection, node: str, version: str) -> None:
    """A copy is gone."""
    connection.execute(
        delete(dataset_copies).where(
            dataset_copies.c.node == node, dataset_copies.c.version == version
        )
    )


def _mount(values: Any) -> WorkloadDataset:
    return WorkloadDataset(**{**values, "state": MountState(values["state"])})
