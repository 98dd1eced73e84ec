"""What comes late from a storage that hung changes nothing any more."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from dcloud_spawner.datasets import catalog, uploading, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.uploading import Claim
from dcloud_spawner.datasets.uploads import STUCK_AFTER, Wanted
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.errors import StorageAway
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import ObjectStore, Part
from dcloud_spawner.store import dataset_uploads
from dcloud_spawner.store.dataset_uploads import Upload
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine
from tests.no_limits import NO_LIMITS
from tests.platforms import settings_for

ALICE = Asker(Actor("alice", "10.0.0.7"))


class Hanging(ObjectStore):
    """Answers a completion's question only when it is told to, and takes no cancelling."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store.access)
        self.asked, self.go_on = threading.Event(), threading.Event()

    def list_parts(self, key: str, upload: str) -> Sequence[Part]:
        found = super().list_parts(key, upload)
        self.asked.set()
        assert self.go_on.wait(60)
        return found

    def abort_upload(self, key: str, upload: str) -> None:
        raise StorageAway("it hangs")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    """A platform without limits."""
    made = Platform(settings_for(database_url, tmp_path, roles=NO_LIMITS), engine=MemoryEngine())
    yield made
    made.close()


def sent(platform: Platform, store: ObjectStore, dataset: Dataset, content: bytes) -> Upload:
    """An upload of ``a.bin`` of which everything is there."""
    wanted = Wanted("a.bin", len(content), replace=True)
    [begun] = asyncio.run(uploading.begin(platform, store, ALICE, dataset.id, [wanted]))
    assert begun.upload is not None
    url = uploading.signed(store, dataset.id, begun.upload, [1], "")[1]
    assert httpx.put(url, content=content).status_code == 200
    return begun.upload


def test_a_completion_that_hung_until_it_was_given_up_does_not_change_what_is_published_since(
    platform: Platform, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "HELD_SECONDS", 0.0)
    dataset = catalog.create(platform, ALICE, "scenes", Description())
    first, second = hashlib.shake_128(b"1").digest(4096), hashlib.shake_128(b"2").digest(4096)
    upload = sent(platform, store, dataset, first)
    claims = [Claim(upload.id)]
    [done] = asyncio.run(uploading.complete(platform, store, ALICE, dataset.id, claims))
    assert done.problem is None

    late = sent(platform, store, dataset, second)
    hanging = Hanging(store)
    problems = []

    def complete() -> None:
        claims = [Claim(late.id)]
        [found] = asyncio.run(uploading.complete(platform, hanging, ALICE, dataset.id, claims))
        problems.append(found.problem)

    thread = threading.Thread(target=complete)
    thread.start()
    assert hanging.asked.wait(30)
    with platform.database.transaction() as connection:
        long_ago = utc_now() - STUCK_AFTER - timedelta(seconds=1)
        dataset_uploads.change(connection, late.id, touched_at=long_ago)
    asyncio.run(uploading.abort(platform, hanging, ALICE, dataset.id, late.id))
    versions.begin_publish(platform, ALICE, dataset.id)
    hanging.go_on.set()
    thread.join(30)
    hanging.close()

    assert problems[0] is not None
    assert store.read(file_key(dataset.id, late.version, "a.bin")) == first
