"""Uploads below the web service, on real storages: begun, gone on with, completed, refused.

Parts are sent by HTTP to the presigned addresses, as browsers and the command line do.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from dcloud_spawner.datasets import catalog, uploading, uploads, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.uploading import Claim
from dcloud_spawner.datasets.uploads import Begun, Outcome, Wanted
from dcloud_spawner.errors import Conflict, NotAllowed, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store import dataset_files, dataset_uploads, datasets, events
from dcloud_spawner.store.dataset_uploads import Upload
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine
from tests.no_limits import NO_LIMITS
from tests.platforms import settings_for

ALICE, BOB = Asker(Actor("alice", "10.0.0.7")), Asker(Actor("bob", "10.0.0.8"))
MIB = 1 << 20
T = TypeVar("T")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    """A platform whose people may store a quarter GiB."""
    roles = {name: role | {"storage_gib": 0.25} for name, role in NO_LIMITS.items()}
    made = Platform(settings_for(database_url, tmp_path, roles=roles), engine=MemoryEngine())
    yield made
    made.close()


@pytest.fixture
def dataset(platform: Platform) -> Dataset:
    """Alice's, with an empty draft."""
    return catalog.create(platform, ALICE, "scenes", Description())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """On a loop of its own."""
    return asyncio.run(coroutine)


def begin(
    platform: Platform,
    store: ObjectStore,
    dataset: Dataset,
    *files: Wanted,
    asking: Asker = ALICE,
    total: int | None = None,
) -> list[Begun]:
    return run(uploading.begin(platform, store, asking, dataset.id, files, total))


def send(store: ObjectStore, dataset: Dataset, upload: Upload, content: bytes, number: int) -> int:
    """PUT one part; returns the HTTP status."""
    url = uploading.signed(store, dataset.id, upload, [number], "")[number]
    first = (number - 1) * upload.part_bytes
    return httpx.put(url, content=content[first : first + upload.part_bytes]).status_code


def stored_bytes(platform: Platform, dataset: Dataset) -> int:
    with platform.database.reading() as connection:
        return datasets.get(connection, dataset.id).stored_bytes


def test_a_file_goes_on_where_it_was_left_and_is_what_was_sent(
    platform: Platform, store: ObjectStore, dataset: Dataset
) -> None:
    content = hashlib.shake_128(b"scene").digest(20 * MIB)
    wanted = Wanted("images/a.bin", len(content), 1_700_000_000_123)
    [begun] = begin(platform, store, dataset, wanted)
    assert begun.outcome is Outcome.OPEN and begun.upload is not None and not begun.parts
    assert stored_bytes(platform, dataset) == len(content), "room is kept before bytes are sent"
    assert send(store, dataset, begun.upload, content, 1) == 200

    [again] = begin(platform, store, dataset, wanted)
    assert again.upload == begun.upload or again.upload is not None
    assert [part.number for part in again.parts] == [1]
    done = run(uploading.complete(platform, store, ALICE, dataset.id, [Claim(begun.upload.id)]))
    assert done[0].problem is not None and done[0].problem.code == "incomplete"

    assert send(store, dataset, begun.upload, content, 2) == 200
    sha256 = hashlib.sha256(content).hexdigest()
    claims = [Claim(begun.upload.id, sha256)]
    [completed] = run(uploading.complete(platform, store, ALICE, dataset.id, claims))
    assert completed.problem is None and completed.path == "images/a.bin"

    with platform.database.reading() as connection:
        draft = datasets.draft_of(connection, dataset.id)
        assert draft is not None and (draft.files, draft.size_bytes) == (1, len(content))
        found = dataset_files.find(connection, draft.id, "images/a.bin")
        assert found is not None and found.claimed_sha256 == sha256
        lines = [line for line in events.read(connection) if line.action == "dataset.upload"]
    assert lines[0].detail["path"] == "images/a.bin" and lines[0].detail["bytes"] == len(content)
    assert stored_bytes(platform, dataset) == len(content), "counted once"
    assert store.read(file_key(dataset.id, draft.id, "images/a.bin")) == content

    [there] = begin(platform, store, dataset, wanted)
    assert there.outcome is Outcome.THERE and there.sha256 == sha256


def test_an_address_of_a_part_takes_its_size_and_nothing_after_completion(
    platform: Platform, store: ObjectStore, dataset: Dataset
) -> None:
    content = b"x" * 1000
    [begun] = begin(platform, store, dataset, Wanted("a.txt", 1000))
    upload = begun.upload
    assert upload is not None
    url = uploading.signed(store, dataset.id, upload, [1], "")[1]
    assert httpx.put(url, content=content + b"more").status_code >= 400
    assert httpx.put(url.replace("a.txt", "b.txt"), content=content).status_code >= 400
    assert httpx.get(url).status_code >= 400 and httpx.delete(url).status_code >= 400
    assert httpx.put(url, content=content).status_code == 200
    [done] = run(uploading.complete(platform, store, ALICE, dataset.id, [Claim(upload.id)]))
    assert done.problem is None
    assert httpx.put(url, content=b"y" * 1000).status_code >= 400
    assert store.read(file_key(dataset.id, upload.version, "a.txt")) == content


def test_empty_files_are_stored_at_once(
    platform: Platform, store: ObjectStore, dataset: Dataset
) -> None:
    begun = begin(platform, store, dataset, Wanted("pkg/__init__.py", 0), Wanted("a.txt", 3))
    assert [each.outcome for each in begun] == [Outcome.STORED, Outcome.OPEN]
    with platform.database.reading() as connection:
        draft = datasets.draft_of(connection, dataset.id)
        assert draft is not None and draft.files == 1
    assert store.read(file_key(dataset.id, draft.id, "pkg/__init__.py")) == b""


def test_what_has_no_room_is_refused_before_a_byte_is_sent(
    platform: Platform, rclone_store: ObjectStore, dataset: Dataset
) -> None:
    with pytest.raises(Conflict, match="no room") as refused:
        begin(platform, rclone_store, dataset, Wanted("a", MIB), total=300 * MIB)
    assert refused.value.code == "storage_full"
    begun = begin(platform, rclone_store, dataset, Wanted("a", 200 * MIB), Wanted("b", 100 * MIB))
    assert [each.outcome for each in begun] == [Outcome.OPEN, Outcome.REFUSED]
    assert begun[1].problem is not None and begun[1].problem.code == "storage_full"
    assert stored_bytes(platform, dataset) == 200 * MIB
    assert begun[0].upload is not None
    run(uploading.abort(platform, rclone_store, ALICE, dataset.id, begun[0].upload.id))
    assert stored_bytes(platform, dataset) == 0


@pytest.mark.parametrize(
    "path",
    ["../up", "a/../../b", "/root", "a//b", "a\\b", "a/./b", "", "bell\x07", "a/" + "n" * 300],
)
def test_a_path_that_could_mean_another_place_is_refused_alone(
    platform: Platform, rclone_store: ObjectStore, dataset: Dataset, path: str
) -> None:
    begun = begin(platform, rclone_store, dataset, Wanted(path, 5), Wanted("fine.txt", 5))
    assert [each.outcome for each in begun] == [Outcome.REFUSED, Outcome.OPEN]


def test_a_file_cannot_stand_where_another_needs_a_folder(
    platform: Platform, rclone_store: ObjectStore, dataset: Dataset
) -> None:
    begun = begin(platform, rclone_store, dataset, Wanted("a", 5), Wanted("a/b", 5))
    assert [each.outcome for each in begun] == [Outcome.OPEN, Outcome.REFUSED]
    begin(platform, rclone_store, dataset, Wanted("c/d", 0))
    [refused] = begin(platform, rclone_store, dataset, Wanted("c", 5))
    assert refused.problem is not None and refused.problem.code == "path_taken"


def test_another_file_of_the_same_path_takes_the_place_of_a_half_sent_one(
    platform: Platform, store: ObjectStore, dataset: Dataset
) -> None:
    [first] = begin(platform, store, dataset, Wanted("a.bin", 3 * MIB, 1))
    [second] = begin(platform, store, dataset, Wanted("a.bin", 2 * MIB, 2))
    assert first.upload is not None and second.upload is not None
    assert first.upload.id != second.upload.id
    assert stored_bytes(platform, dataset) == 2 * MIB
    assert send(store, dataset, first.upload, b"x" * 3 * MIB, 1) >= 400
    [done] = run(uploading.complete(platform, store, ALICE, dataset.id, [Claim(first.upload.id)]))
    assert isinstance(done.problem, NotFound)


def test_whoever_may_not_write_neither_begins_nor_completes_nor_cancels(
    platform: Platform, rclone_store: ObjectStore, dataset: Dataset
) -> None:
    [begun] = begin(platform, rclone_store, dataset, Wanted("a", 5))
    assert begun.upload is not None
    upload = begun.upload.id

    def attempts() -> Iterator[Coroutine[Any, Any, object]]:
        yield uploading.begin(platform, rclone_store, BOB, dataset.id, [Wanted("b", 1)])
        yield uploading.complete(platform, rclone_store, BOB, dataset.id, [Claim(upload)])
        yield uploading.abort(platform, rclone_store, BOB, dataset.id, upload)
        yield uploading.sign(platform, rclone_store, BOB, dataset.id, upload, [1], "")
        yield uploading.parts(platform, rclone_store, BOB, dataset.id, upload)

    for attempt in attempts():
        with pytest.raises(NotFound):
            run(attempt)
    catalog.share(platform, ALICE, dataset.id, "user", "bob", "read")
    for attempt in attempts():
        with pytest.raises(NotAllowed):
            run(attempt)
    catalog.share(platform, ALICE, dataset.id, "user", "bob", "write")
    [shared] = begin(platform, rclone_store, dataset, Wanted("b", 1), asking=BOB)
    assert shared.outcome is Outcome.OPEN


def test_an_upload_of_one_dataset_is_not_reached_through_another(
    platform: Platform, rclone_store: ObjectStore, dataset: Dataset
) -> None:
    [begun] = begin(platform, rclone_store, dataset, Wanted("a", 5))
    own = catalog.create(platform, BOB, "own", Description())
    assert begun.upload is not None
    with pytest.raises(NotFound):
        run(uploading.sign(platform, rclone_store, BOB, own.id, begun.upload.id, [1], ""))
    [done] = run(uploading.complete(platform, rclone_store, BOB, own.id, [Claim(begun.upload.id)]))
    assert isinstance(done.problem, NotFound)


def test_a_draft_that_is_being_published_takes_nothing(
    platform: Platform, rclone_store: ObjectStore, dataset: Dataset
) -> None:
    begin(platform, rclone_store, dataset, Wanted("empty", 0))
    [open_one] = begin(platform, rclone_store, dataset, Wanted("a", 5))
    with pytest.raises(Conflict, match="still being uploaded"):
        versions.begin_publish(platform, ALICE, dataset.id)
    assert open_one.upload is not None
    run(uploading.abort(platform, rclone_store, ALICE, dataset.id, open_one.upload.id))
    versions.begin_publish(platform, ALICE, dataset.id)
    with pytest.raises(Conflict) as refused:
        begin(platform, rclone_store, dataset, Wanted("b", 5))
    assert refused.value.code == "publishing"


def test_a_completion_whose_process_died_is_finished_by_the_next_one(
    platform: Platform, store: ObjectStore, dataset: Dataset
) -> None:
    [begun] = begin(platform, store, dataset, Wanted("a.txt", 4))
    upload = begun.upload
    assert upload is not None and send(store, dataset, upload, b"abcd", 1) == 200
    with platform.database.transaction() as connection:
        assert dataset_uploads.claim(connection, upload.id, utc_now() - timedelta(minutes=5))
    key = file_key(dataset.id, upload.version, "a.txt")
    store.complete_upload(key, upload.storage_upload, store.list_parts(key, upload.storage_upload))
    [done] = run(uploading.complete(platform, store, ALICE, dataset.id, [Claim(upload.id)]))
    assert done.problem is None
    with platform.database.reading() as connection:
        assert dataset_files.find(connection, upload.version, "a.txt") is not None


def test_what_nobody_went_on_with_for_a_week_gives_its_room_back(
    platform: Platform, store: ObjectStore, dataset: Dataset
) -> None:
    [old] = begin(platform, store, dataset, Wanted("old", 5))
    [new] = begin(platform, store, dataset, Wanted("new", 7))
    assert old.upload is not None and new.upload is not None
    with platform.database.transaction() as connection:
        eight = utc_now() - timedelta(days=8)
        dataset_uploads.change(connection, old.upload.id, touched_at=eight)
    assert run(uploading.abort_stale(platform, store, Actor("data"))) == 1
    assert stored_bytes(platform, dataset) == 7
    assert send(store, dataset, old.upload, b"12345", 1) >= 400
    found = uploads.open_uploads(platform, ALICE, dataset.id)
    assert [each.path for each in found] == ["new"]


def test_parts_are_never_too_many() -> None:
    for size in (0, 1, 16 * MIB, 200 << 30, uploads.LARGEST_FILE_BYTES):
        part = uploads.part_bytes_of(size)
        assert part >= 5 * MIB and -(-size // part) <= uploads.MOST_PARTS
