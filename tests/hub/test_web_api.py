"""The API of the web service, behind a real hub and proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import platforms
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.database


@pytest.fixture(scope="module")
def module_stage(
    tmp_path_factory: pytest.TempPathFactory, module_databases: dict[str, str]
) -> Iterator[WebStage]:
    """One hub for the module."""
    with WebStage(tmp_path_factory.mktemp("web"), **module_databases) as running:
        yield running


@pytest.fixture
def stage(module_stage: WebStage) -> Iterator[WebStage]:
    """The stage with nobody on it."""
    yield module_stage
    platforms.end_all(module_stage.platform)


def test_a_user_sees_what_is_free(stage: WebStage) -> None:
    with stage.api("alice") as api:
        answer = api.get("/availability")
    assert answer.status_code == 200, answer.text
    found = answer.json()["models"][0]
    assert (found["model"], found["total"], found["free"]) == ("A100", 4, 4)


def test_nobody_gets_in_without_a_name(stage: WebStage) -> None:
    with stage.api(None) as api:
        answer = api.get("/queue")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "not_signed_in"


def test_others_in_the_queue_have_neither_name_nor_id(stage: WebStage) -> None:
    platforms.start(stage.platform, "alice", 4)
    platforms.submit(stage.platform, "bob", 2)
    own = platforms.submit(stage.platform, "carol", 1)
    stage.platform.run_pass()
    with stage.api("carol") as api:
        items = api.get("/queue").json()["items"]
    assert [item["mine"] for item in items].count(True) == 1
    others = [item for item in items if not item["mine"]]
    mine = next(item for item in items if item["mine"])
    assert others[0].keys() == {"place", "size", "due_at", "state", "mine", "workload"}
    assert others[0]["workload"] is None
    assert mine["workload"]["id"] == own.id
    with stage.api(ADMINISTRATOR) as api:
        assert all(item["workload"] for item in api.get("/queue").json()["items"])
