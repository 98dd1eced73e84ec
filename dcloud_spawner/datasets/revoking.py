"""Whoever may not read a dataset any more loses its mount."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner.datasets.rights import right_of, who_was
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import dataset_mounts, datasets, events
from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.events import Actor

LOST = "It is not shared with you any more."
REVOKER = Actor("datasets")


def revoke_lost(connection: Connection, dataset: str) -> int:
    """Mark the mounts of those who may not read a dataset any more, in the transaction that took
    their right; the process ``data`` unmounts them. Their groups are those of their last request.
    Returns how many there were."""
    found, now, lost = datasets.get(connection, dataset), utc_now(), 0
    for use in dataset_mounts.open_uses(connection, dataset):
        if use.mount.state in (MountState.REVOKED, MountState.GONE):
            continue
        if right_of(connection, who_was(connection, use.user), found) is not None:
            continue
        dataset_mounts.set_state(
            connection, use.mount.workload, use.mount.name, MountState.REVOKED, now, LOST
        )
        detail: dict[str, object] = {"dataset": found.reference, "user": use.user}
        events.note(
            connection, REVOKER, "dataset.revoke", use.mount.workload, at=now, detail=detail
        )
        lost += 1
    return lost
