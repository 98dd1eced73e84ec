"""Publication, copies and the bin on real stores."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dcloud_spawner.datasets import catalog, versions
from dcloud_spawner.datasets.versions import manifest_lines
from dcloud_spawner.errors import Conflict, NotFound
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage.keys import dataset_prefix, file_key, manifest_key, version_prefix
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, dataset_jobs, dataset_mounts, datasets, events
from dcloud_spawner.store.dataset_jobs import JobState, Kind
from dcloud_spawner.store.datasets import VersionState
from hub_services.datasets.jobs import Jobs
from hub_services.datasets.purging import empty_bin
from hub_services.datasets.sweeping import sweep
from tests.platforms import submit
from tests.storage.world import ANN, Lab, lab

pytestmark = pytest.mark.database

FILES = {
    "a/1.bin": b"one" * 1000,
    "a/2 b.bin": b"",
    "ä.csv": b"x,y\n1,2\n",
    "big": b"z" * 3_000_000,
}


@pytest.fixture
def world(database_url: str, tmp_path: Path, store: ObjectStore) -> Iterator[Lab]:
    with lab(database_url, tmp_path, store) as made:
        yield made


def test_publishing_counts_every_file_and_gives_a_number_and_a_manifest(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    draft = world.draft(dataset)
    job = world.publish(dataset)
    assert job.state is JobState.DONE, job.message
    assert (job.done_files, job.done_bytes) == (4, sum(map(len, FILES.values())))
    found = world.files(draft.id)
    assert {path: file.sha256 for path, file in found.items()} == {
        path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    text = world.store.read(manifest_key(dataset.id, draft.id))
    assert text.decode() == "".join(manifest_lines(found.values()))
    now = world.now(dataset)
    assert (now.latest_number, now.latest_version, now.files) == (1, draft.id, 4)
    with world.platform.database.reading() as connection:
        version = datasets.get_version(connection, draft.id)
        assert list(events.verify(connection)) == []
    assert version.state is VersionState.PUBLISHED
    assert version.manifest_sha256 == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("wrong", ["claim", "size", "missing"])
def test_a_file_that_is_not_what_was_meant_is_named_and_the_draft_is_open_again(
    world: Lab, wrong: str
) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    draft = world.draft(dataset)
    key = file_key(dataset.id, draft.id, "a/1.bin")
    if wrong == "claim":
        world.store.put(key, b"oNe" * 1000)
    elif wrong == "size":
        world.store.put(key, b"longer" * 1000)
    else:
        world.store.remove(key)
    job = world.publish(dataset)
    assert job.state is JobState.FAILED
    assert "a/1.bin" in job.message
    found = world.draft(dataset)
    assert found.state is VersionState.DRAFT
    assert "a/1.bin" in found.problem
    assert world.now(dataset).latest_number is None
    world.put(dataset, {"a/1.bin": b"one" * 1000})
    assert world.publish(dataset).state is JobState.DONE


def test_sums_of_an_attempt_that_failed_are_counted_anew(world: Lab) -> None:
    """A file may have been changed in between without a word, by whoever died over it."""
    dataset = world.dataset()
    world.put(dataset, {"a": b"a" * 10, "b": b"b" * 10}, claimed=False)
    draft = world.draft(dataset)
    world.store.remove(file_key(dataset.id, draft.id, "b"))
    assert world.publish(dataset).state is JobState.FAILED
    world.store.put(file_key(dataset.id, draft.id, "a"), b"A" * 10)
    world.put(dataset, {"b": b"b" * 10})
    assert world.publish(dataset).state is JobState.DONE
    assert world.files(draft.id)["a"].sha256 == hashlib.sha256(b"A" * 10).hexdigest()


def test_what_is_in_no_row_is_not_in_the_version(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    draft = world.draft(dataset)
    world.store.put(file_key(dataset.id, draft.id, "a/stray"), b"of a killed upload")
    assert world.publish(dataset).state is JobState.DONE
    prefix = version_prefix(dataset.id, draft.id)
    listed = {found.key.removeprefix(prefix) for found in world.store.list(prefix)}
    assert listed == set(FILES)


def test_jobs_of_long_ago_are_forgotten(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    first = world.publish(dataset)
    versions.open_draft(world.platform, ANN, dataset.id, empty=False)
    with world.platform.database.transaction() as connection:
        (second,) = dataset_jobs.open_jobs(connection)
        long_ago = utc_now() - timedelta(days=91)
        dataset_jobs.change(connection, first.id, ended_at=long_ago)
    world.wait(second)
    asyncio.run(world.jobs.leftovers())
    with world.platform.database.reading() as connection:
        assert [job.id for job in dataset_jobs.of_dataset(connection, dataset.id)] == [second.id]


def test_a_cancelled_publication_opens_the_draft_and_gives_no_number(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    job = versions.begin_publish(world.platform, ANN, dataset.id)
    with pytest.raises(Conflict):
        versions.remove_files(world.platform, ANN, dataset.id, ["big"])
    versions.cancel_job(world.platform, ANN, dataset.id, job.id)
    world.turn()
    assert world.job(job.id).state is JobState.CANCELLED
    assert world.draft(dataset).state is VersionState.DRAFT
    assert world.publish(dataset).state is JobState.DONE
    assert world.now(dataset).latest_number == 1


def test_a_dataset_that_was_deleted_while_it_was_published_comes_back_with_an_open_draft(
    world: Lab,
) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    job = versions.begin_publish(world.platform, ANN, dataset.id)
    catalog.throw_away(world.platform, ANN, dataset.id)
    world.turn()
    catalog.restore(world.platform, ANN, dataset.id)
    assert world.job(job.id).state is JobState.CANCELLED
    assert world.draft(dataset).state is VersionState.DRAFT
    assert world.publish(dataset).state is JobState.DONE


def test_a_draft_on_top_of_a_version_has_its_files_and_leaves_it_as_it_is(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    first = world.draft(dataset).id
    world.publish(dataset)
    draft = versions.open_draft(world.platform, ANN, dataset.id, empty=False)
    with world.platform.database.reading() as connection:
        (job,) = dataset_jobs.open_jobs(connection, draft.id)
    assert world.wait(job).state is JobState.DONE
    versions.remove_files(world.platform, ANN, dataset.id, ["big"])
    world.put(dataset, {"ä.csv": b"x,y\n3,4\n"})
    assert world.publish(dataset).state is JobState.DONE
    assert set(world.files(draft.id)) == set(FILES) - {"big"}
    assert world.read(dataset, draft.id, "ä.csv") == b"x,y\n3,4\n"
    assert {path: world.read(dataset, first, path) for path in FILES} == FILES
    now = world.now(dataset)
    assert now.latest_number == 2
    kept = 2 * sum(map(len, FILES.values())) - len(FILES["big"])
    assert now.stored_bytes == kept


def test_a_copy_that_was_interrupted_goes_on_in_the_next_process(
    world: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_services.datasets.copying.AT_ONCE", 5)
    dataset = world.dataset()
    files = {f"{n:03}": str(n).encode() * 1000 for n in range(120)}
    world.put(dataset, files)
    world.publish(dataset)
    draft = versions.open_draft(world.platform, ANN, dataset.id, empty=False)
    with world.platform.database.reading() as connection:
        (job,) = dataset_jobs.open_jobs(connection, draft.id)
    world.turn()
    while not world.files(draft.id):
        time.sleep(0.005)
    world.jobs.close()
    there = len(world.files(draft.id))
    assert world.job(job.id).state is JobState.RUNNING
    assert 0 < there < len(files), "too quick to be interrupted"
    world.jobs = Jobs(world.platform)
    done = world.wait(job)
    assert (done.state, done.done_files) == (JobState.DONE, len(files))
    assert {path: world.read(dataset, draft.id, path) for path in files} == files
    world.jobs.close()


def test_a_discarded_draft_leaves_nothing_in_the_store(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    versions.discard_draft(world.platform, ANN, dataset.id)
    with world.platform.database.reading() as connection:
        (job,) = dataset_jobs.open_jobs(connection)
    assert world.wait(job).state is JobState.DONE
    assert list(world.store.list(dataset_prefix(dataset.id))) == []
    assert world.now(dataset).stored_bytes == 0


def test_the_bin_is_emptied_after_its_days_and_nothing_is_left(world: Lab) -> None:
    kept, gone = world.dataset("kept"), world.dataset("gone")
    for each in (kept, gone):
        world.put(each, FILES)
        world.publish(each)
        catalog.throw_away(world.platform, ANN, each.id)
    long_ago = utc_now() - timedelta(days=31)
    with world.platform.database.transaction() as connection:
        datasets.change(connection, gone.id, deleted_at=long_ago)
    assert empty_bin(world.platform) == 1
    assert empty_bin(world.platform) == 1  # again before it is done: no second job
    with world.platform.database.reading() as connection:
        (job,) = dataset_jobs.open_jobs(connection)
    assert job.kind is Kind.PURGE
    while True:
        world.turn()
        with world.platform.database.reading() as connection:
            if dataset_jobs.find(connection, job.id) is None:
                break
    assert list(world.store.list(dataset_prefix(gone.id))) == []
    with world.platform.database.reading() as connection:
        assert datasets.find(connection, gone.id) is None
        assert dataset_files.below(connection, world.now(kept).latest_version or "")
        assert list(events.verify(connection)) == []
    with pytest.raises(NotFound):
        catalog.restore(world.platform, ANN, gone.id)
    assert catalog.restore(world.platform, ANN, kept.id).deleted_at is None
    assert len(list(world.store.list(dataset_prefix(kept.id)))) == len(FILES)


def test_what_a_server_still_has_mounted_is_not_removed(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    world.publish(dataset)
    version = world.now(dataset).latest_version or ""
    server = submit(world.platform, "ann", 0)
    with world.platform.database.transaction() as connection:
        dataset_mounts.insert(
            connection, server.id, "cars", dataset.id, version, "cached", utc_now()
        )
    catalog.throw_away(world.platform, ANN, dataset.id)
    catalog.empty_bin(world.platform, ANN, dataset.id)
    with world.platform.database.reading() as connection:
        (job,) = dataset_jobs.open_jobs(connection)
    world.turn()
    while world.jobs.busy(job.id):
        time.sleep(0.01)
    assert world.job(job.id).message == "It waits until the servers of ann end."
    assert len(list(world.store.list(dataset_prefix(dataset.id)))) == len(FILES)
    with pytest.raises(NotFound):
        versions.open_draft(world.platform, ANN, dataset.id, empty=False)


def test_a_dataset_that_was_brought_back_before_its_end_is_not_touched(world: Lab) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    world.publish(dataset)
    catalog.throw_away(world.platform, ANN, dataset.id)
    catalog.empty_bin(world.platform, ANN, dataset.id)
    with world.platform.database.transaction() as connection:
        datasets.change(connection, dataset.id, deleted_at=None)
        (job,) = dataset_jobs.open_jobs(connection)
    assert world.wait(job).message == "It was brought back."
    assert len(list(world.store.list(dataset_prefix(dataset.id)))) == len(FILES)


def test_the_sweep_takes_old_objects_of_nothing_and_leaves_the_rest(
    world: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = world.dataset()
    world.put(dataset, FILES)
    draft = world.draft(dataset).id
    stray = file_key(dataset.id, draft, "a/stray")
    of_nothing = file_key("0" * 32, "1" * 32, "x")
    for key in (stray, of_nothing):
        world.store.put(key, b"stray")
    assert sweep(world.platform) == 0, "it may be somebody's who is about to write its row"
    monkeypatch.setattr("hub_services.datasets.sweeping.OLDER_THAN", timedelta(days=-1))
    assert sweep(world.platform) == 2
    assert not world.store.exists(stray)
    assert not world.store.exists(of_nothing)
    assert world.publish(dataset).state is JobState.DONE
    assert sweep(world.platform) == 0
