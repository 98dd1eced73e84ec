"""Whoever may not read a dataset any more loses its mount."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner.datasets.rights import right_of, who_was
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import dataset_mounts, datasets, events
from dcloud_spawner.store.dataset_mounts import MountState
from dcloud_spawner.store.events import Actor

LOST = "It was unmounted; ask its owner."
REVOKER = Actor("datasets")


def revoke_all_lost(platform: Platform) -> int:
    """The same for every dataset that somebody has: who left a group or a project lost a right
    that no share of the dataset tells of, and so did all of a project that was closed. Blocks."""
    with platform.database.reading() as connection:
        held: dict[str, set[str]] = {}
        for use in dataset_mounts.open_uses(connection):
            if use.mount.state not in (MountState.REVOKED, MountState.GONE):
                held.setdefault(use.mount.dataset, set()).add(use.user)
        users = {user: who_was(connection, user) for names in held.values() for user in names}
        lost = [
            found.id
            for identifier, names in held.items()
            if (found := datasets.find(connection, identifier)) is not None
            and any(right_of(connection, users[name], found) is None for name in names)
        ]
    if not lost:
        return 0
    with platform.database.transaction() as connection:
        return sum(revoke_lost(connection, identifier) for identifier in lost)


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
        detail: dict[str, object] = {
            "dataset": found.reference,
            "user": use.user,
            "workload": use.mount.workload,
        }
        events.note(connection, REVOKER, "dataset.revoke", found.id, at=now, detail=detail)
        lost += 1
    return lost
