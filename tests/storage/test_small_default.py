"""The small default behind a real hub and web service: what it refuses, in plain words, and what
works all the same (the rest of this folder has most of that on both storages)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY
from dcloud_spawner.store import events
from tests.storage.servers import StorageServer
from tests.storage.stage import Held, StorageStage


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    rclone_server: StorageServer,
    module_databases: dict[str, str],
) -> Iterator[StorageStage]:
    """A deployment without ``storage_url``, as ``dcloud up`` leaves it."""
    folder = tmp_path_factory.mktemp("small")
    with StorageStage(
        folder, None, storage_port=rclone_server.port, storage_bucket="small", **module_databases
    ) as running:
        running.bucket = "small"
        for name, value in (
            (DEFAULT_ACCESS_KEY, rclone_server.access_key),
            (DEFAULT_SECRET_KEY, rclone_server.secret_key),
        ):
            path = running.settings.secrets_dir / name
            path.touch(0o600)
            path.write_text(value)
        running.platform.storage.ensure_bucket()
        yield running
        running.stop_servers()


@pytest.fixture(scope="module")
def scenes(stage: StorageStage) -> Held:
    """Ann's, of which everybody may read."""
    return stage.dataset("ann", "scenes", {"a.csv": b"x,y\n1,2\n"}, everyone=True)


def test_nobody_gets_keys_and_is_told_what_to_do_instead(stage: StorageStage, scenes: Held) -> None:
    stage.home("bob")
    stage.run("bob", scenes)
    for token in (stage.server_token("bob"), stage.token_of("bob")):
        with stage.with_token(token) as api:
            answer = api.post("/storage/credentials", json={})
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert error["code"] == "storage_cannot"
        assert "no short-lived keys" in error["message"] and "~/datasets" in error["hint"]
    with stage.platform.database.reading() as connection:
        acts = {line.action for line in events.read(connection)}
    assert "storage.credentials" not in acts


def test_the_page_of_a_dataset_says_so_and_shows_no_lines_that_would_not_work(
    stage: StorageStage, scenes: Held
) -> None:
    page = httpx.get(
        f"{stage.url}/services/dcloud/datasets/ann/scenes",
        headers={"Authorization": f"token {stage.token_of('bob')}"},
        trust_env=False,
    )
    assert page.status_code == 200
    assert "This storage has no short-lived keys" in page.text
    assert "~/datasets/scenes" in page.text
    for word in ("boto3", "s3fs", "aws s3"):
        assert word not in page.text


def test_none_of_its_keys_leaves_the_platform(
    stage: StorageStage, scenes: Held, rclone_server: StorageServer
) -> None:
    answers = []
    headers = {"Authorization": f"token {stage.token_of('ann')}"}
    with httpx.Client(base_url=stage.url, headers=headers, trust_env=False) as ann:
        for path in (
            "datasets/ann/scenes",
            "datasets",
            "api/v1/datasets",
            "api/v1/datasets/ann/scenes",
            "api/v1/openapi.json",
        ):
            answers.append(ann.get(f"/services/dcloud/{path}").text)
    with stage.platform.database.reading() as connection:
        answers += [str(line) for line in events.read(connection)]
    logs = (rclone_server.folder / "log").read_text()
    for text in (*answers, logs):
        assert rclone_server.secret_key not in text


def test_its_files_are_read_by_nobody_else_who_is_on_this_machine(
    stage: StorageStage, scenes: Held, rclone_server: StorageServer
) -> None:
    key = keys.file_key(scenes.dataset.id, scenes.version.id, "a.csv")
    for url in (
        f"{rclone_server.url}/small/{key}",
        f"{rclone_server.url}/small/?list-type=2",
        f"{rclone_server.url}/",
    ):
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code in (400, 403) and b"x,y" not in answer.content
