"""``dcloud data`` as people run it: against a real proxy, hub, web service, jobs and MinIO."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_uploads, datasets, events
from hub_services.data_client.getting import target_of
from hub_services.data_client.platform import DataError, api_of
from tests.storage.servers import StorageServer
from tests.storage.stage import OpenStage, StorageStage

MIB = 1 << 20
IMAGE = Path(__file__).parents[2] / "images" / "base" / "storage" / "dcloud"


@pytest.fixture(scope="module")
def stage(open_stage: OpenStage, minio_server: StorageServer) -> Iterator[StorageStage]:
    """Everything that the command talks to."""
    with open_stage(minio_server, storage_public_url=minio_server.url) as made:
        yield made


def data(
    stage: StorageStage, user: str, *arguments: str, image: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it; ``image``: as inside a server, by a Python that has nothing but itself."""
    command = (
        ["/usr/bin/python3", "-I", str(IMAGE), "data"]
        if image
        else [sys.executable, "-c", "from hub_services.cli.main import dcloud; dcloud()", "data"]
    )
    environment = {
        **os.environ,
        "DCLOUD_URL": stage.url,
        "DCLOUD_TOKEN": stage.token_of(user),
        "PYTHONPATH": str(IMAGE.parents[3]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [*command, *arguments],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def tree(root: Path) -> dict[str, str]:
    """Checksum by path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files, one of several parts, one empty, one with a name of its own."""
    root = tmp_path / "photos"
    (root / "left" / "deep").mkdir(parents=True)
    for number in range(20):
        (root / "left" / f"{number}.txt").write_text(f"photo {number}\n" * number)
    (root / "left" / "deep" / "größe 1.bin").write_bytes(os.urandom(37 * MIB))
    return root


def test_what_is_put_and_published_is_fetched_by_another_who_may_read_it(
    stage: StorageStage, folder: Path, tmp_path: Path
) -> None:
    put = data(
        stage,
        "user-p",
        *("put", str(folder), "user-p/photos", "--new", "--publish", "--note", "one"),
        image=False,
    )
    assert put.returncode == 0, put.stderr
    assert "21 sent, 0 there already, 0 failed." in put.stdout
    assert re.search(r"user-p/photos@1 sha256:[0-9a-f]{64}$", put.stdout.strip())

    unseen = data(stage, "user-q", "get", "user-p/photos", str(tmp_path / "no"))
    assert unseen.returncode == 1 and "no dataset" in unseen.stderr
    shared = data(stage, "user-p", "share", "user-p/photos", "user-q")
    assert shared.stdout == "user:user-q: read\n"

    got = data(stage, "user-q", "get", "user-p/photos", cwd=tmp_path / "photos" / "..")
    assert got.returncode == 0, got.stderr
    assert "0 fetched, 21 there already" in got.stdout, "it is the folder that was sent"
    copy = tmp_path / "copy"
    got = data(stage, "user-q", "get", "user-p/photos@1", str(copy))
    assert got.returncode == 0, got.stderr
    assert tree(copy) == tree(folder)

    large = copy / "left" / "deep" / "größe 1.bin"
    large.with_name(large.name + ".dcloud-part").write_bytes(large.read_bytes()[: 30 * MIB])
    large.unlink()
    got = data(stage, "user-q", "get", "user-p/photos@1", str(copy))
    assert "1 fetched, 20 there already" in got.stdout and tree(copy) == tree(folder)
    with stage.platform.database.reading() as connection:
        found = datasets.named(connection, "user-p", "photos")[0]
        lines = events.read(connection, target=found.id)
    assert lines[-1].action == "dataset.download"
    assert lines[-1].detail["bytes"] == 7 * MIB, "only what was missing came"

    listed = data(stage, "user-q", "ls", "user-p/photos")
    assert "left/ (21 files)" in listed.stdout
    assert "user-p/photos" in data(stage, "user-q", "ls").stdout
    refused = data(stage, "user-q", "put", str(folder), "user-p/photos")
    assert refused.returncode == 1 and "may only read" in refused.stderr


def test_a_second_version_sends_only_what_differs(stage: StorageStage, folder: Path) -> None:
    first = data(stage, "user-r", "put", str(folder), "user-r/again", "--new", "--publish")
    assert first.returncode == 0, first.stderr
    (folder / "left" / "3.txt").write_text("another one\n" * 3)
    (folder / "new.txt").write_text("new")
    put = data(stage, "user-r", "put", str(folder), "user-r/again", "--publish")
    assert put.returncode == 0, put.stderr
    assert "2 sent, 20 there already, 0 failed." in put.stdout
    assert "user-r/again@2" in put.stdout


def test_a_command_that_is_killed_goes_on_with_the_parts_that_are_missing(
    stage: StorageStage, tmp_path: Path
) -> None:
    root = tmp_path / "big"
    root.mkdir()
    (root / "big.bin").write_bytes(os.urandom(MIB) * 200)
    environment = {**os.environ, "DCLOUD_URL": stage.url, "DCLOUD_TOKEN": stage.token_of("user-s")}
    arguments = ["data", "put", str(root), "user-s/big", "--new", "--jobs", "1"]
    command = ["/usr/bin/python3", "-I", str(IMAGE), *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and parts_of(stage, "user-s/big") < 3:
            pass
        first.kill()
    before = parts_of(stage, "user-s/big")
    assert 3 <= before < 13
    again = data(stage, "user-s", *arguments[1:], "--publish")
    assert again.returncode == 0, again.stderr
    assert "user-s/big@1" in again.stdout
    with stage.platform.database.reading() as connection:
        found = datasets.named(connection, "user-s", "big")[0]
        lines = [
            line.detail["bytes"]
            for line in events.read(connection, target=found.id)
            if line.action == "dataset.upload.begin"
        ]
    assert len(lines) == 1, "it was begun once"


def parts_of(stage: StorageStage, reference: str) -> int:
    """How many parts the storage has of the only upload."""
    owner, _, name = reference.partition("/")
    with stage.platform.database.reading() as connection:
        found = datasets.named(connection, owner, name)
        draft = datasets.draft_of(connection, found[0].id) if found else None
        uploads = dataset_uploads.of_version(connection, draft.id) if draft else ()
    if not found or not uploads:
        return 0
    key = file_key(found[0].id, uploads[0].version, uploads[0].path)
    return len(stage.platform.storage.list_parts(key, uploads[0].storage_upload))


def test_the_api_refuses_what_is_no_upload_in_plain_words(
    stage: StorageStage, folder: Path
) -> None:
    done = data(stage, "user-t", "put", str(folder), "user-t/kept", "--new")
    assert done.returncode == 0, done.stderr
    root, file = "/datasets/user-t%2Fkept/uploads", {"path": "a.txt", "size_bytes": 5}
    with stage.with_token(stage.token_of("user-t")) as api:
        for body in (
            {},
            {"files": []},
            {"files": [file] * 101},
            {"files": [{**file, "size_bytes": -1}]},
            {"files": [{**file, "size_bytes": "5"}]},
            {"files": [{**file, "mode": "0777"}]},
            {"files": [file], "origin": "http://evil.example/path"},
            {"files": [file], "origin": "javascript:alert(1)"},
            {"files": [file], "total_bytes": -1},
        ):
            answer = api.post(root, json=body)
            assert answer.status_code == 400, (body, answer.text)
            assert answer.json()["error"]["message"]
        begun = api.post(root, json={"files": [file]}).json()["items"][0]
        upload = begun["upload"]["id"]
        for path, body in (
            ("complete", {"uploads": [{"id": upload, "sha256": "A" * 64}]}),
            ("complete", {"uploads": [{"id": "../x"}]}),
            *((f"{upload}/parts", {"numbers": [number]}) for number in ("1", 0, -1, 10**6, None)),
        ):
            assert api.post(f"{root}/{path}", json=body).status_code == 400, path
        answer = api.post(f"{root}/{upload}/parts", json={"numbers": [2]})
        assert answer.status_code == 409, answer.text
        answer = api.post(f"{root}/complete", json={"uploads": [{"id": upload}]})
        assert answer.json()["items"][0]["problem"]["code"] == "incomplete"
        with stage.with_token(stage.token_of("user-u")) as stranger:
            assert stranger.get(root).status_code == 404
            assert stranger.post(root, json={"files": [file]}).status_code == 404
            assert stranger.delete(f"{root}/{upload}").status_code == 404
        assert api.delete(f"{root}/{upload}").status_code == 200
        assert api.delete(f"{root}/{upload}").status_code == 404
        assert api.get(root).json() == {"items": []}


def test_a_token_of_a_server_is_told_what_to_do(stage: StorageStage) -> None:
    environment = {
        "DCLOUD_API_URL": f"{stage.url}/services/dcloud/api/v1",
        "JUPYTERHUB_API_TOKEN": "0" * 32,
        "HOME": "/nonexistent",
    }
    for arguments, words in (
        (["ls"], "dcloud data login"),
        (["put", str(IMAGE), "user-p/photos"], "do not reach the small default"),
    ):
        done = subprocess.run(
            ["/usr/bin/python3", "-I", str(IMAGE), "data", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 1 and words in done.stderr


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "a//b", "", "a\\b", "link/x"])
def test_nothing_is_written_outside_the_folder_that_was_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError):
        target_of(tmp_path / "to", path)


def test_the_address_of_a_hub_is_understood_as_people_copy_it() -> None:
    for given in ("https://hub.lab", "hub.lab/", "https://hub.lab/hub/home"):
        assert api_of(given) == "https://hub.lab/services/dcloud/api/v1"
    assert api_of("http://lab:8000/x/hub/token") == "http://lab:8000/x/services/dcloud/api/v1"
