"""Pages of datasets behind a real hub and web service, over a real storage: what each reader sees,
what comes down byte by byte, and what a browser is never given to draw.

On MinIO and on the small default."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage import keys, telling
from dcloud_spawner.storage.telling import Silence
from dcloud_spawner.store import dataset_files, datasets, events
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.datasets import Dataset
from hub_services.controller import hub
from hub_services.web.pages import datasets_handlers
from tests.conftest import fresh_database
from tests.storage import library
from tests.storage.library import OWNER, READER, STRANGER, WRITER
from tests.storage.servers import StorageServer
from tests.storage.stage import Held, StorageStage
from tests.usage_story import project
from tests.web_stage import ADMINISTRATOR

FOLDS = "datasets/user-a/protein-folds"


@dataclass
class Scene:
    """A lab's datasets on one storage."""

    stage: StorageStage
    folds: Dataset

    def page(self, user: str, path: str = "", *, follow: bool = False) -> httpx.Response:
        """An address below the service's, as a user."""
        with httpx.Client(trust_env=False, timeout=30, follow_redirects=follow) as client:
            return client.get(
                f"{self.stage.url}/services/dcloud/{path}",
                headers={"Authorization": f"token {self.stage.token_of(user)}"},
            )


@pytest.fixture(scope="module", params=["minio", "rclone"])
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """The library, filled once on each storage."""
    server: StorageServer = request.getfixturevalue(f"{request.param}_server")
    folder = tmp_path_factory.mktemp("pages")
    with (
        fresh_database(request, folder, "dcloud") as database,
        fresh_database(request, folder, "jupyterhub") as hub,
        StorageStage(folder, server, database_url=database, hub_database_url=hub) as stage,
    ):
        stage.join(OWNER, "vision-lab")
        yield Scene(stage, library.fill(stage.platform))


def names(answer: httpx.Response) -> list[str]:
    """Of the rows of the catalogue."""
    assert answer.status_code == 200, answer.text
    return re.findall(r'<th scope="row" class="dc-name"><a href="[^"]+">([^<]+)</a>', answer.text)


# ---------------------------------------------------------------------------- the catalogue


def test_everybody_sees_what_is_theirs_shared_and_public_and_nothing_else(scene: Scene) -> None:
    public = {"satellite-tiles", "news-corpus-en", "speech-commands", "weather-grids"}
    assert set(names(scene.page(STRANGER, "datasets"))) == public
    mine = {"protein-folds", "eval-prompts"}
    shared = {"street-scenes", "lidar-sweeps"}
    assert set(names(scene.page(OWNER, "datasets"))) == public | mine | shared
    assert set(names(scene.page(OWNER, "datasets?view=mine"))) == mine
    assert set(names(scene.page(OWNER, "datasets?view=shared"))) == shared
    assert set(names(scene.page(OWNER, "datasets?view=public"))) == public
    assert "ward-records" in names(scene.page(ADMINISTRATOR, "datasets"))


def test_that_the_storage_tells_nothing_is_on_the_page_of_administrators_alone(
    scene: Scene,
) -> None:
    silence = Silence("what it tells does not arrive", "let it reach <us>")
    telling.note(scene.stage.settings, silence, utc_now())
    told = scene.page(ADMINISTRATOR, "datasets").text
    assert "what it tells does not arrive. To mend it: let it reach &lt;us&gt;." in told
    assert "does not arrive" not in scene.page(OWNER, "datasets").text
    telling.note(scene.stage.settings, None, utc_now())
    assert "does not arrive" not in scene.page(ADMINISTRATOR, "datasets").text


def test_a_search_finds_words_of_names_tags_and_descriptions(scene: Scene) -> None:
    for find, found in {
        "FOLDS": ["protein-folds"],
        "point clouds": ["lidar-sweeps"],
        "sequences seed": ["protein-folds"],
        "user-e text": ["news-corpus-en"],
        "%": [],
        "nothing-like-it": [],
    }.items():
        assert names(scene.page(OWNER, f"datasets?find={find}")) == found, find


def test_the_list_is_sorted_as_asked_and_its_parts_fit_together(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = names(scene.page(OWNER, "datasets?sort=name"))
    assert by_name == sorted(by_name)
    assert names(scene.page(OWNER, "datasets?sort=size"))[:2] == ["lidar-sweeps", "street-scenes"]
    assert names(scene.page(OWNER, "datasets?sort=used"))[-1] in ("protein-folds", "weather-grids")
    monkeypatch.setattr("hub_services.web.pages.datasets_catalogue.SHOWN", 3)
    for sort in ("changed", "used", "name", "size"):
        whole: list[str] = []
        path = f"datasets?sort={sort}"
        while path:
            answer = scene.page(OWNER, path)
            whole += names(answer)
            more = re.search(r'href="(\?[^"]+)">Next', answer.text)
            path = f"datasets{more[1].replace('&amp;', '&')}" if more else ""
        assert sorted(whole) == by_name, sort


@pytest.mark.parametrize(
    "query",
    [
        "after=x",
        "after=W10=",
        "after=WzEsMl0=",
        "sort=owner",
        "view=bin",
        "sort=size&after=bnVsbA==",
    ],
)
def test_a_wrong_address_of_the_list_is_refused_in_words(scene: Scene, query: str) -> None:
    assert scene.page(OWNER, f"datasets?{query}").status_code == 400


# ---------------------------------------------------------------------------- one dataset


def test_what_one_may_not_see_is_not_there_on_any_page(scene: Scene) -> None:
    absent = scene.page(STRANGER, "datasets/user-a/never-was")
    for path in (
        "",
        "/file?path=README.md",
        "/download?path=README.md",
        "/zip",
        "/manifest",
        "/work",
    ):
        answer = scene.page(STRANGER, FOLDS + path)
        assert answer.status_code == 404, path
        assert answer.text.replace("protein-folds", "never-was") == absent.text
    assert scene.page(STRANGER, f"datasets/{scene.folds.id}").status_code == 404


def test_a_reader_sees_versions_and_files_but_neither_draft_nor_shares(scene: Scene) -> None:
    page = scene.page(READER, FOLDS).text
    assert "640 chains added" in page and "labels.parquet" in page
    for hidden in ("Draft", "d-share", "d-edit", "Delete this dataset", "Discard", WRITER + "</b>"):
        assert hidden not in page, hidden
    assert scene.page(READER, f"{FOLDS}?version=draft").status_code == 404
    writer = scene.page(WRITER, FOLDS).text
    assert "Draft of version 3" in writer and "d-share" not in writer
    owner = scene.page(OWNER, FOLDS).text
    assert "d-share" in owner and "Delete this dataset" in owner


def test_a_description_is_drawn_without_what_could_run(scene: Scene) -> None:
    page = scene.page(READER, FOLDS)
    assert "<td>confidence, 0 to 100</td>" in page.text and "<code>plddt</code>" in page.text
    assert "alert(&quot;never&quot;)" in page.text or 'alert("never")&lt;' in page.text
    assert "<script>alert" not in page.text
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]


def test_files_are_shown_by_folder_and_found_by_a_word_of_their_path(scene: Scene) -> None:
    top = scene.page(READER, FOLDS).text
    assert "chains</a>" in top and "7XY0001" not in top
    inner = scene.page(READER, f"{FOLDS}?folder=chains/b").text
    assert "7XY0003 été.pdb" in inner and "empty.txt" in inner
    assert "7XY0002_A.pdb" in scene.page(READER, f"{FOLDS}?find=xy0002").text
    assert "labels.csv" in scene.page(READER, f"{FOLDS}?version=1").text
    assert "chains</a>" not in scene.page(READER, f"{FOLDS}?version=1").text
    for wrong, status in {
        "folder=nothing": 404,
        "folder=../x": 400,
        "folder=a//b": 400,
        "version=9": 404,
        "version=x": 400,
        "folder=%00": 400,
    }.items():
        assert scene.page(READER, f"{FOLDS}?{wrong}").status_code == status, wrong


def test_a_version_is_cited_by_its_manifest(scene: Scene) -> None:
    page = scene.page(READER, f"{FOLDS}?version=1").text
    with scene.stage.platform.database.reading() as connection:
        first = datasets.numbered(connection, scene.folds.id, 1)
    assert first is not None and first.manifest_sha256
    assert f"Manifest SHA-256 {first.manifest_sha256}" in page
    manifest = scene.page(READER, f"{FOLDS}/manifest?version=1")
    assert manifest.status_code == 200 and "attachment" in manifest.headers["Content-Disposition"]
    assert hashlib.sha256(manifest.content).hexdigest() == first.manifest_sha256
    entries = [json.loads(line) for line in manifest.text.splitlines()]
    named = {entry["path"]: entry["sha256"] for entry in entries}
    of_csv = hashlib.sha256(library.files()["labels.csv"]).hexdigest()
    assert named["labels.csv"] == of_csv and "chains/b/empty.txt" not in named
    assert scene.page(OWNER, f"{FOLDS}/manifest?version=draft").status_code == 404


def test_who_used_it_is_named_to_its_writers_and_counted_for_readers(scene: Scene) -> None:
    stage = scene.stage
    stage.run(READER, Held(scene.folds, None))  # type: ignore[arg-type]
    try:
        assert f'class="dc-name">{READER}</th>' in scene.page(WRITER, FOLDS).text
        reader = scene.page(READER, FOLDS).text
        assert f'class="dc-name">{READER}</th>' not in reader and "1 server had it" in reader
        assert f"Mounted by {READER}, in 1 server" in scene.page(OWNER, FOLDS).text
    finally:
        stage.clear()


def test_a_projects_dataset_has_an_address_of_its_own_and_its_members_change_it(
    scene: Scene,
) -> None:
    platform = scene.stage.platform
    project(platform, OWNER, (OWNER,), (WRITER,), 10)  # of the same name as a person
    name = "protein-folds"
    made = catalog.create(platform, library.asker(OWNER), name, Description(), project=OWNER)
    address = f"datasets/project:{OWNER}/{name}"
    assert address in scene.page(WRITER, "datasets").text
    page = scene.page(WRITER, address)
    assert "Draft of version 1" in page.text and "d-share" not in page.text
    assert "Storage of the project" in page.text
    assert "Delete this dataset" in scene.page(OWNER, address).text
    assert scene.page(STRANGER, address).status_code == 404
    assert "640 chains" in scene.page(WRITER, FOLDS).text  # the person's is still the person's
    catalog.throw_away(platform, library.asker(OWNER), made.id)


# ---------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "path", ["labels.parquet", "chains/b/7XY0003 été.pdb", "chains/b/empty.txt"]
)
def test_a_file_comes_down_as_it_is_and_is_on_the_action_log(scene: Scene, path: str) -> None:
    answer = scene.page(READER, f"{FOLDS}/download?version=2&path={path}")
    assert answer.status_code == 200
    assert answer.content == library.files()[path]
    assert answer.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''")
    with scene.stage.platform.database.reading() as connection:
        line = events.read(connection)[-1]
    assert (line.actor, line.action, line.target) == (READER, "dataset.download", scene.folds.id)
    assert line.detail["path"] == path and line.detail["bytes"] == len(answer.content)


@pytest.mark.parametrize("path", ["chains/b/page.html", "images/page.svg", "images/overview.png"])
def test_no_file_is_given_to_a_browser_as_a_page_of_ours(scene: Scene, path: str) -> None:
    for kind in ("download", "picture"):
        answer = scene.page(READER, f"{FOLDS}/{kind}?version=2&path={path}")
        if answer.status_code == 404:
            assert kind == "picture" and not path.endswith("png")
            continue
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"] == (
            "image/png" if kind == "picture" else "application/octet-stream"
        )


def test_a_folder_comes_as_a_zip_of_known_length_with_the_same_bytes(scene: Scene) -> None:
    answer = scene.page(READER, f"{FOLDS}/zip?version=2")
    assert answer.status_code == 200
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert found.testzip() is None
        inside = {name: found.read(name) for name in found.namelist()}
    assert inside == {f"protein-folds/{p}": content for p, content in library.files().items()}
    part = scene.page(READER, f"{FOLDS}/zip?version=2&folder=chains/b")
    with zipfile.ZipFile(io.BytesIO(part.content)) as found:
        assert sorted(found.namelist()) == ["b/7XY0003 été.pdb", "b/empty.txt", "b/page.html"]


def test_a_zip_of_too_many_files_is_refused_with_another_way(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub_services.web.pages.datasets_handlers.MOST_IN_ZIP", 3)
    answer = scene.page(READER, f"{FOLDS}/zip?version=2")
    assert answer.status_code == 409 and "dcloud data get" in answer.text


def test_previews_show_tables_with_types_text_and_pictures(scene: Scene) -> None:
    parquet = scene.page(READER, f"{FOLDS}/file?version=2&path=labels.parquet").text
    assert "1,204 rows" in parquet and "timestamp[us, tz=UTC]" in parquet and "7XY0000_A" in parquet
    table = scene.page(READER, f"{FOLDS}/file?version=2&path=labels.csv").text
    assert "whole number" in table and "7XY0001_A" in table
    page = scene.page(READER, f"{FOLDS}/file?version=2&path=chains/b/page.html").text
    assert "&lt;script&gt;alert(document.cookie)" in page and "<script>alert" not in page
    shown = scene.page(READER, f"{FOLDS}/file?version=2&path=images/overview.png").text
    assert 'width="320" height="200"' in shown
    digest = hashlib.sha256(library.files()["weights.bin"]).hexdigest()
    other = scene.page(READER, f"{FOLDS}/file?version=2&path=weights.bin").text
    assert "no preview" in other and digest in other


def test_a_picture_that_is_fetched_without_its_page_is_on_the_action_log(scene: Scene) -> None:
    answer = scene.page(READER, f"{FOLDS}/picture?version=2&path=images/overview.png")
    assert answer.content == library.files()["images/overview.png"]
    with scene.stage.platform.database.reading() as connection:
        line = events.read(connection)[-1]
    assert (line.actor, line.action, line.target) == (READER, "dataset.preview", scene.folds.id)
    assert line.detail["path"] == "images/overview.png"
    assert line.detail["bytes"] == len(answer.content)


def test_paths_with_tricks_reach_nothing(scene: Scene) -> None:
    for path in (
        "../../manifests/x.json",
        "/etc/passwd",
        "chains/../README.md",
        "chains//b",
        "README.md%00",
        "README.md\u202e",
        "a\\b",
        "x" * 3000,
        ".",
        "",
    ):
        for kind in ("file", "download", "picture"):
            answer = scene.page(READER, f"{FOLDS}/{kind}?version=2&path={path}")
            assert answer.status_code in (400, 404), (kind, path)


def test_a_file_that_the_storage_lost_is_said_in_words_and_is_no_download(scene: Scene) -> None:
    platform = scene.stage.platform
    made = catalog.create(platform, library.asker(OWNER), "lost-file", Description())
    with platform.database.transaction() as connection:
        draft = datasets.draft_of(connection, made.id)
        assert draft is not None
        new = [NewFile("gone.txt", 10), NewFile("there.txt", 5)]
        dataset_files.put(connection, draft.id, new, OWNER, utc_now())
    platform.storage.put(keys.file_key(made.id, draft.id, "there.txt"), b"there")
    try:
        for kind in ("file", "download"):
            answer = scene.page(OWNER, f"datasets/user-a/lost-file/{kind}?path=gone.txt")
            assert answer.status_code == 503 and "should" in answer.text
        # Never a zip that looks whole. Past the proxy, which would let its client wait.
        port = scene.stage.settings.web_port
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(
                f"http://127.0.0.1:{port}/services/dcloud/datasets/user-a/lost-file/zip",
                headers={"Authorization": f"token {scene.stage.token_of(OWNER)}"},
                trust_env=False,
            )
    finally:
        catalog.throw_away(platform, library.asker(OWNER), made.id)


def test_a_download_goes_on_when_the_storage_comes_back(scene: Scene) -> None:
    platform, server = scene.stage.platform, scene.stage.server
    assert server is not None
    content = bytes(range(256)) * 4096 * 24
    made = catalog.create(platform, library.asker(OWNER), "large", Description())
    library.add_files(platform, made, {"large.bin": content}, OWNER)
    url = f"{scene.stage.url}/services/dcloud/datasets/user-a/large/download?path=large.bin"
    headers = {"Authorization": f"token {scene.stage.token_of(OWNER)}"}
    got = hashlib.sha256()
    with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=60) as answer:
        parts = answer.iter_bytes()
        got.update(next(parts))
        server.stop(kill=True)
        server.start()
        for part in parts:
            got.update(part)
    assert got.hexdigest() == hashlib.sha256(content).hexdigest()
    catalog.throw_away(platform, library.asker(OWNER), made.id)


@pytest.mark.parametrize("scene", ["rclone"], indirect=True)  # which is back in a moment
def test_while_the_storage_is_away_everything_but_the_bytes_is_there(scene: Scene) -> None:
    server = scene.stage.server
    assert server is not None
    server.stop()
    try:
        assert scene.page(READER, "datasets").status_code == 200
        assert "labels.csv" in scene.page(READER, FOLDS).text
        for kind in ("file", "download", "picture"):
            answer = scene.page(READER, f"{FOLDS}/{kind}?version=2&path=labels.csv")
            assert answer.status_code == 503 and "does not answer" in answer.text, kind
    finally:
        server.start()
    assert scene.page(READER, f"{FOLDS}/file?version=2&path=labels.csv").status_code == 200


@pytest.mark.parametrize("scene", ["rclone"], indirect=True)
def test_a_storage_that_hangs_is_told_and_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets_handlers, "ANSWER_SECONDS", 1.0)
    server = scene.stage.server
    assert server is not None
    server.freeze()
    try:
        for kind in ("file", "download", "picture"):
            answer = scene.page(READER, f"{FOLDS}/{kind}?version=2&path=labels.csv")
            assert answer.status_code == 503 and "does not answer" in answer.text, kind
    finally:
        server.thaw()
    assert scene.page(READER, f"{FOLDS}/file?version=2&path=labels.csv").status_code == 200


def test_its_managers_read_who_did_what_with_it(scene: Scene) -> None:
    scene.page(READER, f"{FOLDS}/file?version=2&path=labels.csv")
    scene.page(READER, f"{FOLDS}/download?version=2&path=weights.bin")
    log = scene.page(OWNER, f"{FOLDS}/log").text
    assert (
        "Looked at" in log
        and "labels.csv" in log
        and "user user-b, can use it" in log
        and "16.4 kB" in log
    )
    assert scene.page(WRITER, f"{FOLDS}/log").status_code == 403
    assert scene.page(STRANGER, f"{FOLDS}/log").status_code == 404


def test_the_bin_shows_what_one_may_bring_back(scene: Scene) -> None:
    platform = scene.stage.platform
    made = catalog.create(platform, library.asker(OWNER), "thrown", Description())
    assert scene.page(OWNER, f"datasets/{made.id}").status_code == 302
    catalog.throw_away(platform, library.asker(OWNER), made.id)
    assert "user-a/thrown" in scene.page(OWNER, "datasets/bin").text
    assert "user-a/thrown" not in scene.page(WRITER, "datasets/bin").text
    assert "user-a/thrown" in scene.page(ADMINISTRATOR, "datasets/bin").text
    assert scene.page(OWNER, "datasets/user-a/thrown").status_code == 404
    catalog.restore(platform, library.asker(OWNER), made.id)
    assert scene.page(OWNER, "datasets/user-a/thrown").status_code == 200
    catalog.throw_away(platform, library.asker(OWNER), made.id)


# ---------------------------------------------------------------------------- groups


def test_the_groups_of_the_hub_are_read_to_the_last(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PAGE", 1)
    scene.stage.join(OWNER, "second-group")

    async def read() -> frozenset[str]:
        client = hub.HubClient(f"{scene.stage.url}/hub/api", scene.stage.token)
        try:
            return await client.groups()
        finally:
            await client.close()

    assert {"vision-lab", "second-group"} <= asyncio.run(read())
