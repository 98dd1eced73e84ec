"""The pages of datasets in a real Chromium, as owner, reader and newcomer.

Real: proxy, hub, sign-in, the web service, the store, and the small default storage with files in
it. The process ``data`` does not run here: what it would do stays waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.store import dataset_jobs, dataset_shares, datasets
from dcloud_spawner.store.dataset_jobs import JobState
from dcloud_spawner.store.datasets import Dataset
from tests.browser.test_pages import findings
from tests.browser.windows import Open, windows
from tests.conftest import fresh_database
from tests.storage import library
from tests.storage.library import OWNER, READER, asker
from tests.storage.servers import rclone
from tests.storage.stage import StorageStage

pytestmark = pytest.mark.browser

FOLDS = "datasets/user-a/protein-folds"
ODD = """it's "<img src=x onerror=alert(1)>" & co.txt"""
"""A name that would break out of anything that does not escape it."""


@dataclass(frozen=True)
class Scene:
    """A lab's datasets."""

    stage: StorageStage
    folds: Dataset


@pytest.fixture(scope="module")
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """The library, on the small default storage."""
    folder = tmp_path_factory.mktemp("datasets")
    with (
        rclone(tmp_path_factory.mktemp("rclone")) as server,
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        StorageStage(folder, server, database_url=database, hub_database_url=hub) as stage,
    ):
        stage.join(OWNER, "vision-lab")
        made = library.fill(stage.platform)
        library.add_files(stage.platform, made, {ODD: b"a\n", "more/b.csv": b"x\n"}, OWNER)
        old = catalog.create(stage.platform, asker(OWNER), "old-runs", Description())
        catalog.throw_away(stage.platform, asker(OWNER), old.id)
        yield Scene(stage, made)


@pytest.fixture
def open_page(browser: Browser, scene: Scene) -> Iterator[Open]:
    """Opens a page as a user."""
    with windows(browser, scene.stage, first="datasets") as opened:
        yield opened


def _with(page: Page, dialog: str) -> None:
    page.locator(f"[data-open={dialog}]").first.click()
    expect(page.locator(f"#{dialog}")).to_be_visible()


@pytest.mark.parametrize(
    "path",
    [
        "datasets",
        "datasets?find=nothing-like-it",
        "datasets/new",
        "datasets/bin",
        FOLDS,
        f"{FOLDS}?version=draft",
        f"{FOLDS}/file?version=2&path=labels.parquet",
        f"{FOLDS}/file?version=2&path=images/overview.png",
        f"{FOLDS}/log",
    ],
)
def test_axe_finds_nothing_in_both_themes_wide_and_narrow(open_page: Open, path: str) -> None:
    page = open_page(OWNER, path)
    page.evaluate(
        "for (const each of document.querySelectorAll('main details')) "
        "{ each.removeAttribute('name'); each.open = true; }"
    )
    found = findings(page)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("dialog", ["d-share", "d-edit", "d-publish", "d-import"])
def test_axe_finds_nothing_in_a_dialog_which_takes_the_focus_and_gives_it_back(
    open_page: Open, dialog: str
) -> None:
    page = open_page(OWNER, f"{FOLDS}?version=draft")
    opener = page.locator(f"[data-open={dialog}]").first
    opener.focus()
    page.keyboard.press("Enter")
    expect(page.locator(f"#{dialog}")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('dialog')?.id") == dialog
    found = findings(page)
    page.keyboard.press("Escape")
    expect(page.locator(f"#{dialog}")).to_be_hidden()
    assert page.evaluate("document.activeElement.dataset.open") == dialog
    assert not found, "\n".join(found)


def test_a_newcomer_is_told_what_to_do(open_page: Open) -> None:
    page = open_page("newcomer", "datasets?view=mine")
    expect(page.get_by_text("You have no dataset yet.")).to_be_visible()
    page.get_by_role("link", name="Make one").click()
    page.get_by_label("Name").fill("first-one")
    page.get_by_label("Tags").fill("images, small")
    page.get_by_role("button", name="Make dataset").click()
    expect(page.get_by_role("heading", name="first-one", level=1)).to_be_visible()
    expect(page.locator("#d-done")).to_contain_text("Add files to its draft")
    assert "/datasets/newcomer/first-one" in page.url
    expect(page.get_by_role("button", name="Publish")).to_be_disabled()


def test_a_search_and_a_sort_need_no_scripts(open_page: Open) -> None:
    page = open_page(READER, script=False)
    page.get_by_label("Search datasets").fill("folds")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="protein-folds").click()
    page.get_by_role("link", name="chains").click()
    page.get_by_role("link", name="b", exact=True).click()
    expect(page.get_by_role("link", name="empty.txt", exact=True)).to_be_visible()


def test_it_is_shared_and_shared_no_longer_in_the_dialog(scene: Scene, open_page: Open) -> None:
    page = open_page(OWNER, FOLDS)
    _with(page, "d-share")
    page.get_by_label("Person, group or project").fill("user-z")
    page.get_by_label("May", exact=True).select_option("write")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#d-share")).to_contain_text("user-z can add versions")
    page.get_by_role("button", name="Stop sharing with user-z").click()
    expect(page.locator("#a-dialog")).to_contain_text("unmounted at once")
    page.get_by_role("button", name="Stop sharing", exact=True).click()
    expect(page.locator("#d-share")).to_be_visible()
    expect(page.locator("#d-share")).not_to_contain_text("user-z")
    with scene.stage.platform.database.reading() as connection:
        shares = dataset_shares.of_dataset(connection, scene.folds.id)
    assert "user-z" not in {share.name for share in shares}


def test_a_description_is_written_and_emptied(open_page: Open) -> None:
    page = open_page(OWNER, "datasets/user-a/eval-prompts")
    for text in ("# About\n\n<b>bold</b> and *thin*", ""):
        _with(page, "d-edit")
        page.get_by_role("textbox", name="About").fill(text)
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#d-done")).to_be_visible()
        if text:
            expect(page.locator(".s-about em")).to_have_text("thin")
            expect(page.locator(".s-about")).to_contain_text("<b>bold</b>")
        else:
            expect(page.get_by_text("Nobody has said yet")).to_be_visible()


def test_a_file_leaves_the_draft_and_the_draft_is_given_for_publication(
    scene: Scene, open_page: Open
) -> None:
    page = open_page(OWNER, f"{FOLDS}?version=draft")
    page.get_by_role("link", name=ODD, exact=True).click()
    expect(page.get_by_role("heading", name=ODD)).to_be_visible()
    page.go_back()
    page.get_by_role("button", name=f"Remove {ODD}").click()
    expect(page.locator("#a-ask")).to_contain_text(ODD)
    page.locator("#a-sure").click()
    expect(page.get_by_role("link", name=ODD, exact=True)).to_have_count(0)
    assert page.locator("main img").count() == 0
    _with(page, "d-publish")
    page.get_by_label(re.compile("What is new")).fill("labels only")
    page.get_by_role("button", name=re.compile("Publish version")).click()
    expect(page.get_by_text("Being published.")).to_be_visible()
    expect(page.locator("#s-work")).to_contain_text("waits for its turn")
    platform = scene.stage.platform
    with platform.database.reading() as connection:
        job = dataset_jobs.of_dataset(connection, scene.folds.id)[0]
        draft = datasets.draft_of(connection, scene.folds.id)
    assert draft is not None
    # As the process ``data`` would: the page follows without being loaded again by hand.
    with platform.database.transaction() as connection:
        dataset_jobs.move(
            connection, job.id, (JobState.QUEUED,), JobState.RUNNING, done_bytes=1, total_bytes=2
        )
    expect(page.locator("#s-work")).to_contain_text("50 %")
    with platform.database.transaction() as connection:
        dataset_jobs.move(connection, job.id, dataset_jobs.OPEN, JobState.FAILED, message="Lost.")
        datasets.change_version(connection, draft.id, state="draft", problem="more/b.csv differs")
    expect(page.get_by_text("more/b.csv differs")).to_be_visible()


def test_what_was_deleted_is_brought_back(open_page: Open) -> None:
    page = open_page(OWNER, "datasets/bin")
    page.get_by_role("button", name="Bring back user-a/old-runs").click()
    page.locator("#a-sure").click()
    expect(page.get_by_role("heading", name="old-runs", level=1)).to_be_visible()
    page.get_by_role("button", name="Delete this dataset").click()
    expect(page.locator("#a-dialog")).to_contain_text("Nobody has it mounted.")
    page.locator("#a-sure").click()
    expect(page.locator("#d-done")).to_contain_text("is in the bin")


def test_lines_for_a_notebook_are_copied(open_page: Open) -> None:
    page = open_page(READER, FOLDS)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the lines for files").click()
    assert "datasets" in page.evaluate("navigator.clipboard.readText()")
