"""What datasets of a choice mean: whose, which version, and under which name they are mounted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import deleted_users
from dcloud_spawner.accounting import change_account
from dcloud_spawner.datasets import choose, rights
from dcloud_spawner.datasets.choose import Shelf
from dcloud_spawner.datasets.revoking import revoke_all_lost
from dcloud_spawner.datasets.wishes import DatasetWish, parse_wishes
from dcloud_spawner.errors import InvalidChoice, NotFound, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.spawners.meanwhile import choice_beside
from dcloud_spawner.store import (
    accounts,
    dataset_choices,
    dataset_mounts,
    datasets,
    people,
    workloads,
)
from dcloud_spawner.store.accounts import Budget, Role
from dcloud_spawner.store.dataset_mounts import MountState, WorkloadDataset
from dcloud_spawner.store.events import Actor
from hub_services.cli.status import dataset_lines, server_status
from tests.dataset_rows import publish
from tests.memory_engine import MemoryEngine
from tests.platforms import check, opened, settings_for, submit


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(settings_for(database_url, tmp_path), MemoryEngine()) as platform:
        yield platform
        with platform.database.reading() as connection:
            check(connection)


def add(platform: Platform, owner: str, name: str, **more: Any) -> str:
    with platform.database.transaction() as connection:
        return publish(connection, owner, name, **more).id


def project(platform: Platform, name: str, *members: str) -> str:
    with platform.database.transaction() as connection:
        found = accounts.insert(connection, accounts.PROJECT, name, Budget.NONE, utc_now())
        for member in members:
            accounts.set_member(connection, found.id, member, Role.MEMBER, utc_now())
        return found.id


def ask(platform: Platform, user: str, *wishes: object, **more: Any) -> list[WorkloadDataset]:
    """What a request of a user has."""
    workload = submit(platform, user, gpus=0, datasets=parse_wishes(list(wishes)), **more)
    with platform.database.reading() as connection:
        return list(dataset_mounts.of_workload(connection, workload.id))


def version_id(platform: Platform, dataset: str, number: int) -> str:
    with platform.database.reading() as connection:
        found = datasets.numbered(connection, dataset, number)
    assert found is not None
    return found.id


def page_of(platform: Platform, user: str, *given: object, text: str | None = None) -> Shelf:
    with platform.database.reading() as connection:
        asking = rights.who(connection, user, ())
        if text is not None:
            return choose.search(connection, asking, text)
        return choose.shelf(connection, asking, parse_wishes(list(given)))


def test_latest_is_fixed_when_it_is_submitted(platform: Platform) -> None:
    cars = add(platform, "alice", "cars", versions=3)
    (mount,) = ask(platform, "alice", "alice/cars")
    assert (mount.name, mount.dataset, mount.mode) == ("cars", cars, "cached")
    assert mount.version == version_id(platform, cars, 3)
    assert mount.state is MountState.WAITING


def test_a_version_and_a_mode_may_be_named(platform: Platform) -> None:
    cars = add(platform, "alice", "cars", versions=3)
    (mount,) = ask(platform, "alice", {"name": "alice/cars", "version": 2, "mode": "stream"})
    assert (mount.version, mount.mode) == (version_id(platform, cars, 2), "stream")


def test_a_dataset_says_how_it_is_mounted_where_the_choice_does_not(platform: Platform) -> None:
    add(platform, "alice", "huge", mount_mode="stream")
    (mount,) = ask(platform, "alice", "alice/huge")
    assert mount.mode == "stream"


@pytest.mark.parametrize("share", [("user", "bob"), ("group", "lab"), None])
def test_whoever_may_read_it_gets_it(platform: Platform, share: tuple[str, str] | None) -> None:
    add(platform, "alice", "cars", shared=(share,) if share else (), everyone=share is None)
    (mount,) = ask(platform, "bob", "alice/cars", groups={"lab"})
    assert mount.name == "cars"


def test_a_member_gets_what_is_the_projects(platform: Platform) -> None:
    lab = project(platform, "lab", "bob")
    add(platform, "lab", "words", project=lab)
    assert [mount.name for mount in ask(platform, "bob", "lab/words")] == ["words"]
    with pytest.raises(NotFound):
        ask(platform, "carol", "lab/words")


def test_what_one_may_not_read_is_refused_in_the_words_for_what_is_not_there(
    platform: Platform,
) -> None:
    add(platform, "alice", "cars")
    said = []
    for name in ("alice/cars", "alice/none"):
        with pytest.raises(NotFound) as refused:
            ask(platform, "bob", name)
        assert refused.value.field == "datasets"
        said.append(refused.value.text.replace(name, "it"))
    assert said[0] == said[1]
    with platform.database.reading() as connection:
        assert not workloads.open_workloads(connection)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("alice/cars@4", "datasets: alice/cars has no version 4. The latest is 3."),
        ("alice/empty", "datasets: alice/empty has no published version yet."),
        ("alice/empty@1", "datasets: alice/empty has no published version yet."),
    ],
)
def test_a_version_that_is_not_published_is_refused(
    platform: Platform, wish: str, words: str
) -> None:
    add(platform, "alice", "cars", versions=3)
    add(platform, "alice", "empty", versions=0)
    with pytest.raises(InvalidChoice) as refused:
        ask(platform, "alice", wish)
    assert refused.value.text.startswith(words)


def test_the_same_version_is_not_mounted_twice(platform: Platform) -> None:
    add(platform, "alice", "cars", versions=2)
    with pytest.raises(InvalidChoice, match="version 2 of alice/cars is there twice"):
        ask(platform, "alice", "alice/cars", "alice/cars@2")


def test_what_is_in_the_bin_is_not_to_be_had(platform: Platform) -> None:
    cars = add(platform, "alice", "cars")
    with platform.database.transaction() as connection:
        datasets.change(connection, cars, deleted_at=utc_now(), deleted_by="alice")
    with pytest.raises(UserError):
        ask(platform, "alice", "alice/cars")


def test_folders_of_one_name_are_told_apart_whatever_their_order(platform: Platform) -> None:
    add(platform, "alice", "cars", versions=2, everyone=True)
    add(platform, "b@lab.example", "cars", everyone=True)
    add(platform, "alice", "words")
    wishes = ["alice/cars@1", "alice/cars@2", "b@lab.example/cars", "alice/words"]
    found = [mount.name for mount in ask(platform, "alice", *wishes)]
    again = [mount.name for mount in ask(platform, "alice", *wishes[::-1], server="two")]
    assert found == again == ["cars-alice-v1", "cars-alice-v2", "cars-b-lab.example", "words"]


def test_when_it_was_used_last_is_on_the_dataset(platform: Platform) -> None:
    cars = add(platform, "alice", "cars")
    ask(platform, "alice", "alice/cars")
    with platform.database.reading() as connection:
        assert datasets.get(connection, cars).last_used_at is not None


# ---------------------------------------------------------------------------- what is offered


def test_the_page_shows_what_is_chosen_then_what_was_used_then_what_is_new(
    platform: Platform,
) -> None:
    for number in range(12):
        add(platform, "alice", f"set-{number:02}", versions=number % 3 + 1)
    add(platform, "alice", "draft-only", versions=0)
    ask(platform, "alice", "alice/set-03")
    found = page_of(platform, "alice", "alice/set-01", "alice/gone@2", "alice/set-02@9")
    names = [offer.name for offer in found.offers]
    assert names == ["set-01", "set-03", *(f"set-{n:02}" for n in range(11, 5, -1))]
    assert found.total == 12
    assert found.wishes == (DatasetWish("alice/set-01"),)
    assert found.lost == ("alice/gone@2", "alice/set-02@9")


def test_nobody_is_offered_what_they_may_not_read(platform: Platform) -> None:
    lab = project(platform, "lab", "bob")
    add(platform, "alice", "secret")
    add(platform, "alice", "told", shared=(("user", "bob"),))
    add(platform, "alice", "open", everyone=True)
    add(platform, "lab", "words", project=lab, versions=2)
    add(platform, "bob", "own")
    found = page_of(platform, "bob")
    assert {(one.value, one.kind) for one in found.offers} == {
        ("alice/told", "shared"),
        ("alice/open", "public"),
        ("project:lab/words", "project"),
        ("bob/own", "yours"),
    }
    words = next(one for one in found.offers if one.name == "words")
    assert (words.latest, words.versions) == (2, (2, 1))
    assert page_of(platform, "carol").total == 1


def test_a_search_looks_for_all_words_in_names_tags_and_descriptions(platform: Platform) -> None:
    add(platform, "alice", "street-scenes", tags=["traffic"], description="Photos of Zürich")
    add(platform, "alice", "satellite", description="Photos from above")
    add(platform, "carol", "street-private")
    assert [one.name for one in page_of(platform, "alice", text="photos ZÜRICH").offers] == [
        "street-scenes"
    ]
    assert page_of(platform, "alice", text="street").total == 1
    assert page_of(platform, "alice", text="").total == 2
    assert page_of(platform, "alice", text="100%_").total == 0


def test_a_project_of_a_persons_name_keeps_its_own(platform: Platform) -> None:
    lab = project(platform, "lab", "bob")
    add(platform, "lab", "words", project=lab)
    (offer,) = page_of(platform, "bob").offers
    mine = add(platform, "lab", "words", everyone=True)  # somebody who is called like the project
    (mount,) = ask(platform, "bob", offer.value)
    assert mount.dataset != mine


def test_what_servers_have_is_read_with_how_far_its_copy_is(platform: Platform) -> None:
    cars = add(platform, "alice", "cars", versions=2)
    (mount,) = ask(platform, "alice", "alice/cars")
    with platform.database.transaction() as connection:
        size = datasets.get(connection, cars).size_bytes
        dataset_mounts.add_copy(connection, "host", mount.version, size, utc_now())
        dataset_mounts.change_copy(connection, "host", mount.version, done_bytes=12)
    with platform.database.reading() as connection:
        found = dataset_choices.mounted(connection)
    (seen,) = found[mount.workload]
    assert (seen.reference, seen.version, seen.done_bytes, seen.total_bytes) == (
        "alice/cars",
        2,
        12,
        size,
    )


# ---------------------------------------------------------------------------- what is lost


def states(platform: Platform, mount: WorkloadDataset) -> list[MountState]:
    with platform.database.reading() as connection:
        return [one.state for one in dataset_mounts.of_workload(connection, mount.workload)]


def test_who_leaves_a_group_loses_its_mounts_and_keeps_the_others(platform: Platform) -> None:
    add(platform, "alice", "cars", shared=(("group", "lab"),))
    add(platform, "alice", "open", everyone=True)
    cars, _ = ask(platform, "bob", "alice/cars", "alice/open", groups={"lab"})
    assert revoke_all_lost(platform) == 0
    with platform.database.transaction() as connection:
        people.note(connection, "bob", ["other"], False, utc_now())
    assert revoke_all_lost(platform) == 1
    assert revoke_all_lost(platform) == 0
    assert states(platform, cars) == [MountState.REVOKED, MountState.WAITING]


def test_members_of_a_closed_project_lose_its_mounts(platform: Platform) -> None:
    lab = project(platform, "lab", "bob")
    add(platform, "lab", "words", project=lab)
    (words,) = ask(platform, "bob", "lab/words")
    change_account(platform, lab, Actor("boss"), closed=True)
    assert revoke_all_lost(platform) == 1
    assert states(platform, words) == [MountState.REVOKED]
    assert page_of(platform, "bob").total == 0


def test_what_a_deleted_user_shared_stays_with_those_it_was_shared_with(
    platform: Platform,
) -> None:
    cars = add(platform, "alice", "cars", shared=(("user", "bob"),))
    add(platform, "bob", "own", shared=(("user", "alice"),))
    deleted_users.let_go(platform, "alice", Actor("boss"))
    with platform.database.reading() as connection:
        kept = datasets.get(connection, cars)
    assert kept.owner == kept.owner_name and kept.owner.startswith("alice (deleted, ")
    (mount,) = ask(platform, "bob", kept.reference)
    assert mount.dataset == cars
    # Whoever comes by that name has nothing of it.
    assert page_of(platform, "alice").total == 0
    with pytest.raises(NotFound):
        ask(platform, "alice", "bob/own")
    deleted_users.let_go(platform, "alice", Actor("boss"))


# ---------------------------------------------------------------------------- what is shown


def test_a_server_on_cpu_meanwhile_has_the_same_datasets(platform: Platform) -> None:
    add(platform, "alice", "cars")
    waiting = submit(platform, "alice", gpus=2, datasets=parse_wishes(["alice/cars@1"]))
    beside = choice_beside(waiting, platform.profiles.current()["gpu"])
    assert beside.as_dict()["datasets"] == [{"name": "alice/cars", "version": 1}]
    plain = submit(platform, "alice", gpus=2, server="two")
    assert choice_beside(plain, platform.profiles.current()["gpu"]).datasets is None


def test_the_command_line_tells_of_datasets_that_are_not_ready(platform: Platform) -> None:
    cars = add(platform, "alice", "cars", size_bytes=138_000_000_000)
    add(platform, "alice", "words")
    mount, words = ask(platform, "alice", "alice/cars", "alice/words")
    with platform.database.transaction() as connection:
        now = utc_now()
        states = ((mount, MountState.PREPARING), (words, MountState.READY))
        for one, state in states:
            dataset_mounts.set_state(connection, one.workload, one.name, state, now)
        dataset_mounts.add_copy(connection, "host", mount.version, 138_000_000_000, now)
        dataset_mounts.change_copy(connection, "host", mount.version, done_bytes=12_000_000_000)
        (workload,) = workloads.open_workloads(connection)
        server = server_status(workload, dataset_choices.mounted(connection))
    assert version_id(platform, cars, 1) == mount.version
    assert list(dataset_lines([server])) == [
        "dataset alice/cars v1 of alice: preparing, 12 of 138 GB"
    ]
