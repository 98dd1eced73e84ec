"""The page of what-if and its API: real hub, web service, store, and a replay in a process of its
own. Simulated: the engine, and the past."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner.platform import Platform
from dcloud_spawner.store import workloads
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import NewWorkload
from tests.browser.signing_in import sign_in
from tests.browser.test_pages import findings
from tests.conftest import fresh_database
from tests.memory_engine import node
from tests.patience import patient, patient_ms
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.browser

REQUESTS = 60


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebStage]:
    """One node of four GPUs and a week in which they were too few."""
    folder = tmp_path_factory.mktemp("plan")
    with (
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        WebStage(
            folder, database_url=database, hub_database_url=hub, nodes=(node(name="gpu-01"),)
        ) as running,
    ):
        invent_past(running.platform)
        yield running


def invent_past(platform: Platform) -> None:
    """Every hour somebody asked for two GPUs for three hours: four GPUs serve two of three."""
    now = datetime.now(UTC)
    with platform.database.transaction() as connection:
        for number in range(REQUESTS):
            at = now - timedelta(days=6) + timedelta(hours=number)
            started = now - timedelta(days=6) + timedelta(hours=1.5 * number)
            choice: dict[str, Any] = {}
            new = NewWorkload(
                "notebook",
                f"user-{number % 7}",
                f"s{number}",
                "gpu",
                choice,
                "image",
                2,
                None,
                2**30,
                500,
                4 * 3600,
            )
            made = workloads.insert(connection, new, at)
            workloads.set_values(
                connection,
                made.id,
                state=State.ENDED.value,
                admitted_at=max(at, started),
                ended_at=max(at, started) + timedelta(hours=3),
            )


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, stage: WebStage) -> Iterator[Page]:
    """The page, open for an administrator; errors of scripts and of the policy fail the test."""
    errors: list[str] = []
    context = browser.new_context(
        viewport={"width": 1280, "height": 900},
        reduced_motion="reduce",
        permissions=["clipboard-write"],
    )
    opened = context.new_page()
    opened.set_default_timeout(patient_ms(8))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on(
        "console",
        lambda said: errors.append(said.text) if "Content Security" in said.text else None,
    )
    sign_in(context, stage.url, ADMINISTRATOR, stage.password)
    opened.goto(f"{stage.url}/services/dcloud/plan")
    yield opened
    context.close()
    assert not errors or "axe" in request.node.name  # which writes styles of its own


def answer(api: httpx.Client, **body: Any) -> dict[str, Any]:
    """Ask, and look until the answer is there."""
    asked = api.post("/plan", json=body)
    assert asked.status_code == 202, asked.text
    found: dict[str, Any] = asked.json()
    deadline = time.monotonic() + patient(20)
    while found["state"] in ("waiting", "running"):
        assert time.monotonic() < deadline and 0 <= found["progress"] <= 1
        time.sleep(0.1)
        found = api.get(f"/plan/{found['id']}").json()
    return found


def test_the_form_is_answered_with_a_table_a_chart_and_a_command(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("What if")
    expect(page.locator("#l-live")).to_contain_text("4 × ")
    page.fill("#p-gpus", "2")
    page.fill("#p-days", "7")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#h-answer")).to_contain_text("Today and with +2 GPUs")
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts()
        for row in page.locator(".p-table tbody tr").all()
    }
    # As it was, today, changed, difference. Six GPUs serve three at a time: nobody waits.
    assert rows["GPUs"][1:] == ["4", "6", "+2"]
    assert rows["wait, longest"][2:] == ["0 s", "-100%"]
    assert rows["wait, mean"][0] != "" and rows["started at once"][2] == "100%"
    assert page.locator(".chart rect").count() == 6
    expect(page.locator("#p-line")).to_have_value("dcloud plan --gpus +2 --days 7")
    expect(page.get_by_text("gpu-01 has 6 instead of 4")).to_be_visible()
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#p-copy")).to_have_text("Copied")


def test_axe_finds_nothing_and_nothing_is_cut_off(page: Page) -> None:
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#h-answer")).to_be_visible()
    page.get_by_text("Constants of the order").click()
    assert findings(page) == []


def test_other_rules_are_a_question_too(page: Page) -> None:
    page.fill("#p-gpus", "0")
    page.select_option("#p-policy", "easy")
    page.get_by_text("Constants of the order").click()
    page.fill("#p-slack_gpus", "4")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#p-line")).to_have_value(
        "dcloud plan --constants slack_gpus=4 --policy easy --days 30"
    )


def test_a_question_that_changes_nothing_is_refused_at_the_form(page: Page) -> None:
    page.fill("#p-gpus", "0")
    with page.expect_response("**/api/v1/plan"):
        page.get_by_role("button", name="Replay").click()
    expect(page.locator("#p-wrong")).to_contain_text("Nothing would be different")


def test_the_api_answers_with_figures(stage: WebStage) -> None:
    with stage.api(ADMINISTRATOR) as api:
        found = answer(api, gpus=2, days=7)
        assert found["state"] == "done" and found["requests"] == REQUESTS
        assert found["changed"]["wait"]["largest"] == 0 < found["today"]["wait"]["largest"]
        assert found["today"]["utilisation"] > 0.9 and found["really"]["mean"] > 0
        assert found["command"] == "dcloud plan --gpus +2 --days 7"
        fewer = answer(api, gpus=-3, days=7)
        assert fewer["changed"]["never"] == REQUESTS and fewer["requests"] == 0
        wrong = api.post("/plan", json={"gpus": 1, "model": "GPU", "constants": {"slack": 1}})
        assert wrong.status_code == 400 and "'slack' is not one" in wrong.text
        little = api.post("/plan", json={"gpus": 1, "days": 0.1})
        assert little.status_code == 409 and "too little history" in little.text
        assert api.get("/plan/0123").status_code == 404


def test_only_administrators_may_ask(stage: WebStage) -> None:
    with stage.api("alice") as api:
        assert api.post("/plan", json={"gpus": 1}).status_code == 403
        assert api.get("/plan/0123").status_code == 403
    headers = {"Authorization": f"token {stage.token_of('alice')}"}
    for path in ("plan", "plan/0123", "events/plan"):
        found = httpx.get(f"{stage.url}/services/dcloud/{path}", headers=headers, trust_env=False)
        assert found.status_code == 403, path
