"""Datasets as rows, for tests that need no storage behind them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import dataset_shares, datasets
from dcloud_spawner.store.datasets import Dataset, VersionState


def publish(
    connection: Connection,
    owner: str,
    name: str,
    *,
    versions: int = 1,
    size_bytes: int = 138_000_000_000,
    project: str = "",
    shared: tuple[tuple[str, str], ...] = (),
    **more: Any,
) -> Dataset:
    """A dataset with so many published versions; ``project`` is the id of its owner's account,
    ``shared`` has kinds and names of who may read it."""
    now = utc_now()
    dataset = datasets.insert(
        connection,
        owner_kind=datasets.PROJECT if project else datasets.USER,
        owner=project or owner,
        owner_name=owner,
        name=name,
        created_by=owner,
        at=now,
        **more,
    )
    for number in range(1, versions + 1):
        version = datasets.add_draft(connection, dataset.id, owner, now)
        datasets.change_version(
            connection,
            version.id,
            number=number,
            state=VersionState.PUBLISHED.value,
            files=2,
            size_bytes=size_bytes,
            published_at=now,
        )
        datasets.change(
            connection,
            dataset.id,
            latest_number=number,
            latest_version=version.id,
            size_bytes=size_bytes,
            files=2,
        )
    for kind, who in shared:
        dataset_shares.put(connection, dataset.id, kind, who, "read", owner, now)
    return datasets.get(connection, dataset.id)
