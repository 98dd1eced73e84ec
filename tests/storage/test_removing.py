"""Files that are taken out of a draft, and come again before their objects are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.datasets import versions
from dcloud_spawner.datasets.removing import remove_objects
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store.dataset_jobs import JobState
from tests.storage.world import ANN, Lab, lab

FILES = {"a": b"one", "b/c": b"two", "d": b"three"}


@pytest.fixture
def world(database_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[Lab]:
    with lab(database_url, tmp_path, store) as made:
        yield made


def test_what_was_taken_out_is_gone_and_what_came_again_meanwhile_is_not(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    draft = world.draft(dataset).id
    gone = versions.remove_files(world.platform, ANN, dataset.id, ["a"], ["b"])
    world.put(dataset, {"b/c": b"anew"})
    remove_objects(world.platform, gone)
    assert not world.store.exists(file_key(dataset.id, draft, "a"))
    assert world.read(dataset, draft, "b/c") == b"anew"


def test_a_removal_that_takes_long_takes_nothing_from_a_version_published_since(
    world: Lab,
) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    draft = world.draft(dataset).id
    gone = versions.remove_files(world.platform, ANN, dataset.id, list(FILES))
    world.put(dataset, FILES)
    assert world.publish(dataset).state is JobState.DONE
    remove_objects(world.platform, gone)
    assert {path: world.read(dataset, draft, path) for path in FILES} == FILES
