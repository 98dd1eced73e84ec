"""Datasets as the API shows them."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner.datasets.known import is_known
from dcloud_spawner.datasets.rights import Right
from dcloud_spawner.store import accounts, dataset_shares
from dcloud_spawner.store.dataset_jobs import Job
from dcloud_spawner.store.dataset_mounts import Use
from dcloud_spawner.store.dataset_shares import Share
from dcloud_spawner.store.datasets import Dataset, Version
from hub_services.web.api.dataset_models import (
    DatasetView,
    JobView,
    ShareView,
    UseView,
    VersionView,
)


def dataset_view(dataset: Dataset, right: Right | None) -> DatasetView:
    """One dataset."""
    return DatasetView(
        id=dataset.id,
        reference=dataset.reference,
        owner=dataset.owner_name,
        owner_kind=dataset.owner_kind,
        name=dataset.name,
        description=dataset.description,
        tags=tuple(dataset.tags),
        licence=dataset.licence,
        everyone=dataset.everyone,
        mount_mode=dataset.mount_mode,
        latest=dataset.latest_number,
        files=dataset.files,
        size_bytes=dataset.size_bytes,
        stored_bytes=dataset.stored_bytes,
        created_at=dataset.created_at,
        changed_at=dataset.changed_at,
        last_used_at=dataset.last_used_at,
        deleted_at=dataset.deleted_at,
        right=(right or Right.READ).name.lower(),
    )


def version_view(version: Version) -> VersionView:
    """One version."""
    return VersionView(
        id=version.id,
        number=version.number,
        state=version.state.value,
        note=version.note,
        files=version.files,
        size_bytes=version.size_bytes,
        manifest_sha256=version.manifest_sha256,
        created_by=version.created_by,
        created_at=version.created_at,
        published_by=version.published_by,
        published_at=version.published_at,
        problem=version.problem,
    )


def shares_view(connection: Connection, dataset: str) -> tuple[ShareView, ...]:
    """All shares of a dataset; projects by their names."""
    found = dataset_shares.of_dataset(connection, dataset)
    projects = accounts.get_all(
        connection, [share.name for share in found if share.kind == dataset_shares.PROJECT]
    )

    def name_of(share: Share) -> str:
        account = projects.get(share.name) if share.kind == dataset_shares.PROJECT else None
        return account.name if account else share.name

    return tuple(
        ShareView(
            kind=share.kind,
            name=name_of(share),
            right=share.right,
            by=share.by,
            at=share.at,
            known=is_known(connection, share),
        )
        for share in found
    )


def use_view(use: Use, numbers: dict[str, int | None]) -> UseView:
    """Whose server has a dataset."""
    return UseView(
        user=use.user,
        server=use.server_name,
        version=numbers.get(use.mount.version),
        mode=use.mount.mode,
        state=use.mount.state.value,
    )


def job_view(job: Job) -> JobView:
    """One job."""
    return JobView(
        id=job.id,
        kind=job.kind.value,
        state=job.state.value,
        done_bytes=job.done_bytes,
        total_bytes=job.total_bytes,
        done_files=job.done_files,
        total_files=job.total_files,
        message=job.message,
        by=job.by,
        created_at=job.created_at,
        ended_at=job.ended_at,
    )
