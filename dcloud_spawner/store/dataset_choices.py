"""What the start page offers of datasets, and what pages show of those that servers have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, select, update

from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.datasets_schema import (
    dataset_copies,
    dataset_versions,
    datasets,
    workload_datasets,
)
from dcloud_spawner.store.schema import OPEN, workloads


@dataclass(frozen=True)
class Mounted:
    """One dataset of a server that has not ended, with how far its copy on the host is."""

    workload: str
    name: str
    """The folder under ~/datasets."""
    reference: str
    """``owner/name``."""
    version: int | None
    """Its number."""
    mode: str
    state: MountState
    message: str
    done_bytes: int
    total_bytes: int


def mounted(connection: Connection) -> dict[str, tuple[Mounted, ...]]:
    """The datasets of every workload that has not ended, by workload id, in the order of their
    names."""
    query = (
        select(
            workload_datasets.c.workload,
            workload_datasets.c.name,
            workload_datasets.c.mode,
            workload_datasets.c.state,
            workload_datasets.c.message,
            datasets.c.owner_name,
            datasets.c.name.label("dataset_name"),
            dataset_versions.c.number,
            dataset_versions.c.size_bytes,
            dataset_copies.c.done_bytes,
            dataset_copies.c.message.label("copying"),
        )
        .join(workloads, workloads.c.id == workload_datasets.c.workload)
        .outerjoin(datasets, datasets.c.id == workload_datasets.c.dataset)
        .outerjoin(dataset_versions, dataset_versions.c.id == workload_datasets.c.version)
        .outerjoin(dataset_copies, dataset_copies.c.version == workload_datasets.c.version)
        .where(workloads.c.state.in_([state.value for state in OPEN]))
        .order_by(workload_datasets.c.workload, workload_datasets.c.name)
    )
    found: dict[str, dict[str, Mounted]] = {}
    for row in connection.execute(query):
        found.setdefault(row.workload, {})[row.name] = Mounted(
            workload=row.workload,
            name=row.name,
            reference=f"{row.owner_name}/{row.dataset_name}" if row.dataset_name else row.name,
            version=row.number,
            mode=row.mode,
            state=MountState(row.state),
            message=row.message or row.copying or "",
            done_bytes=row.done_bytes or 0,
            total_bytes=row.size_bytes or 0,
        )
    return {workload: tuple(rows.values()) for workload, rows in found.items()}


def is_published() -> ColumnElement[bool]:
    """The condition of lists: datasets with something to mount."""
    return datasets.c.latest_version.is_not(None)


def is_one_of(identifiers: Collection[str]) -> ColumnElement[bool]:
    """The condition of lists: these datasets."""
    return datasets.c.id.in_(identifiers)


def recent_of(connection: Connection, user: str, limit: int) -> Sequence[str]:
    """Ids of the datasets that a user had lately, the latest first."""
    last = func.max(workloads.c.sequence)
    query = (
        select(workload_datasets.c.dataset)
        .join(workloads, workloads.c.id == workload_datasets.c.workload)
        .where(workloads.c.user == user)
        .group_by(workload_datasets.c.dataset)
        .order_by(last.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def numbers_of(connection: Connection, identifiers: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Numbers of the published versions of some datasets, the newest first."""
    query = (
        select(dataset_versions.c.dataset, dataset_versions.c.number)
        .where(dataset_versions.c.dataset.in_(identifiers), dataset_versions.c.number.is_not(None))
        .order_by(dataset_versions.c.number.desc())
    )
    found: dict[str, list[int]] = {}
    for row in connection.execute(query):
        found.setdefault(row.dataset, []).append(row.number)
    return {dataset: tuple(numbers) for dataset, numbers in found.items()}


def mark_used(connection: Connection, identifiers: Collection[str], at: datetime) -> None:
    """Somebody has just asked for these datasets."""
    connection.execute(
        update(datasets).where(datasets.c.id.in_(identifiers)).values(last_used_at=at)
    )
