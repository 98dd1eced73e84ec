"""An import asked for in a real Chromium, with its progress, cancelled and done.

Simulated: the web, by a server on loopback, which a setting opens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.addresses import networks
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.store.events import Actor
from tests.browser.test_pages import findings
from tests.browser.windows import windows
from tests.storage.outside import Outside, outside
from tests.storage.outside import Page as WebPage
from tests.storage.servers import StorageServer
from tests.storage.stage import OpenStage, StorageStage

pytestmark = [pytest.mark.browser, pytest.mark.sqlite_suffices]


@pytest.fixture(scope="module")
def web() -> Iterator[Outside]:
    with outside() as server:
        yield server


@pytest.fixture(scope="module")
def stage(open_stage: OpenStage, minio_server: StorageServer) -> Iterator[StorageStage]:
    """Everything behind the pages; imports may come from loopback."""
    with open_stage(minio_server, import_networks=networks(["127.0.0.0/8"])) as made:
        yield made


def shot(page: Page, name: str) -> None:
    """A picture for whoever looks, where a folder is given."""
    folder = os.environ.get("DCLOUD_TEST_SHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def ask(page: Page, url: str, path: str = "") -> None:
    page.goto(page.url)  # what was going on may just now have ended, and loads the page again
    page.get_by_role("button", name="Import").first.click()
    page.fill("#i-url", url)
    page.fill("#i-path", path)
    page.get_by_role("button", name="Fetch").first.click()


def test_an_import_shows_its_progress_is_cancelled_and_done_and_says_what_is_refused(
    browser: Browser, stage: StorageStage, web: Outside
) -> None:
    stage.token_of("ann")
    catalog.create(stage.platform, Asker(Actor("ann")), "fetched", Description())
    data = os.urandom(1 << 20) * 48
    web.pages["/slow.bin"] = WebPage(data, headers={"ETag": '"1"'}, bytes_per_second=4 << 20)
    web.pages["/quick.csv"] = WebPage(b"a,b\n1,2\n")
    with windows(browser, stage, first="datasets") as open_page:
        page = open_page("ann", "datasets/ann/fetched")
        ask(page, f"{web.url}/slow.bin?signature=sesame")
        expect(page.get_by_text("Fetching from a web address").first).to_be_visible()
        expect(page.get_by_text(f"{web.url}/slow.bin")).to_be_visible()
        expect(page.get_by_text("of 50.3 MB")).to_be_visible(timeout=10_000)
        shot(page, "import-running")
        expect(page.get_by_text("sesame")).to_have_count(0)
        assert findings(page) == []
        page.get_by_role("button", name="Cancel").first.click()
        page.get_by_role("button", name="Give up").click()
        expect(page.get_by_text("of 50.3 MB")).to_have_count(0, timeout=10_000)
        ask(page, f"{web.url}/quick.csv", "tables/")
        expect(page.get_by_text("tables").first).to_be_visible(timeout=15_000)
        ask(page, "http://169.254.169.254/latest/meta-data", "x")
        expect(page.get_by_text("cannot come from there").first).to_be_visible(timeout=15_000)
        shot(page, "import-refused")
