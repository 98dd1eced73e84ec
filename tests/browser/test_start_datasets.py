"""Datasets on the start page, the waiting page and the list of servers in a real Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import SignIn
from tests.browser.staged import StagedHub
from tests.browser.story import datasets, holding, queued, starting
from tests.browser.test_pages import findings

pytestmark = pytest.mark.browser

DATASETS = [
    ["project:vision-lab/street-scenes", "project", 138, 7],
    ["ann/satellite-tiles", "public", 62, 2],
    ["ann/news-corpus-en", "public", 19, 12],
    ["bob/protein-folds", "shared", 8.4, 3],
    ["bob/speech-commands", "shared", 2.3, 2],
    ["bob/words", "shared", 0.5, 1],
    ["carol/words-in-song", "public", 0.4, 1],
    ["carol/words-of-law", "public", 0.3, 1],
]


@pytest.fixture(autouse=True)
def _datasets(hub: StagedHub) -> None:
    hub.pool(datasets=DATASETS)


def line(page: Page, name: str) -> Locator:
    return page.locator(f"#ds-list li[data-dataset='{name}']")


def test_datasets_are_ticked_and_come_into_the_choice(
    page: Page, hub: StagedHub, user: str
) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    expect(page.locator("#ds-chosen")).to_have_text("none chosen, read-only under ~/datasets")
    page.get_by_role("checkbox", name="street-scenes v7 vision-lab 138 GB").check()
    tiles = line(page, "ann/satellite-tiles")
    expect(tiles.get_by_label("Version")).to_be_hidden()
    tiles.get_by_role("checkbox").check()
    tiles.get_by_label("Version").select_option("1")
    tiles.get_by_label("Read").select_option("Over the network, at once")
    expect(tiles.locator("b")).to_have_text("satellite-tiles v1")
    expect(page.locator("#ds-chosen")).to_have_text("2 chosen, read-only under ~/datasets")
    expect(page.locator("#o-datasets")).to_have_text("2, read-only")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    assert hub.posted()["datasets"] == [
        {"name": "project:vision-lab/street-scenes", "version": "latest"},
        {"name": "ann/satellite-tiles", "version": 1, "mode": "stream"},
    ]


def test_a_search_finds_others_and_keeps_what_is_ticked(page: Page, hub: StagedHub) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    line(page, "ann/news-corpus-en").get_by_role("checkbox").check()
    find = page.get_by_role("searchbox", name="Search datasets")
    find.fill("words")
    expect(page.locator("#ds-note")).to_have_text("The first 2 of 3.")
    names = page.locator("#ds-list b")
    expect(names).to_have_text(["news-corpus-en v12", "words v1", "words-in-song v1"])
    line(page, "carol/words-in-song").get_by_role("checkbox").check()
    find.press("Enter")
    find.fill("nothing like it")
    expect(page.locator("#ds-note")).to_have_text("Nothing found.")
    expect(names).to_have_text(["news-corpus-en v12", "words-in-song v1"])
    find.fill("")
    expect(names).to_have_count(7)
    expect(page.locator("#o-datasets")).to_have_text("2, read-only")
    assert page.url.endswith("/hub/spawn")


def test_a_link_ticks_datasets_and_tells_what_cannot_be_had(
    page: Page, hub: StagedHub, user: str
) -> None:
    page.goto(f"{hub.url}/hub/spawn/{user}?datasets=bob/words@1,zoe/secret")
    words = line(page, "bob/words")
    expect(words.get_by_role("checkbox")).to_be_checked()
    expect(words.get_by_label("Version")).to_have_value("1")
    lost = page.locator("#ds-list li", has_text="zoe/secret")
    expect(lost).to_contain_text("not there, or not shared with you")
    expect(lost.get_by_role("checkbox")).to_be_disabled()


def test_the_last_choice_is_ticked_again_and_unticking_all_means_none(
    page: Page, hub: StagedHub
) -> None:
    last = {"profile": "cpu", "datasets": [{"name": "bob/words", "version": "latest"}]}
    hub.pool(datasets=DATASETS, last_choice=last)
    page.goto(f"{hub.url}/hub/spawn")
    first = page.locator("#ds-list li").first
    expect(first.locator("b")).to_have_text("words v1")
    first.get_by_role("checkbox").uncheck()
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    assert "datasets" not in hub.posted()


def test_a_profile_brings_its_datasets_and_takes_them_along(page: Page, hub: StagedHub) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    words = line(page, "bob/words").get_by_role("checkbox")
    mine = line(page, "ann/news-corpus-en").get_by_role("checkbox")
    mine.check()
    page.get_by_role("radio", name="TensorFlow").check(force=True)
    expect(words).to_be_checked()
    folds = line(page, "bob/protein-folds")
    expect(folds.get_by_role("checkbox")).to_be_checked()
    expect(folds.get_by_label("Version")).to_have_value("2")
    expect(page.locator("#o-datasets")).to_have_text("3, read-only")
    page.get_by_role("radio", name="PyTorch").check(force=True)
    expect(words).not_to_be_checked()
    expect(mine).to_be_checked()
    page.get_by_role("radio", name="TensorFlow").check(force=True)
    words.uncheck()
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    assert [one["name"] for one in hub.posted()["datasets"]] == [
        "ann/news-corpus-en",
        "bob/protein-folds",
    ]


def test_without_a_script_datasets_are_chosen_too(
    sign_in: SignIn, hub: StagedHub, user: str
) -> None:
    page = sign_in(user, script=False)
    page.goto(f"{hub.url}/hub/spawn")
    expect(page.locator("#ds-find")).to_be_hidden()
    line(page, "bob/words").get_by_role("checkbox").check()
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    assert hub.posted()["datasets"] == [{"name": "bob/words", "version": "latest"}]


def test_where_there_are_none_the_page_says_so(page: Page, hub: StagedHub) -> None:
    hub.pool(datasets=[])
    page.goto(f"{hub.url}/hub/spawn")
    expect(page.locator("#datasets")).to_contain_text("There is none that you may read yet.")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")


# ---------------------------------------------------------------------------- how far they are


def test_the_waiting_page_shows_how_far_copies_are(page: Page, hub: StagedHub, user: str) -> None:
    hub.stage(user, event=queued(datasets=datasets()))
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    streets = page.locator("#w-mounts li").first
    expect(streets).to_contain_text("street-scenes v7")
    expect(streets).to_contain_text("Copying: 12 of 138 GB")
    expect(page.get_by_role("progressbar", name="street-scenes v7")).to_have_attribute(
        "aria-valuenow", "8"
    )
    hub.stage(user, event=starting(stage="data", datasets=datasets(done_bytes=9.99e8)))
    expect(page.locator("#w-doing")).to_have_text("Preparing the datasets")
    expect(page.locator("#w-message")).to_have_text("Copying street-scenes: 999 MB of 138 GB")
    step = page.locator("[data-step='data']")
    expect(step).to_have_attribute("aria-current", "step")
    hub.stage(user, event=starting(stage="data", datasets=datasets("away")))
    expect(streets).to_contain_text("Away; it comes back by itself")
    hub.stage(user, event=starting(stage="container", datasets=datasets("ready", 138e9)))
    expect(streets).to_contain_text("Ready, from a copy on the host")
    expect(step).to_contain_text("2 datasets")


def test_the_page_says_the_same_of_datasets_with_and_without_a_script(
    sign_in: SignIn, hub: StagedHub, user: str
) -> None:
    words = "#w-mounts, #w-doing, #w-message, #w-steps"
    states = ("waiting", "preparing", "away", "failed", "revoked", "ready", "gone")
    mounts = [{**datasets(state)[0], "name": f"d-{state}"} for state in states]
    hub.stage(user, event=starting(stage="data", datasets=[*mounts, datasets()[1]]))
    page = sign_in(user)
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    expect(page.locator("#w-live .dc-state")).to_have_text("Live")
    scripted = page.locator(words).all_inner_texts()
    plain = sign_in(f"{user}-plain", script=False)
    plain.context.add_cookies(
        [
            {key: cookie[key] for key in ("name", "value", "domain", "path")}
            for cookie in page.context.cookies()
        ]
    )
    plain.goto(f"{hub.url}/hub/spawn-pending/{user}")
    assert plain.locator(words).all_inner_texts() == scripted


def test_a_start_without_datasets_says_nothing_of_them(
    page: Page, hub: StagedHub, user: str
) -> None:
    hub.stage(user, event=starting())
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    expect(page.locator("#w-live .dc-state")).to_have_text("Live")
    expect(page.locator("#w-data")).to_be_hidden()
    expect(page.locator("[data-step='data']")).to_be_hidden()


def test_the_list_of_servers_tells_of_a_dataset_that_is_away(
    page: Page, hub: StagedHub, user: str
) -> None:
    held = {**holding(), "datasets": datasets("away")}
    held["datasets"][0]["message"] = "The storage does not answer."
    hub.stage(user, event=starting(), ready=True, holding=held)
    page.goto(f"{hub.url}/hub/spawn")
    page.click("#o-go")
    page.wait_for_url(f"**/user/{user}/**")
    page.goto(f"{hub.url}/hub/home")
    mine = page.locator("[data-server='']")
    expect(mine).to_contain_text("street-scenes v7, words v1")
    expect(mine.locator(".dc-note")).to_have_count(1)
    expect(mine.locator(".dc-note")).to_contain_text("The storage does not answer")


def test_axe_finds_nothing_on_the_pages_with_datasets(
    page: Page, hub: StagedHub, user: str
) -> None:
    page.goto(f"{hub.url}/hub/spawn")
    line(page, "ann/satellite-tiles").get_by_role("checkbox").check()
    assert not findings(page)
    mounts = [{**datasets(state)[0], "name": f"d-{state}"} for state in ("preparing", "away")]
    hub.stage(user, event=starting(stage="data", datasets=[*mounts, datasets("failed")[1]]))
    page.click("#o-go")
    page.wait_for_url("**/spawn-pending/**")
    expect(page.locator("#w-mounts li")).to_have_count(3)
    assert not findings(page)
