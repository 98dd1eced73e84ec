"""How much somebody may store: homes and datasets are counted as one.

A person's limit is ``storage_gib`` of their roles or what was set for them; a project's is the
setting ``project_storage_gib``. All versions count, drafts, what open uploads will bring, and what
lies in the bin.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from dcloud_spawner import limits
from dcloud_spawner.datasets.sizes import size_words
from dcloud_spawner.errors import Conflict
from dcloud_spawner.platform import utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import datasets, homes
from dcloud_spawner.store.datasets import Dataset

GIB = 2**30


@dataclass(frozen=True)
class Stored:
    """What an owner stores and may store, in bytes."""

    home_bytes: int
    dataset_bytes: int
    most_bytes: int | None
    """None: as much as there is room for."""

    @property
    def used_bytes(self) -> int:
        """All of it."""
        return self.home_bytes + self.dataset_bytes

    @property
    def left_bytes(self) -> int | None:
        """What still has room; None: unlimited."""
        return None if self.most_bytes is None else max(0, self.most_bytes - self.used_bytes)


def stored(connection: Connection, settings: Settings, owner_kind: str, owner: str) -> Stored:
    """What a person or a project stores."""
    of_datasets = datasets.stored_by(connection, owner_kind, owner)
    if owner_kind == datasets.PROJECT:
        most = settings.project_storage_gib
        return Stored(0, of_datasets, None if most is None else int(most * GIB))
    home = homes.of_user(connection, owner)
    gib = limits.standing(connection, settings, owner, utc_now()).limits.storage_gib
    size = home.size_bytes if home and home.size_bytes else 0
    return Stored(size, of_datasets, None if gib is None else int(gib * GIB))


def check(connection: Connection, settings: Settings, dataset: Dataset, more_bytes: int) -> None:
    """Refuse bytes for which the owner has no room. Raises Conflict ``storage_full``."""
    now = stored(connection, settings, dataset.owner_kind, dataset.owner)
    left = now.left_bytes
    if left is None or more_bytes <= left:
        return
    whose = "The project" if dataset.owner_kind == datasets.PROJECT else dataset.owner_name
    assert now.most_bytes is not None
    raise Conflict(
        f"There is no room for {size_words(more_bytes)}: {whose} may store "
        f"{size_words(now.most_bytes)} and has {size_words(now.used_bytes)} "
        f"({size_words(now.dataset_bytes)} in datasets, {size_words(now.home_bytes)} at home).",
        hint="Delete old versions or drafts and empty the bin, or ask for more storage.",
        code="storage_full",
    )
