"""kill -9 of the process that does the jobs, and a storage that goes away under them."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner.datasets import imports, versions
from dcloud_spawner.datasets.import_orders import url_order
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.storage.keys import dataset_prefix
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, datasets, events
from dcloud_spawner.store.dataset_jobs import OPEN, Job, JobState
from hub_services.datasets.__main__ import only_one
from tests.faults.workers import kill
from tests.patience import patient
from tests.storage import jobs_worker
from tests.storage.outside import Page, outside
from tests.storage.servers import StorageServer
from tests.storage.world import ANN, Lab, lab

pytestmark = [pytest.mark.database, pytest.mark.timeout(120)]

LARGE = random.Random(2).randbytes(80 << 20)


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.storage.jobs_worker"])
    return context


def begin(processes: Any, world: Lab, folder: Path, pause_seconds: float = 0) -> Any:
    url = world.platform.database.url.render_as_string(hide_password=False)
    process = processes.Process(
        target=jobs_worker.work, args=(url, folder, world.store.access, pause_seconds)
    )
    process.start()
    return process


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.01)


def over(world: Lab, job: Job) -> bool:
    return world.job(job.id).state not in OPEN


def sums(world: Lab, version: str) -> int:
    """How many files were counted."""
    with world.platform.database.reading() as connection:
        return dataset_files.checked_sums(connection, version)[0]


def test_a_publication_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    processes: Any, database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    chooser = random.Random(7)
    with lab(database_url, tmp_path, minio_store) as world:
        dataset = world.dataset()
        files = {f"{n % 7}/{n}": LARGE[n << 16 : (n + 1) << 16] for n in range(60)}
        world.put(dataset, files)
        draft = world.draft(dataset)
        job = versions.begin_publish(world.platform, ANN, dataset.id)
        counted = [0]
        for _ in range(3):
            process = begin(processes, world, tmp_path, pause_seconds=0.2)
            until(lambda: over(world, job) or sums(world, draft.id) > counted[-1])
            time.sleep(chooser.uniform(0, 0.2))
            kill(process)
            counted.append(sums(world, draft.id))
        assert counted == sorted(set(counted)), "what was counted is not counted again"
        assert counted[-1] < len(files), "too quick to be killed"
        process = begin(processes, world, tmp_path)
        until(lambda: over(world, job))
        kill(process)
        done = world.job(job.id)
        assert done.state is JobState.DONE, done.message
        assert (done.done_files, done.done_bytes) == (60, sum(map(len, files.values())))
        assert world.now(dataset).latest_number == 1
        assert {path: file.sha256 for path, file in world.files(draft.id).items()} == {
            path: file.claimed_sha256 for path, file in world.files(draft.id).items()
        }
        with world.platform.database.reading() as connection:
            lines = [line.action for line in events.read(connection, target=dataset.id)]
            assert list(events.verify(connection)) == []
            assert len(datasets.versions_of(connection, dataset.id)) == 1
        assert lines.count("dataset.publish") == 1


def test_an_import_that_is_killed_goes_on_where_it_was(
    processes: Any, database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    with lab(database_url, tmp_path, minio_store) as world, outside() as web:
        page = Page(LARGE, headers={"ETag": '"one"'}, bytes_per_second=40 << 20)
        web.pages["/large.bin"] = page
        dataset = world.dataset()
        order = url_order(f"{web.url}/large.bin")
        job = imports.begin_import(world.platform, ANN, dataset.id, order)
        process = begin(processes, world, tmp_path)
        until(lambda: world.job(job.id).done_bytes > 40 << 20)
        kill(process)
        assert world.files(world.draft(dataset).id) == {}, "a part of a file is no file"
        web.asked.clear()
        page.bytes_per_second = None
        process = begin(processes, world, tmp_path)
        until(lambda: over(world, job))
        kill(process)
        assert world.job(job.id).state is JobState.DONE, world.job(job.id).message
        first_bytes = [int(span[6:-1]) for _, span in web.asked if span]
        assert first_bytes
        assert min(first_bytes) >= 16 << 20, "what the storage had was not fetched again"
        draft = world.draft(dataset)
        assert world.read(dataset, draft.id, "large.bin") == LARGE
        assert world.now(dataset).stored_bytes == len(LARGE)
        assert world.publish(dataset).state is JobState.DONE


@pytest.mark.sqlite_suffices
def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    processes: Any, database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    with lab(database_url, tmp_path, minio_store) as world, outside() as web:
        page = Page(LARGE, headers={"ETag": '"one"'}, bytes_per_second=40 << 20)
        web.pages["/large.bin"] = page
        dataset = world.dataset()
        order = url_order(f"{web.url}/large.bin")
        job = imports.begin_import(world.platform, ANN, dataset.id, order)
        process = begin(processes, world, tmp_path)
        until(lambda: world.job(job.id).done_bytes > 40 << 20)
        kill(process)
        other = LARGE[::-1]
        web.pages["/large.bin"] = Page(other, headers={"ETag": '"two"'})
        process = begin(processes, world, tmp_path)
        until(lambda: over(world, job))
        kill(process)
        assert world.job(job.id).state is JobState.DONE, world.job(job.id).message
        assert world.read(dataset, world.draft(dataset).id, "large.bin") == other


def test_a_job_waits_for_a_storage_that_is_away_and_then_goes_on(
    database_url: str,
    tmp_path: Path,
    storage_server: StorageServer,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hub_services.datasets.jobs.AGAIN_SECONDS", 0.1)
    with lab(database_url, tmp_path, store) as world:
        dataset = world.dataset()
        world.put(dataset, {str(n): LARGE[n << 20 : (n + 2) << 20] for n in range(20)})
        job = versions.begin_publish(world.platform, ANN, dataset.id)
        storage_server.stop(kill=True)
        try:
            world.turn()
            until(lambda: world.job(job.id).message or over(world, job), 20)
            assert world.job(job.id).state is JobState.RUNNING
            assert "storage" in world.job(job.id).message
        finally:
            storage_server.start()
        done = world.wait(job)
        assert done.state is JobState.DONE, done.message
        assert list(world.store.list(dataset_prefix(dataset.id)))


@pytest.mark.sqlite_suffices
def test_there_is_one_process_for_a_state_folder(
    processes: Any, database_url: str, tmp_path: Path, minio_store: ObjectStore
) -> None:
    with lab(database_url, tmp_path, minio_store) as world:
        process = begin(processes, world, tmp_path)
        lock = world.platform.settings.state / "run" / "data.lock"
        until(lock.exists)
        time.sleep(0.5)
        with pytest.raises(ConfigurationError), only_one(world.platform.settings):
            pass
        kill(process)
        with only_one(world.platform.settings):
            asyncio.run(world.jobs.turn())
