"""Uploads from a real Chromium: real proxy, hub, web service, jobs and MinIO."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, datasets
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_uploader
from tests.browser.staged import CHROMIUM_ARGUMENTS
from tests.browser.test_pages import findings
from tests.browser.windows import Open, windows
from tests.conftest import fresh_database
from tests.storage.servers import StorageServer
from tests.storage.stage import StorageStage

pytestmark = pytest.mark.browser

MIB = 1 << 20


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    minio_server: StorageServer,
) -> Iterator[StorageStage]:
    """Everything behind the pages; browsers send parts straight to MinIO."""
    folder = tmp_path_factory.mktemp("uploads")
    with (
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        StorageStage(
            folder,
            minio_server,
            database_url=database,
            hub_database_url=hub,
            storage_public_url=minio_server.url,
        ) as made,
    ):
        install_uploader(cache_dir(), made.settings.assets_dir)
        yield made


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    """A real Chromium."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Browser, stage: StorageStage) -> Iterator[Open]:
    """Opens a page as a user."""
    with windows(browser, stage, first="datasets") as opened:
        yield opened


def folder_of(root: Path, files: int, large_bytes: int) -> dict[str, bytes]:
    """A folder of small files in two folders, an empty one, and a large one."""
    content = {
        f"scenes/{'left' if n % 2 else 'right'}/{n:03}.txt": f"scene {n}\n".encode() * (n + 1)
        for n in range(files)
    }
    content["scenes/empty.txt"] = b""
    content["scenes/large.bin"] = os.urandom(MIB) * (large_bytes // MIB)
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return content


def choose(page: Page, folder: Path) -> None:
    page.set_input_files("[data-part=choose-folder]", str(folder))


def stored(stage: StorageStage, dataset: Dataset) -> dict[str, tuple[int, str | None]]:
    with stage.platform.database.reading() as connection:
        draft = datasets.draft_of(connection, dataset.id)
        assert draft is not None
        return {
            file.path: (file.size_bytes, file.claimed_sha256)
            for file in dataset_files.walk(connection, draft.id)
        }


def test_a_folder_is_uploaded_with_checksums_and_axe_finds_nothing(
    stage: StorageStage, open_page: Open, tmp_path: Path
) -> None:
    stage.token_of("user-a")
    made = catalog.create(stage.platform, Asker(Actor("user-a")), "scenes", Description())
    content = folder_of(tmp_path, 60, 40 * MIB)
    page = open_page("user-a", "datasets/user-a/scenes")
    choose(page, tmp_path / "scenes")
    expect(page.get_by_text("All is in the draft.")).to_be_visible(timeout=30_000)
    if os.environ.get("SHOTS"):
        page.screenshot(path=f"{os.environ['SHOTS']}/u_done.png", full_page=True)
    page.wait_for_url("**?version=draft")
    expect(page.get_by_text("62 of 62 files")).to_be_visible()
    assert not findings(page)
    expected = {
        path: (len(data), hashlib.sha256(data).hexdigest() if data else None)
        for path, data in content.items()
    }
    assert stored(stage, made) == expected
    with stage.platform.database.reading() as connection:
        draft = datasets.draft_of(connection, made.id)
    assert draft is not None
    key = file_key(made.id, draft.id, "scenes/large.bin")
    assert stage.platform.storage.read(key) == content["scenes/large.bin"]
