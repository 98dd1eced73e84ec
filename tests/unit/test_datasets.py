"""Datasets: names and paths, who may, versions that never change, sums of folders, the bin."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner import accounting
from dcloud_spawner.datasets import catalog, quota, revoking, versions
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.paths import (
    LONGEST_PATH,
    check_name,
    clean_path,
    folders_of,
    parse_reference,
)
from dcloud_spawner.datasets.rights import Asker, Right, find, mine, right_of, visible
from dcloud_spawner.errors import Conflict, InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import (
    dataset_files,
    dataset_jobs,
    dataset_uploads,
    datasets,
    events,
    homes,
)
from dcloud_spawner.store.accounts import Role
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.dataset_jobs import JobState, Kind
from dcloud_spawner.store.datasets import Dataset, VersionState
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine

WHOM = {"user": ["ann", "ben", "cem", "dan"], "group": ["g1", "g2"], "project": ["p1", "p2"]}
SUM = hashlib.sha256(b"").hexdigest()


def person(name: str, *groups: str, administrator: bool = False) -> Asker:
    return Asker(Actor(name, "10.0.0.1"), frozenset(groups), administrator)


ANN, BEN, CEM, BOSS = person("ann"), person("ben", "vision"), person("cem"), person("boss")
ROOT = person("root", administrator=True)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    settings = Settings(state=tmp_path / "state", database_url=database_url)
    made = Platform(settings, engine=MemoryEngine())
    yield made
    made.close()
    made.database.engine.dispose()


def fill(platform: Platform, dataset: Dataset, *files: tuple[str, int]) -> str:
    with platform.database.transaction() as connection:
        draft = datasets.draft_of(connection, dataset.id)
        assert draft is not None
        new = [NewFile(path, size, sha256=SUM) for path, size in files]
        dataset_files.put(connection, draft.id, new, "ann", utc_now())
        return draft.id


def published(platform: Platform, asking: Asker, dataset: Dataset) -> int:
    """What the job does once every file was read back."""
    job = versions.begin_publish(platform, asking, dataset.id, "as it was")
    assert job.version is not None
    with platform.database.transaction() as connection:
        dataset_jobs.move(connection, job.id, dataset_jobs.OPEN, JobState.RUNNING)
    made = versions.finish_publish(platform, job.id, job.version, "a" * 64, asking.actor)
    assert made is not None and made.number is not None
    return made.number


# ---------------------------------------------------------------------------- names and paths


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/a",
            "a//b",
            "a/",
            "../a",
            "a/../b",
            "./a",
            "a/.",
            "a\\b",
            "a\x00b",
            "a\nb",
            "a\x7f",
        ),
        *("a\u202eb", "a\ufeffb", "a\u2028b", " a", "a /b", "x" * 256, "\ud800", "a/" * 40 + "b"),
        "/".join(["é" * 100] * 5),
    ],
)
def test_a_path_that_could_mean_something_else_is_refused_with_the_reason(path: str) -> None:
    with pytest.raises(InvalidChoice) as refused:
        clean_path(path)
    assert refused.value.message.startswith("path: ")
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    "path", ["a", ".hidden", "a/b.c/d", "Ünï/日本.txt", "a b/c", "...", "a..b", "👩\u200d🔬.png"]
)
def test_other_paths_are_as_they_were_given(path: str) -> None:
    assert clean_path(path) == path


@given(st.text(max_size=40))
def test_what_a_path_is_cleaned_to_stays_inside_and_is_clean(path: str) -> None:
    try:
        clean = clean_path(path)
    except InvalidChoice:
        return
    assert clean_path(clean) == clean == unicodedata.normalize("NFC", path)
    assert len(clean.encode()) <= LONGEST_PATH
    inside = Path("/top") / clean
    assert inside.resolve().is_relative_to("/top") and inside != Path("/top")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "..", "a..b", "x" * 65, "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidChoice):
        check_name(name)


def test_a_reference_is_read_as_it_is_written() -> None:
    for text in ("ann/faces", "ann/faces@3", "project:vision/faces", "a@b.org/faces@12"):
        assert str(parse_reference(text)) == text
    assert parse_reference("ann/faces@latest").version is None
    for wrong in ("faces", "ann/", "/faces", "ann/faces@0", "ann/faces@x", "ann/Faces", "@3"):
        with pytest.raises(InvalidChoice):
            parse_reference(wrong)


# ---------------------------------------------------------------------------- who may


def test_nobody_else_sees_a_private_dataset_and_the_words_are_those_for_what_is_not(
    platform: Platform,
) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    with platform.database.reading() as connection:
        asking = BEN.known(connection)
        with pytest.raises(NotFound) as hidden:
            find(connection, asking, "ann/faces")
        with pytest.raises(NotFound) as absent:
            find(connection, asking, "ann/other")
        assert hidden.value.text.replace("faces", "other") == absent.value.text
        with pytest.raises(NotFound):
            find(connection, asking, made.id)
        assert datasets.page(connection, visible(asking)) == []
        assert find(connection, ROOT.known(connection), "ann/faces") == made
    for act in (catalog.throw_away, versions.discard_draft, versions.begin_publish):
        with pytest.raises(NotFound):
            act(platform, BEN, made.id)
    with pytest.raises(NotFound):
        catalog.share(platform, BEN, made.id, "user", "ben", "write")


def test_what_everybody_may_do_agrees_with_a_second_opinion(platform: Platform) -> None:
    """Random owners, shares and memberships; the lists show exactly what may be read."""
    chance = random.Random(7)
    people = WHOM["user"]
    groups = {name: {g for g in ("g1", "g2") if chance.random() < 0.5} for name in people}
    projects: dict[str, dict[str, Role]] = {}
    for project in WHOM["project"]:
        account = accounting.create_project(platform, project, ["boss"], BOSS.actor)
        projects[project] = {}
        for name in people:
            role = chance.choice([None, Role.MEMBER, Role.OWNER])
            if role is not None:
                accounting.set_member(platform, account.id, name, role, BOSS.actor)
                projects[project][name] = role
    askers = {name: person(name, *groups[name]) for name in people}
    expected: dict[str, dict[str, Right]] = defaultdict(dict)
    for number in range(24):
        project = chance.choice([None, "p1", "p2"])
        owner = chance.choice(people) if project is None else "root"
        asking = askers[owner] if project is None else ROOT
        everyone = chance.random() < 0.3
        made = catalog.create(
            platform, asking, f"d{number}", Description(everyone=everyone), project=project
        )
        rights: dict[str, list[Right]] = {name: [] for name in people}
        for name in people:
            rights[name] += [Right.READ] if everyone else []
            if project is None and name == owner:
                rights[name].append(Right.MANAGE)
            elif project is not None and name in projects[project]:
                owns = projects[project][name] is Role.OWNER
                rights[name].append(Right.MANAGE if owns else Right.WRITE)
        for kind, whom in {
            (kind, chance.choice(WHOM[kind]))
            for kind in chance.choices(list(WHOM), k=chance.randrange(4))
        } - {("user", owner)}:
            right = chance.choice([Right.READ, Right.WRITE])
            catalog.share(platform, ROOT, made.id, kind, whom, right.name.lower())
            for name in people:
                if (
                    (kind == "user" and whom == name)
                    or (kind == "group" and whom in groups[name])
                    or (kind == "project" and name in projects[whom])
                ):
                    rights[name].append(right)
        for name in people:
            if rights[name]:
                expected[name][made.id] = max(rights[name])
    with platform.database.reading() as connection:
        everything = datasets.page(connection, visible(ROOT.known(connection)), limit=100)
        assert len(everything) == 24
        for name in people:
            known = askers[name].known(connection)
            seen = {d.id for d in datasets.page(connection, visible(known), limit=100)}
            assert seen == set(expected[name])
            for dataset in everything:
                assert right_of(connection, known, dataset) == expected[name].get(dataset.id)
            own = {d.id for d in datasets.page(connection, mine(known), limit=100)}
            assert own <= {key for key, right in expected[name].items() if right >= Right.WRITE}


def test_a_reader_may_not_change_and_a_writer_may_not_share(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    catalog.share(platform, ANN, made.id, "user", "ben", "read")
    catalog.share(platform, ANN, made.id, "user", "cem", "write")
    with pytest.raises(NotAllowed, match="You may read ann/faces, but not change it"):
        catalog.change(platform, BEN, made.id, Description(description="mine"))
    catalog.change(platform, CEM, made.id, Description(description="ours"))
    for act in (
        lambda: catalog.change(platform, CEM, made.id, Description(everyone=True)),
        lambda: catalog.change(platform, CEM, made.id, Description(name="taken")),
        lambda: catalog.share(platform, CEM, made.id, "user", "dan", "read"),
        lambda: catalog.throw_away(platform, CEM, made.id),
    ):
        with pytest.raises(NotAllowed):
            act()


def test_an_owner_has_one_dataset_of_a_name_until_it_is_in_the_bin(platform: Platform) -> None:
    first = catalog.create(platform, ANN, "faces", Description())
    with pytest.raises(Conflict) as refused:
        catalog.create(platform, ANN, "faces", Description())
    assert refused.value.code == "name_taken"
    catalog.create(platform, BEN, "faces", Description())
    catalog.throw_away(platform, ANN, first.id)
    second = catalog.create(platform, ANN, "faces", Description())
    with pytest.raises(Conflict):
        catalog.restore(platform, ANN, first.id)
    catalog.throw_away(platform, ANN, second.id)
    assert catalog.restore(platform, ANN, first.id).deleted_at is None


# ---------------------------------------------------------------------------- versions


def test_a_published_version_is_never_changed(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    version = fill(platform, made, ("a.txt", 3), ("b/c.txt", 4))
    assert published(platform, ANN, made) == 1
    with pytest.raises(Conflict) as refused:
        versions.remove_files(platform, ANN, made.id, ["a.txt"])
    assert refused.value.code == "no_draft"
    versions.open_draft(platform, ANN, made.id, empty=True)
    assert versions.remove_files(platform, ANN, made.id, ["a.txt"]).paths == []
    with platform.database.reading() as connection:
        kept = datasets.get_version(connection, version)
        assert (kept.state, kept.files, kept.size_bytes) == (VersionState.PUBLISHED, 2, 7)
        latest = datasets.get(connection, made.id)
        assert (latest.latest_number, latest.size_bytes, latest.stored_bytes) == (1, 7, 7)
    fill(platform, made, ("d.txt", 5))
    assert published(platform, ANN, made) == 2
    assert versions.finish_publish(platform, "gone", version, "b" * 64, ANN.actor) is None


def test_a_draft_that_is_published_or_filled_is_not_touched(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    with pytest.raises(Conflict, match="has no files"):
        versions.begin_publish(platform, ANN, made.id)
    draft = fill(platform, made, ("a.txt", 3))
    with platform.database.transaction() as connection:
        upload = dataset_uploads.insert(
            connection,
            version=draft,
            path="big.bin",
            size_bytes=10,
            modified_ms=None,
            part_bytes=5,
            storage_upload="x",
            by="ann",
            at=utc_now(),
        )
        datasets.store_more(connection, made.id, 10)
    with pytest.raises(Conflict, match=r"1 file is still being uploaded, big\.bin"):
        versions.begin_publish(platform, ANN, made.id)
    with platform.database.transaction() as connection:
        dataset_uploads.remove(connection, upload.id)
        datasets.store_more(connection, made.id, -10)
    job = versions.begin_publish(platform, ANN, made.id)
    for act in (
        lambda: versions.remove_files(platform, ANN, made.id, ["a.txt"]),
        lambda: versions.begin_publish(platform, ANN, made.id),
    ):
        with pytest.raises(Conflict, match="is being published"):
            act()
    versions.cancel_job(platform, ANN, made.id, job.id)
    assert versions.remove_files(platform, ANN, made.id, ["a.txt"]).paths == ["a.txt"]


def test_a_draft_that_is_given_up_gives_its_room_back(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    draft = fill(platform, made, ("a.txt", 3))
    with platform.database.transaction() as connection:
        dataset_uploads.insert(
            connection,
            version=draft,
            path="big.bin",
            size_bytes=10,
            modified_ms=None,
            part_bytes=5,
            storage_upload="x",
            by="ann",
            at=utc_now(),
        )
        datasets.store_more(connection, made.id, 10)
    versions.discard_draft(platform, ANN, made.id)
    with platform.database.reading() as connection:
        assert datasets.get(connection, made.id).stored_bytes == 0
        assert datasets.draft_of(connection, made.id) is None
        assert [job.kind for job in dataset_jobs.open_jobs(connection, draft)] == [Kind.PURGE]


def test_folders_have_the_sums_of_all_below_them(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    chance, held = random.Random(3), {}
    draft = fill(platform, made, ("seed", 1))
    held["seed"] = 1
    for _ in range(60):
        with platform.database.transaction() as connection:
            if held and chance.random() < 0.3:
                some = sorted(chance.sample(sorted(held), min(len(held), 2)))
                assert sorted(dataset_files.remove(connection, draft, [*some, "no"])) == some
                for path in some:
                    del held[path]
            else:
                path = "/".join(chance.choice("xyz") + "d" for _ in range(chance.randrange(4)))
                path = f"{path}/{chance.randrange(9)}" if path else str(chance.randrange(9))
                held[path] = chance.randrange(100)
                dataset_files.put(connection, draft, [NewFile(path, held[path])], "ann", utc_now())
    assert len(held) > 5
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, size in held.items():
        for folder in folders_of(path):
            sums[folder][0] += 1
            sums[folder][1] += size
    with platform.database.reading() as connection:
        seen = {}
        todo = [""]
        while todo:
            folder = todo.pop()
            found = dataset_files.find_folder(connection, draft, folder)
            assert found is not None
            seen[folder] = [found.files, found.size_bytes]
            todo += [each.path for each in dataset_files.folders_in(connection, draft, folder)]
            below = [file.path for file in dataset_files.walk(connection, draft, folder)]
            inside = f"{folder}/" if folder else ""
            assert below == sorted(path for path in held if path.startswith(inside))
        assert seen == sums
        version = datasets.get_version(connection, draft)
        assert [version.files, version.size_bytes] == sums[""]
        assert datasets.get(connection, made.id).stored_bytes == sums[""][1]


def test_a_file_and_a_folder_of_one_path_are_a_clash(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    draft = fill(platform, made, ("a/b", 1))
    with platform.database.reading() as connection:
        assert dataset_files.clash(connection, draft, "a") == "there is a folder a"
        assert "there is a file a/b" in dataset_files.clash(connection, draft, "a/b/c")
        assert dataset_files.clash(connection, draft, "a/c") == ""


# ---------------------------------------------------------------------------- room, bin, log


def test_homes_and_datasets_share_one_limit(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    gib = 2**30
    with platform.database.transaction() as connection:
        homes.insert(connection, "home-ann", "ann", utc_now())
        homes.set_size(connection, "home-ann", 60 * gib, utc_now())
        datasets.store_more(connection, made.id, 30 * gib)
        found = datasets.get(connection, made.id)
        quota.check(connection, platform.settings, found, 10 * gib)
        with pytest.raises(Conflict) as refused:
            quota.check(connection, platform.settings, found, 10 * gib + 1)
    assert refused.value.code == "storage_full"
    assert "may store 107 GB and has 96.6 GB (32.2 GB in datasets, 64.4 GB at home)" in (
        refused.value.message
    )


def test_the_bin_is_due_after_its_days_and_only_then(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description())
    catalog.throw_away(platform, ANN, made.id)
    assert catalog.due_for_purge(platform) == []
    with platform.database.transaction() as connection:
        datasets.change(connection, made.id, deleted_at=utc_now() - timedelta(days=31))
    assert [found.id for found in catalog.due_for_purge(platform)] == [made.id]
    with pytest.raises(NotFound):
        catalog.restore(platform, BEN, made.id)


def test_everything_that_changes_a_dataset_is_on_the_action_log(platform: Platform) -> None:
    made = catalog.create(platform, ANN, "faces", Description(everyone=True))
    catalog.change(platform, ANN, made.id, Description(tags=["Street", "street "]))
    catalog.share(platform, ANN, made.id, "group", "vision", "read")
    catalog.unshare(platform, ANN, made.id, "group", "vision")
    fill(platform, made, ("a.txt", 3))
    published(platform, ANN, made)
    versions.open_draft(platform, ANN, made.id, empty=False)
    versions.discard_draft(platform, ANN, made.id)
    catalog.throw_away(platform, ANN, made.id)
    catalog.restore(platform, ANN, made.id)
    with platform.database.reading() as connection:
        told = [e.action for e in events.read(connection) if e.target == made.id]
        assert revoking.REVOKER.name not in [e.actor for e in events.read(connection)]
        assert datasets.get(connection, made.id).tags == ["street"]
        assert list(events.verify(connection)) == []
    acts = "create change share unshare publishing publish draft discard delete restore"
    assert told == [f"dataset.{act}" for act in acts.split()]
