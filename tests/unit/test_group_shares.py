"""Shares with a group of the hub end with the group, and never because the hub is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.datasets import catalog, groups
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker, Right, right_of, who
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.spawners import acts
from dcloud_spawner.spawners.memberships import Memberships
from dcloud_spawner.store import dataset_shares, events
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine

ANN = Asker(Actor("ann", "10.0.0.1"))
ROOT = Actor("root", "10.0.0.9")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    settings = Settings(state=tmp_path / "state", database_url=database_url)
    made = Platform(settings, engine=MemoryEngine())
    yield made
    made.close()
    made.database.engine.dispose()


@pytest.fixture
def shared(platform: Platform) -> Dataset:
    """Ann's, shared with two groups, and with one that the hub never had."""
    made = catalog.create(platform, ANN, "faces", Description())
    for group in ("vision", "speech", "to-come"):
        catalog.share(platform, ANN, made.id, "group", group, "read")
    return made


def shared_with(platform: Platform, dataset: Dataset) -> list[str]:
    with platform.database.reading() as connection:
        return [share.name for share in dataset_shares.of_dataset(connection, dataset.id)]


def test_a_group_that_is_deleted_in_the_hub_loses_what_was_shared_with_it_at_once(
    platform: Platform, shared: Dataset
) -> None:
    gone = Memberships(gone="vision")
    acts._append(platform, gone, ROOT, "hub.delete", "groups/vision", {})
    assert shared_with(platform, shared) == ["speech", "to-come"]
    with platform.database.reading() as connection:
        # Whoever is in a group of that name now is in another one.
        assert right_of(connection, who(connection, "ben", ["vision"]), shared) is None
        assert right_of(connection, who(connection, "ben", ["speech"]), shared) is Right.READ
        (line,) = [
            line
            for line in events.read(connection, target=shared.id)
            if line.action == "dataset.unshare"
        ]
    assert (line.actor, line.detail["with"], line.detail["why"]) == ("root", "group:vision", "gone")


def test_a_group_that_the_hub_has_no_longer_loses_its_shares_after_a_grace(
    platform: Platform, shared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GRACE_LOOKS", 3)
    assert groups.look(platform, {"vision", "speech"}) == 0
    for _ in range(2):
        assert groups.look(platform, {"speech"}) == 0
    # It is there again: all of the grace begins anew.
    assert groups.look(platform, {"vision", "speech"}) == 0
    for _ in range(2):
        assert groups.look(platform, {"speech"}) == 0
    # A controller that was just started counts nothing.
    assert groups.look(platform, {"speech"}, count=False) == 0
    assert shared_with(platform, shared) == ["speech", "to-come", "vision"]
    assert groups.look(platform, {"speech"}) == 1
    assert shared_with(platform, shared) == ["speech", "to-come"]
    with platform.database.reading() as connection:
        last = events.read(connection, target=shared.id)[-1]
        assert list(events.verify(connection)) == []
    assert (last.actor, last.action) == ("datasets", "dataset.unshare")
    assert last.detail["with"] == "group:vision"


def test_who_shares_ahead_with_a_group_to_come_keeps_the_share(
    platform: Platform, shared: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GRACE_LOOKS", 1)
    for _ in range(3):
        groups.look(platform, {"vision", "speech"})
    assert shared_with(platform, shared) == ["speech", "to-come", "vision"]
