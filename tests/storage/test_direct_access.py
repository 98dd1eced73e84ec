"""Credentials for one server: what they reach, and that what is done with them is told."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from minio import MinioAdmin
from minio.commonconfig import CopySource
from minio.credentials.providers import StaticProvider
from minio.error import S3Error

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage.webhook import ask_for_events, token_of
from dcloud_spawner.store import datasets, events, storage_credentials
from dcloud_spawner.store.events import Actor, Event
from tests.patience import patient
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


@pytest.fixture
def told(stage: StorageStage) -> Iterator[StorageStage]:
    """MinIO tells the web service of every request."""
    access = stage.platform.storage.access
    assert ask_for_events(stage.settings, access)
    yield stage
    admin = MinioAdmin(
        endpoint=access.host,
        credentials=StaticProvider(access.access_key, access.secret_key),
        secure=False,
    )
    admin.config_reset(f"audit_webhook:{stage.settings.deployment.replace('-', '_')}")


def line_of(stage: StorageStage, target: str, action: str, seconds: float = 20) -> Event:
    """The first line of the action log about a target, when it has come."""
    deadline = time.monotonic() + patient(seconds)
    while time.monotonic() < deadline:
        with stage.platform.database.reading() as connection:
            for line in events.read(connection, target=target):
                if line.action == action:
                    return line
        time.sleep(0.1)
    with stage.platform.database.reading() as connection:
        found = [(line.action, line.target) for line in events.read(connection)]
    raise AssertionError(f"no {action} of {target}: {found[-20:]}")


def test_what_is_done_by_s3_is_on_the_action_log_as_its_user(
    told: StorageStage, scenes: Held
) -> None:
    own = told.home("bob")
    workload = told.run("bob", scenes)
    s3 = told.s3(told.credentials(told.server_token("bob")))
    secret = told.dataset("ann", "private", {"s.txt": b"secret"})
    for _ in range(3):
        s3.get_object(told.bucket, f"{scenes.prefix}a.csv").read()
    s3.put_object(own, "ü +n.txt", io.BytesIO(b"mine"), 4)
    s3.copy_object(own, "copy.csv", CopySource(told.bucket, f"{scenes.prefix}deep/b.txt"))
    s3.remove_object(own, "ü +n.txt")
    with pytest.raises(S3Error):
        s3.get_object(told.bucket, f"{secret.prefix}s.txt")
    # What somebody else does with the storage's own keys, past the platform.
    long_ago = utc_now() - timedelta(hours=1)
    with told.platform.database.transaction() as connection:
        datasets.change_version(connection, secret.version.id, published_at=long_ago)
    told.platform.storage.put(f"{secret.prefix}s.txt", b"forged")
    read = line_of(told, scenes.dataset.id, "dataset.read")
    assert (read.actor, read.result, read.source) == ("bob", "ok", "127.0.0.1")
    assert read.detail["path"] == "a.csv" and read.detail["workload"] == workload.id
    assert read.detail["version"] == 1 and read.detail["size_bytes"]
    line_of(told, "bob", "personal.delete")
    line_of(told, secret.dataset.id, "storage.foreign.write")
    with told.platform.database.reading() as connection:
        mine = events.read(connection, target="bob")
        of_scenes = events.read(connection, target=scenes.dataset.id)
        of_secret = events.read(connection, target=secret.dataset.id)
        assert list(events.verify(connection)) == []
    reads = [line for line in of_scenes if line.action == "dataset.read"]
    assert sum(int(str(line.detail["requests"])) for line in reads) == 4
    assert {line.detail["path"] for line in reads} == {"a.csv", "deep/b.txt"}
    writes = [line.detail["path"] for line in mine if line.action == "personal.write"]
    assert writes == ["ü +n.txt", "copy.csv"]
    by_action = {line.action: line for line in of_secret}
    assert (by_action["dataset.read"].actor, by_action["dataset.read"].result) == ("bob", "refused")
    assert by_action["storage.foreign.write"].result == "flagged"
    assert "session" not in str([dict(line.detail) for line in (*mine, *of_scenes, *of_secret)])
    with told.api("ann") as api:
        shown = api.get(f"/datasets/{secret.dataset.id}/log").json()["items"]
    assert shown[0]["sequence"] > shown[-1]["sequence"]
    assert {"dataset.read", "storage.foreign.write", "dataset.create"} <= {
        item["action"] for item in shown
    }


def test_what_is_told_twice_is_noted_once_and_nonsense_not_at_all(
    stage: StorageStage, scenes: Held
) -> None:
    stage.run("bob", scenes)
    given = stage.credentials(stage.server_token("bob"))
    entry = {
        "time": "2026-11-21T23:09:34.256857397Z",
        "accessKey": given["access_key"],
        "requestID": "told-twice",
        "remotehost": "10.1.2.3",
        "api": {
            "name": "GetObject",
            "bucket": stage.bucket,
            "object": f"{scenes.prefix}only-here.txt",
            "statusCode": 200,
            "tx": 5,
        },
    }
    url = f"{stage.url}/services/dcloud/storage/events"
    headers = {"Authorization": f"Bearer {token_of(stage.settings)}"}
    with httpx.Client(headers=headers, trust_env=False) as storage:
        for body in (json.dumps(entry), f"{json.dumps(entry)}\n{json.dumps(entry)}"):
            assert storage.post(url, content=body).status_code == 200
        for nonsense in (b"", b"[]", b"nonsense", b'{"api": 3}', b"\xff", b'{"api": {"name": 1}}'):
            assert storage.post(url, content=nonsense).status_code == 200
    with stage.platform.database.reading() as connection:
        lines = [
            line
            for line in events.read(connection, target=scenes.dataset.id)
            if line.detail.get("path") == "only-here.txt"
        ]
    assert [(line.actor, line.detail["requests"]) for line in lines] == [("bob", 1)]
    mode = (stage.settings.secrets_dir / "storage_events.token").stat().st_mode & 0o777
    assert mode == 0o600
