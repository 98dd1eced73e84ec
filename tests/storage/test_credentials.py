"""Credentials for one server: what they reach, for how long, who gets them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.store import events, storage_credentials
from dcloud_spawner.store.events import Actor
from tests.storage.servers import StorageServer
from tests.storage.stage import Held, StorageStage


@pytest.fixture(scope="module")
def module_stage(
    tmp_path_factory: pytest.TempPathFactory,
    minio_server: StorageServer,
    module_databases: dict[str, str],
) -> Iterator[StorageStage]:
    """One hub for the module."""
    folder = tmp_path_factory.mktemp("credentials")
    with StorageStage(folder, minio_server, **module_databases) as running:
        yield running
        running.stop_servers()


@pytest.fixture
def stage(module_stage: StorageStage) -> Iterator[StorageStage]:
    """The stage, nobody's server running."""
    yield module_stage
    module_stage.clear()


@pytest.fixture(scope="module")
def scenes(module_stage: StorageStage) -> Held:
    """Ann's, shared with Bob."""
    held = module_stage.dataset("ann", "scenes", {"a.csv": b"x,y\n1,2\n", "deep/b.txt": b"b"})
    catalog.share(
        module_stage.platform, Asker(Actor("ann")), held.dataset.id, "user", "bob", "read"
    )
    return held


def test_a_server_reads_its_datasets_and_keeps_things_in_its_users_own_space(
    stage: StorageStage, scenes: Held
) -> None:
    own = stage.home("bob")
    workload = stage.run("bob", scenes)
    given = stage.credentials(stage.server_token("bob"))
    (place,) = given["datasets"]
    assert (place["name"], place["dataset"], place["version"]) == ("scenes", "ann/scenes", 1)
    assert (given["own_bucket"], given["workload"]) == (own, workload.id)
    s3 = stage.s3(given)
    with s3.get_object(stage.bucket, f"{scenes.prefix}a.csv") as answer:
        assert answer.read() == b"x,y\n1,2\n"
    with s3.get_object(stage.bucket, place["manifest"]) as answer:
        found = [json.loads(line)["path"] for line in answer.read().splitlines()]
    assert found == ["a.csv", "deep/b.txt"]
    s3.put_object(own, "notes/n.txt", io.BytesIO(b"mine"), 4)
    with s3.get_object(own, "notes/n.txt") as answer:
        assert answer.read() == b"mine"
    assert [item.object_name for item in s3.list_objects(own)] == ["notes/"]
    s3.remove_object(own, "notes/n.txt")
    with stage.platform.database.reading() as connection:
        known = storage_credentials.by_key(connection, [given["access_key"]])
        lines = events.read(connection, target=given["access_key"])
    assert known[given["access_key"]].user == "bob"
    assert [(line.actor, line.action) for line in lines] == [("bob", "storage.credentials")]
    assert given["secret_key"] not in str(lines)
