"""Datasets by the API, behind a real hub and proxy: who sees and may do what, lists part by part,
and what is refused changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from dcloud_spawner import accounting
from dcloud_spawner.datasets import versions
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import dataset_files, dataset_jobs, datasets, events, people
from dcloud_spawner.store.accounts import Role
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.dataset_jobs import JobState
from dcloud_spawner.store.datasets_schema import TABLES
from dcloud_spawner.store.events import Actor
from tests.web_stage import ADMINISTRATOR, WebStage

pytestmark = pytest.mark.database

OWNER, WRITER, READER, STRANGER = "olga", "wim", "rita", "sven"
SUM = "0" * 64


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, module_databases: dict[str, str]
) -> Iterator[WebStage]:
    """One hub for the module."""
    folder = tmp_path_factory.mktemp("datasets")
    with WebStage(folder, **module_databases, api_calls_per_minute=100_000) as running:
        yield running


@pytest.fixture(scope="module")
def clients(stage: WebStage) -> Iterator[dict[str, httpx.Client]]:
    """A client for each person, and one for a service."""
    with ExitStack() as stack:
        names = (OWNER, WRITER, READER, STRANGER, ADMINISTRATOR)
        found = {name: stack.enter_context(stage.api(name)) for name in names}
        found["service"] = stack.enter_context(stage.api(None))
        found["service"].headers["Authorization"] = f"token {stage.token}"
        yield found


@pytest.fixture(scope="module")
def faces(stage: WebStage, clients: dict[str, httpx.Client]) -> str:
    """Id of a dataset with a published version of five files, shared with a reader and a writer."""
    api = clients[OWNER]
    made = good(api.post("/datasets", json={"name": "faces", "tags": ["Street"]}), 201)["id"]
    fill(stage, made, "a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.txt", "z.csv")
    publish(stage, made)
    for name, right in ((READER, "read"), (WRITER, "write")):
        share = {"kind": "user", "name": name, "right": right}
        good(api.post(f"/datasets/{made}/shares", json=share))
    return str(made)


def fill(stage: WebStage, dataset: str, *paths: str) -> None:
    with stage.platform.database.transaction() as connection:
        draft = datasets.draft_of(connection, dataset)
        assert draft is not None
        new = [NewFile(path, len(path), sha256=SUM) for path in paths]
        dataset_files.put(connection, draft.id, new, OWNER, utc_now())


def publish(stage: WebStage, dataset: str) -> None:
    """What the process ``data`` does, but for reading the files back."""
    job = versions.begin_publish(stage.platform, Asker(Actor(OWNER)), dataset)
    with stage.platform.database.transaction() as connection:
        dataset_jobs.move(connection, job.id, dataset_jobs.OPEN, JobState.RUNNING)
    assert job.version is not None
    done = versions.finish_publish(stage.platform, job.id, job.version, SUM, Actor("data"))
    assert done is not None


def good(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(answer: httpx.Response, *statuses: int) -> dict[str, str]:
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text}"
    error: dict[str, str] = answer.json()["error"]
    assert error["code"] and error["message"]
    assert "Traceback" not in str(error)
    return error


def everything(stage: WebStage) -> list[object]:
    """All rows of datasets and the end of the action log."""
    with stage.platform.database.reading() as connection:
        rows: list[object] = [events.head(connection).sequence]
        for table in TABLES:
            rows += [(table.name, *row) for row in connection.execute(select(table))]
    return rows


def all_of(api: httpx.Client, path: str, *lists: str, **query: Any) -> list[Any]:
    """All of a list, two at a time."""
    items: list[Any] = []
    cursor = ""
    while cursor is not None:
        page = good(api.get(path, params={**query, "limit": 2, "cursor": cursor}))
        for name in lists:
            items += page[name]
        cursor = page["next_cursor"]
    return items


def test_each_one_sees_what_is_theirs_to_see(clients: dict[str, httpx.Client], faces: str) -> None:
    rights = {OWNER: "manage", WRITER: "write", READER: "read", ADMINISTRATOR: "manage"}
    for name, right in rights.items():
        for way in (faces, f"{OWNER}%2Ffaces"):
            seen = good(clients[name].get(f"/datasets/{way}"))
            assert (seen["reference"], seen["right"], seen["latest"]) == ("olga/faces", right, 1)
            assert bool(seen["shares"]) == (right == "manage")
    for name in (STRANGER, "service"):
        hidden = refused(clients[name].get(f"/datasets/{faces}"), 404)
        absent = refused(clients[name].get(f"/datasets/{'0' * 32}"), 404)
        assert hidden["message"].replace(faces, "0" * 32) == absent["message"]
        assert good(clients[name].get("/datasets"))["items"] == []


def test_a_share_with_nobody_says_so(
    stage: WebStage, clients: dict[str, httpx.Client], faces: str
) -> None:
    with stage.platform.database.transaction() as connection:
        people.note(connection, READER, ["vision"], False, utc_now())
    shares = f"/datasets/{faces}/shares"
    for kind, name in (("group", "vision"), ("group", "visoin"), ("user", "rtia")):
        good(clients[OWNER].post(shares, json={"kind": kind, "name": name}))
    seen = good(clients[OWNER].get(f"/datasets/{faces}"))["shares"]
    known = {each["name"]: each["known"] for each in seen}
    assert known[READER] and known["vision"]
    assert not known["visoin"] and not known["rtia"]
    for kind, name in (("group", "vision"), ("group", "visoin"), ("user", "rtia")):
        unshared = {"kind": kind, "name": name}
        good(clients[OWNER].post(f"/datasets/{faces}/unshare", json=unshared))


def test_lists_come_part_by_part_in_every_order(clients: dict[str, httpx.Client]) -> None:
    api = clients[STRANGER]
    names = ["alpha", "beta", "gamma", "delta", "100-percent"]
    for name in names:
        body = {"name": name, "description": f"About {name} 50% off", "everyone": name > "b"}
        good(api.post("/datasets", json=body), 201)
    for order in ("changed", "name", "size", "used"):
        found = [each["name"] for each in all_of(api, "/datasets", "items", order=order)]
        assert sorted(found) == sorted(names)
        if order == "name":
            assert found == sorted(names)
        if order == "changed":
            assert found == names[::-1]
    assert [d["name"] for d in all_of(api, "/datasets", "items", search="GAMMA 50%")] == ["gamma"]
    assert all_of(api, "/datasets", "items", search="5_% off") == []
    open_to_all = all_of(clients["service"], "/datasets", "items", show="everyone")
    assert sorted(each["name"] for each in open_to_all) == ["beta", "delta", "gamma"]
    assert {d["owner"] for d in all_of(api, "/datasets", "items", show="mine")} == {STRANGER}
    assert all_of(api, "/datasets", "items", show="shared") == []


def test_files_come_folder_by_folder_part_by_part(
    clients: dict[str, httpx.Client], faces: str
) -> None:
    api, files = clients[READER], f"/datasets/{faces}/versions/latest/files"
    top = [each["path"] for each in all_of(api, files, "folders", "files")]
    assert top == ["b", "a.txt", "z.csv"]
    inside = [each["path"] for each in all_of(api, files, "folders", "files", folder="b")]
    assert inside == ["b/d", "b/c.txt"]
    whole = [each["path"] for each in all_of(api, files, "folders", "files", everything=True)]
    assert whole == ["a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.txt", "z.csv"]
    below = all_of(api, files, "folders", "files", everything=True, folder="b/d")
    assert [each["path"] for each in below] == ["b/d/e.txt", "b/d/f.txt"]
    found = [each["path"] for each in all_of(api, files, "folders", "files", search="D/")]
    assert found == ["b/d/e.txt", "b/d/f.txt"]
    assert good(api.get(files.replace("latest", "v1"), params={"folder": "none"}))["files"] == []
    refused(api.get(files.replace("latest", "draft")), 404)


def test_a_dataset_goes_to_the_bin_and_comes_back(clients: dict[str, httpx.Client]) -> None:
    api = clients[WRITER]
    made = good(api.post("/datasets", json={"name": "short"}), 201)["id"]
    assert good(api.delete(f"/datasets/{made}"))["deleted_at"]
    refused(api.get(f"/datasets/{made}"), 404)
    assert [each["id"] for each in all_of(api, "/datasets", "items", show="bin")] == [made]
    refused(clients[STRANGER].post(f"/datasets/{made}/restore", json={}), 404)
    assert good(api.post(f"/datasets/{made}/restore", json={}))["deleted_at"] is None
    good(api.delete(f"/datasets/{made}"))
    good(api.post(f"/datasets/{made}/purge", json={}))


def test_members_of_a_project_write_and_its_owners_manage(
    stage: WebStage, clients: dict[str, httpx.Client]
) -> None:
    project = accounting.create_project(stage.platform, "vision", [OWNER], Actor("test"))
    accounting.set_member(stage.platform, project.id, WRITER, Role.MEMBER, Actor("test"))
    body = {"name": "scenes", "project": "vision"}
    made = good(clients[WRITER].post("/datasets", json=body), 201)
    assert made["reference"] == "vision/scenes"
    refused(clients[WRITER].delete(f"/datasets/{made['id']}"), 403)
    refused(clients[STRANGER].post("/datasets", json=body), 404)
    assert good(clients[OWNER].get(f"/datasets/{made['id']}"))["right"] == "manage"


NEW, AT = "/datasets", "/datasets/FACES"
BAD: list[tuple[str, str, str, Any]] = [
    *(("POST", NEW, f"name {name!r}", {"name": name}) for name in ("", "A", "a/b", "..", "a b")),
    ("POST", NEW, "a long name", {"name": "x" * 65}),
    ("POST", NEW, "a name with a NUL", {"name": "a\x00b"}),
    ("POST", NEW, "a number for a name", {"name": 5}),
    ("POST", NEW, "no name", {}),
    ("POST", NEW, "taken", {"name": "faces"}),
    ("POST", NEW, "an unknown field", {"name": "new", "owner": "rita"}),
    ("POST", NEW, "an unknown project", {"name": "new", "project": "nowhere"}),
    ("POST", NEW, "a long description", {"name": "new", "description": "x" * 20_001}),
    ("POST", NEW, "many tags", {"name": "new", "tags": [str(n) for n in range(21)]}),
    ("POST", NEW, "an empty tag", {"name": "new", "tags": [" "]}),
    ("POST", NEW, "a tag with a comma", {"name": "new", "tags": ["a,b"]}),
    ("POST", NEW, "an unseen tag", {"name": "new", "tags": ["a\u202eb"]}),
    ("POST", NEW, "a long tag", {"name": "new", "tags": ["x" * 33]}),
    ("POST", NEW, "a long licence", {"name": "new", "licence": "x" * 65}),
    ("POST", NEW, "an unknown mode", {"name": "new", "mount_mode": "copy"}),
    ("POST", NEW, "no JSON object", [1]),
    ("PATCH", AT, "a bad new name", {"name": "No"}),
    ("PATCH", AT, "everyone as text", {"everyone": "perhaps"}),
    ("PATCH", AT, "an owner", {"owner": "rita"}),
    ("POST", f"{AT}/shares", "an unknown kind", {"kind": "team", "name": "x"}),
    ("POST", f"{AT}/shares", "an unknown right", {"kind": "user", "name": "x", "right": "manage"}),
    ("POST", f"{AT}/shares", "nobody", {"kind": "user", "name": " "}),
    ("POST", f"{AT}/shares", "an unseen name", {"kind": "user", "name": "a\u200bb"}),
    ("POST", f"{AT}/shares", "its owner", {"kind": "user", "name": OWNER}),
    ("POST", f"{AT}/shares", "an unknown project", {"kind": "project", "name": "nowhere"}),
    ("POST", f"{AT}/unshare", "not shared", {"kind": "user", "name": "nobody"}),
    ("POST", f"{AT}/draft", "version 0", {"based_on": 0}),
    ("POST", f"{AT}/draft", "a version that is not", {"based_on": 7}),
    ("DELETE", f"{AT}/draft", "no draft", None),
    ("POST", f"{AT}/draft/publish", "no draft", {}),
    ("POST", f"{AT}/draft/publish", "a long note", {"note": "x" * 2001}),
    ("POST", f"{AT}/draft/remove", "no draft", {"paths": ["a.txt"]}),
    ("POST", f"{AT}/draft/remove", "a way out", {"paths": ["../a.txt"]}),
    ("DELETE", f"{AT}/versions/1", "the latest version", None),
    ("DELETE", f"{AT}/versions/9", "a version that is not", None),
    ("DELETE", f"{AT}/versions/x", "no version", None),
    ("GET", f"{AT}/versions/0/files", "version 0", None),
    ("GET", f"{AT}/versions/1/files?folder=../x", "a way out", None),
    ("GET", f"{AT}/versions/1/files?limit=0", "none at a time", None),
    ("GET", f"{NEW}?cursor=x", "no cursor", None),
    ("GET", f"{NEW}?cursor=%5B1,2%5D", "numbers for a cursor", None),
    ("GET", f"{NEW}?order=size&cursor=%5B%22a%22,%22b%22%5D", "another list's cursor", None),
    ("GET", f"{NEW}?order=size&cursor=[{10**30},%22b%22]", "a number for no database", None),
    ("GET", f"{NEW}?cursor=[%222026-01-01%22,%22b%22]", "a time without a zone", None),
    ("GET", f"{NEW}?order=name&cursor=[%22%5Cu0000%22,%22b%22]", "a NUL in a cursor", None),
    ("GET", f"{NEW}?order=name&cursor=[%22%5Cud800%22,%22b%22]", "half a character", None),
    ("GET", f"{NEW}?search=a%00b", "a NUL in a search", None),
    ("GET", f"{AT}/versions/1/files?cursor=f:%00", "a NUL in a cursor of files", None),
    ("GET", f"{NEW}?show=theirs", "no such list", None),
    ("POST", f"{AT}/restore", "not in the bin", {}),
    ("POST", f"{AT}/purge", "not in the bin", {}),
    ("POST", f"{AT}/jobs/none/cancel", "no such job", {}),
]


def test_bad_requests_are_refused_in_words_and_change_nothing(
    stage: WebStage, clients: dict[str, httpx.Client], faces: str
) -> None:
    before = everything(stage)
    wrong = []
    for method, path, name, body in BAD:
        answer = clients[OWNER].request(method, path.replace("FACES", faces), json=body)
        if answer.status_code not in (400, 404, 409):
            wrong.append(f"{method} {path} {name}: {answer.status_code} {answer.text[:200]}")
            continue
        refused(answer, answer.status_code)
    assert not wrong, "\n".join(wrong)
    assert everything(stage) == before


def test_those_who_may_not_change_nothing(
    stage: WebStage, clients: dict[str, httpx.Client], faces: str
) -> None:
    before = everything(stage)
    changes: list[tuple[str, str, Any]] = [
        ("PATCH", AT, {"description": "mine"}),
        ("DELETE", AT, None),
        ("POST", f"{AT}/shares", {"kind": "user", "name": STRANGER, "right": "write"}),
        ("POST", f"{AT}/unshare", {"kind": "user", "name": WRITER}),
        ("POST", f"{AT}/draft", {}),
        ("DELETE", f"{AT}/draft", None),
        ("POST", f"{AT}/draft/publish", {}),
        ("POST", f"{AT}/draft/remove", {"paths": ["a.txt"]}),
        ("DELETE", f"{AT}/versions/1", None),
    ]
    for name, status in ((READER, 403), (STRANGER, 404), ("service", 404)):
        for method, path, body in changes:
            answer = clients[name].request(method, path.replace("FACES", faces), json=body)
            refused(answer, status)
    assert everything(stage) == before


def test_imports_are_asked_for_by_who_may_write_and_their_secrets_are_not_shown(
    stage: WebStage, clients: dict[str, httpx.Client]
) -> None:
    made = good(clients[OWNER].post("/datasets", json={"name": "fetched"}), 201)["id"]
    web, store = f"/datasets/{made}/imports/url", f"/datasets/{made}/imports/s3"
    address = {"url": "https://example.org/cars.zip?signature=sesame", "unpack": True}
    refused(clients[STRANGER].post(web, json=address), 404)
    for wrong in ("file:///etc/passwd", "https://ann:pw@example.org/x", "//x/y", "https://x/"):
        refused(clients[OWNER].post(web, json={"url": wrong}), 400)
    refused(clients[OWNER].post(web, json={"url": "https://example.org/a", "path": "../a"}), 400)
    refused(clients[OWNER].post(store, json={"bucket": "b/../c"}), 400)
    keys = {"access_key": "open", "secret_key": "sesame"}
    jobs = [
        good(clients[OWNER].post(web, json=address), 202),
        good(clients[OWNER].post(store, json={"bucket": "cars", **keys}), 202),
    ]
    assert [job["kind"] for job in jobs] == ["import_url", "import_s3"]
    detail = good(clients[OWNER].get(f"/datasets/{made}"))
    told = str(jobs) + str(detail) + str(everything(stage))
    assert "sesame" not in told
    for job in jobs:
        good(clients[OWNER].post(f"/datasets/{made}/jobs/{job['id']}/cancel"))
