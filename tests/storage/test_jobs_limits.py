"""What drafts and the bin may not get round."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.errors import NotFound
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_jobs, datasets
from dcloud_spawner.store.dataset_jobs import JobState
from tests.no_limits import NO_LIMITS
from tests.patience import patient
from tests.storage.world import ANN, Lab, lab

MIB = 1 << 20


@pytest.fixture
def world(database_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[Lab]:
    """People may store 10 MiB."""
    roles = {name: role | {"storage_gib": 10 / 1024} for name, role in NO_LIMITS.items()}
    with lab(database_url, tmp_path, store, roles=roles) as made:
        yield made


def test_drafts_that_are_opened_together_do_not_store_more_than_one_may(world: Lab) -> None:
    made = [world.dataset(name) for name in ("one", "two")]
    for dataset in made:
        world.put(dataset, {"a.bin": b"a" * 3 * MIB})
        world.publish(dataset)
    for dataset in made:
        versions.open_draft(world.platform, ANN, dataset.id, empty=False)
    with world.platform.database.reading() as connection:
        jobs = dataset_jobs.open_jobs(connection)
    ended = [world.wait(job) for job in jobs]
    assert sorted(job.state.value for job in ended) == ["done", "failed"]
    assert "no room" in next(job.message for job in ended if job.state is JobState.FAILED)
    assert sum(world.now(dataset).stored_bytes for dataset in made) == 9 * MIB


def test_a_dataset_is_deleted_for_good_while_a_draft_of_it_still_is(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, {"a.bin": b"a"})
    versions.discard_draft(world.platform, ANN, dataset.id)
    catalog.throw_away(world.platform, ANN, dataset.id)
    catalog.empty_bin(world.platform, ANN, dataset.id)
    deadline = time.monotonic() + patient(30)
    while time.monotonic() < deadline:
        world.turn()
        with world.platform.database.reading() as connection:
            if datasets.find(connection, dataset.id) is None:
                break
        time.sleep(0.05)
    with pytest.raises(NotFound):
        catalog.restore(world.platform, ANN, dataset.id)
