"""Work on datasets in the background: what is to do, and how far it is."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, select, update

from dcloud_spawner.store.datasets_schema import dataset_jobs


class Kind(StrEnum):
    """What a job does."""

    PUBLISH = "publish"
    COPY = "copy"
    IMPORT_URL = "import_url"
    IMPORT_S3 = "import_s3"
    PURGE = "purge"


class JobState(StrEnum):
    """How far it is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Job:
    """One job. ``order`` says what to do and holds no secret; sizes in bytes."""

    id: str
    dataset: str
    version: str | None
    kind: Kind
    state: JobState
    order: Mapping[str, Any]
    done_bytes: int
    total_bytes: int | None
    done_files: int
    total_files: int | None
    message: str
    by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def fraction(self) -> float | None:
        """How much of it is done, 0 to 1; None while nobody knows how much there is."""
        if self.total_bytes:
            return min(1.0, self.done_bytes / self.total_bytes)
        if self.total_files:
            return min(1.0, self.done_files / self.total_files)
        return None


def insert(
    connection: Connection,
    *,
    dataset: str,
    version: str | None,
    kind: Kind,
    order: Mapping[str, Any],
    by: str,
    at: datetime,
    total_bytes: int | None = None,
    total_files: int | None = None,
) -> Job:
    """A job for the process ``data`` to take."""
    identifier = uuid.uuid4().hex
    connection.execute(
        dataset_jobs.insert().values(
            id=identifier,
            dataset=dataset,
            version=version,
            kind=kind.value,
            state=JobState.QUEUED.value,
            order=dict(order),
            total_bytes=total_bytes,
            total_files=total_files,
            by=by,
            created_at=at,
        )
    )
    found = find(connection, identifier)
    assert found is not None
    return found


def find(connection: Connection, identifier: str) -> Job | None:
    """The job of an id."""
    row = connection.execute(
        select(dataset_jobs).where(dataset_jobs.c.id == identifier)
    ).one_or_none()
    return _job(row._mapping) if row else None


def of_dataset(connection: Connection, dataset: str, limit: int = 20) -> Sequence[Job]:
    """The latest jobs of a dataset, the newest first."""
    query = select(dataset_jobs).where(dataset_jobs.c.dataset == dataset)
    query = query.order_by(dataset_jobs.c.created_at.desc(), dataset_jobs.c.id).limit(limit)
    return [_job(row._mapping) for row in connection.execute(query)]


def open_jobs(connection: Connection, version: str | None = None) -> Sequence[Job]:
    """Jobs that are not at their end, the oldest first; of one version, or all."""
    query = select(dataset_jobs).where(dataset_jobs.c.state.in_([state.value for state in OPEN]))
    if version is not None:
        query = query.where(dataset_jobs.c.version == version)
    query = query.order_by(dataset_jobs.c.created_at, dataset_jobs.c.id)
    return [_job(row._mapping) for row in connection.execute(query)]


def change(connection: Connection, identifier: str, **values: Any) -> None:
    """Write some columns."""
    connection.execute(update(dataset_jobs).where(dataset_jobs.c.id == identifier).values(**values))


def move(
    connection: Connection,
    identifier: str,
    states: Sequence[JobState],
    to: JobState,
    **values: Any,
) -> bool:
    """Change the state if it is one of some; False when it is another one (cancelled meanwhile)."""
    done = connection.execute(
        update(dataset_jobs)
        .where(
            dataset_jobs.c.id == identifier,
            dataset_jobs.c.state.in_([state.value for state in states]),
        )
        .values(state=to.value, **values)
    )
    return done.rowcount == 1


def ended_before(connection: Connection, before: datetime, limit: int = 500) -> Sequence[str]:
    """Ids of jobs that were over before a time."""
    query = select(dataset_jobs.c.id).where(dataset_jobs.c.ended_at < before).limit(limit)
    return list(connection.execute(query).scalars())


def remove(connection: Connection, identifiers: Sequence[str]) -> None:
    """Forget some jobs."""
    connection.execute(delete(dataset_jobs).where(dataset_jobs.c.id.in_(identifiers)))


def remove_of(connection: Connection, dataset: str) -> None:
    """Forget the jobs of a dataset that is gone."""
    connection.execute(delete(dataset_jobs).where(dataset_jobs.c.dataset == dataset))


def _job(values: Mapping[Any, Any]) -> Job:
    kind, state = Kind(values["kind"]), JobState(values["state"])
    return Job(**{**values, "kind": kind, "state": state})
