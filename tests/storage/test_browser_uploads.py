"""Uploads from a real Chromium: real proxy, hub, web service, jobs and MinIO."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from dcloud_spawner import overrides
from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, dataset_uploads, datasets
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_uploader
from tests.browser.test_pages import findings
from tests.browser.windows import Open, windows
from tests.storage.servers import StorageServer
from tests.storage.stage import OpenStage, StorageStage

pytestmark = pytest.mark.browser

MIB = 1 << 20


@pytest.fixture(scope="module")
def stage(open_stage: OpenStage, minio_server: StorageServer) -> Iterator[StorageStage]:
    """Everything behind the pages; browsers send parts straight to MinIO."""
    with open_stage(minio_server, storage_public_url=minio_server.url) as made:
        install_uploader(cache_dir(), made.settings.assets_dir)
        yield made


@pytest.fixture(scope="module")
def small_stage(open_stage: OpenStage, rclone_server: StorageServer) -> Iterator[StorageStage]:
    """The same with the small default: browsers send parts to the hub's own address."""
    with open_stage(rclone_server) as made:
        install_uploader(cache_dir(), made.settings.assets_dir)
        yield made


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


def drop(page: Page, *paths: Path, upload_bytes_per_second: int = -1) -> None:
    """A real drag of files and folders into the page."""
    session = page.context.new_cdp_session(page)
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1}
    if upload_bytes_per_second > 0:
        session.send(
            "Network.emulateNetworkConditions",
            {**conditions, "uploadThroughput": upload_bytes_per_second},
        )
    box = page.locator(".d-drop").bounding_box()
    assert box is not None
    where = {"x": box["x"] + 20, "y": box["y"] + 20}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})


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


@pytest.mark.parametrize("storage", ["stage", "small_stage"])
def test_a_folder_is_uploaded_with_checksums_and_axe_finds_nothing(
    request: pytest.FixtureRequest, browser: Browser, tmp_path: Path, storage: str
) -> None:
    stage: StorageStage = request.getfixturevalue(storage)
    with windows(browser, stage, first="datasets") as open_page:
        _upload_a_folder(stage, open_page, tmp_path)


def _upload_a_folder(stage: StorageStage, open_page: Open, tmp_path: Path) -> None:
    stage.token_of("user-a")
    made = catalog.create(stage.platform, Asker(Actor("user-a")), "scenes", Description())
    content = folder_of(tmp_path, 60, 40 * MIB)
    page = open_page("user-a", "datasets/user-a/scenes")
    choose(page, tmp_path / "scenes")
    expect(page.get_by_text("All is in the draft.")).to_be_visible(timeout=30_000)
    shot(page, "u_done")
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


@pytest.mark.parametrize(
    "large_mib", [96, pytest.param(1024, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_what_a_closed_tab_left_half_way_goes_on_and_is_published(
    stage: StorageStage, open_page: Open, tmp_path: Path, large_mib: int
) -> None:
    user = f"user-{large_mib}"
    stage.token_of(user)
    catalog.create(stage.platform, Asker(Actor(user)), "city", Description())
    content = folder_of(tmp_path, 200, large_mib * MIB)
    page = open_page(user, f"datasets/{user}/city")
    drop(page, tmp_path / "scenes", upload_bytes_per_second=large_mib * MIB // 8)
    bar = page.get_by_role("progressbar", name="All files")
    page.wait_for_function("bar => Number(bar.ariaValueNow) >= 40", arg=bar.element_handle())
    shot(page, f"u_half_{large_mib}")
    page.close()

    page = page.context.new_page()
    sent: list[int] = []
    page.on(
        "request",
        lambda asked: (
            sent.append(int(asked.headers.get("content-length", 0)))
            if asked.method == "PUT"
            else None
        ),
    )
    page.goto(f"{stage.url}/services/dcloud/datasets/{user}/city")
    expect(page.get_by_text("half-way")).to_be_visible()
    shot(page, f"u_back_{large_mib}")
    drop(page, tmp_path / "scenes")
    expect(page.get_by_text("All is in the draft.")).to_be_visible(timeout=300_000)
    page.wait_for_url("**?version=draft")
    parts = large_mib // 16
    assert 0 < len(sent) < parts + 202, "what was there is not sent again"

    page.get_by_role("button", name="Publish").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Publish").click()
    expect(page.get_by_role("row", name="v1")).to_be_visible(timeout=120_000)
    shot(page, f"u_published_{large_mib}")
    with stage.platform.database.reading() as connection:
        found = datasets.named(connection, user, "city")[0]
        assert found.latest_version is not None
        files = list(dataset_files.walk(connection, found.latest_version))
    assert {file.path: file.sha256 for file in files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in content.items()
    }


def test_pause_resume_and_cancel(stage: StorageStage, open_page: Open, tmp_path: Path) -> None:
    stage.token_of("user-h")
    made = catalog.create(stage.platform, Asker(Actor("user-h")), "held", Description())
    for name in ("one.bin", "two.bin"):
        (tmp_path / name).write_bytes(os.urandom(MIB) * 48)
    page = open_page("user-h", "datasets/user-h/held")
    drop(page, tmp_path / "one.bin", tmp_path / "two.bin", upload_bytes_per_second=12 * MIB)
    page.get_by_role("button", name="Pause one.bin").click()
    expect(page.get_by_role("button", name="Resume one.bin")).to_be_visible()
    page.get_by_role("button", name="Cancel two.bin").click()
    expect(page.get_by_text("two.bin")).to_have_count(0)
    assert not findings(page)
    shot(page, "u_paused")
    page.get_by_role("button", name="Resume one.bin").click()
    expect(page.get_by_text("All is in the draft.")).to_be_visible(timeout=60_000)
    assert list(stored(stage, made)) == ["one.bin"]
    with stage.platform.database.reading() as connection:
        draft = datasets.draft_of(connection, made.id)
        assert draft is not None and not dataset_uploads.of_version(connection, draft.id)
        assert datasets.get(connection, made.id).stored_bytes == 48 * MIB


def test_what_has_no_room_is_refused_with_the_reason_and_nothing_is_sent(
    stage: StorageStage, open_page: Open, tmp_path: Path
) -> None:
    stage.token_of("user-n")
    made = catalog.create(stage.platform, Asker(Actor("user-n")), "full", Description())
    reason = "tests have little room"
    overrides.set_override(stage.platform, "user-n", "storage_gib", 0.01, reason, Actor("admin-a"))
    folder_of(tmp_path, 60, 20 * MIB)
    page = open_page("user-n", "datasets/user-n/full")
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if asked.method == "PUT" else None)
    drop(page, tmp_path / "scenes")
    expect(page.get_by_role("alert").get_by_text("There is no room for 21 MB")).to_be_visible()
    expect(page.get_by_text("62 not sent")).to_be_visible()
    expect(page.get_by_role("button", name="Try again", exact=True)).to_be_visible()
    assert not findings(page)
    shot(page, "u_refused")
    assert not sent and not stored(stage, made)
    overrides.remove_override(stage.platform, "user-n", "storage_gib", Actor("admin-a"))
    page.get_by_role("button", name="Try again", exact=True).click()
    expect(page.get_by_text("All is in the draft.")).to_be_visible(timeout=30_000)
    assert len(stored(stage, made)) == 62


def test_a_storage_that_was_away_for_a_while_gets_the_rest(
    stage: StorageStage, open_page: Open, tmp_path: Path, minio_server: StorageServer
) -> None:
    stage.token_of("user-w")
    made = catalog.create(stage.platform, Asker(Actor("user-w")), "away", Description())
    (tmp_path / "one.bin").write_bytes(os.urandom(MIB) * 64)
    page = open_page("user-w", "datasets/user-w/away")
    drop(page, tmp_path / "one.bin", upload_bytes_per_second=16 * MIB)
    expect(page.get_by_role("button", name="Pause one.bin")).to_be_visible()
    minio_server.stop(kill=True)
    page.wait_for_timeout(1500)
    minio_server.start()
    expect(page.get_by_text("All is in the draft.")).to_be_visible(timeout=60_000)
    [(size, claimed)] = stored(stage, made).values()
    content = (tmp_path / "one.bin").read_bytes()
    assert (size, claimed) == (len(content), hashlib.sha256(content).hexdigest())


def shot(page: Page, name: str) -> None:
    """To be looked at, where SHOTS names a folder."""
    if os.environ.get("SHOTS"):
        page.screenshot(path=f"{os.environ['SHOTS']}/{name}.png", full_page=True)
