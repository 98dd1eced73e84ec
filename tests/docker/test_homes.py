"""Homes: what a user wrote is there again, is nobody else's, and goes only when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import pytest

from dcloud_spawner import user_homes
from dcloud_spawner.errors import Conflict
from dcloud_spawner.spec import home_volume
from dcloud_spawner.store import homes, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.homes import Home
from dcloud_spawner.store.schema import State
from tests.docker.people import SMALL, People, Person, action_log, built_image, quick, until
from tests.live import Deployment

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]

ADMIN = Actor("admin", "127.0.0.1")


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    return {"homes_seconds": 2}


@pytest.fixture
def other_image(base_image: str, tag: str) -> Iterator[str]:
    """An image of another name and content."""
    with built_image(f"dcloud/other:{tag}", f"FROM {base_image}\nENV OTHER=yes\n") as name:
        yield name


def home_of(person: Person) -> Home | None:
    """The row of a home."""
    with person.platform.database.reading() as connection:
        return homes.of_user(connection, person.name)


def volumes(deployment: Deployment) -> set[str]:
    """Names of all volumes of a deployment."""
    client = docker.from_env()
    try:
        label = {"label": f"dcloud.deployment={deployment.settings.deployment}"}
        return {found.name for found in client.volumes.list(filters=label)}
    finally:
        client.close()


def delete_user(person: Person) -> None:
    """What an administrator's button does."""
    with person.deployment.api() as api:
        answer = api.delete(f"/users/{person.name}")
        assert answer.status_code == 204, person.explained(answer)


def test_files_survive_stop_start_and_a_change_of_profile_and_image(
    people: People, other_image: str
) -> None:
    person = people(groups=("trusted",))
    person.run({**SMALL, "cpus": 2})
    person.shell("mkdir ~/work && echo 'x = 1' > ~/work/notes.py && chmod 600 ~/work/notes.py")
    before = person.shell("stat -c '%i %u %g %a' ~/work/notes.py")
    person.end()
    for choice in (
        {"profile": "gpu", "gpus": 1, "cpus": 2},
        {"profile": "own", "image": other_image, "cpus": 1},
    ):
        person.run(choice)
        assert person.shell("cat ~/work/notes.py") == "x = 1\n"
        assert person.shell("stat -c '%i %u %g %a' ~/work/notes.py") == before
        assert person.shell("touch ~/work/again && echo done") == "done\n"
        person.end()
    assert person.past()[-1].image == other_image


def test_a_home_is_the_users_own(people: People) -> None:
    person = people()
    person.run(quick())
    owner, group, mode = person.shell("stat -c '%u %g %a' ~").split()
    assert (owner, group) == ("1000", "1000")
    assert int(mode, 8) & 0o022 == 0
    assert person.shell("touch ~/mine && stat -c %U ~/mine") == "dcloud\n"
    mounts = [mount for mount in person.inspect()["Mounts"] if mount["Type"] == "volume"]
    expected = home_volume(person.deployment.settings.deployment, person.name)
    assert [mount["Name"] for mount in mounts] == [expected]
    assert person.inspect()["HostConfig"]["VolumesFrom"] is None


def test_names_that_look_alike_have_homes_of_their_own(people: People) -> None:
    alike = [people(name) for name in ("a.b", "a-b", "a_b", "a--b", "ab")]
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda person: person.run(quick()), alike))
    for person in alike:
        assert person.shell("ls ~; echo mine > ~/of-$JUPYTERHUB_USER; ls ~").split() == [
            f"of-{person.name}"
        ]
    assert len({home.volume for person in alike if (home := home_of(person))}) == 5


NO_NAMES = ["a/b", "ä-b", "а-b", "a b", " ab", ".ab", "-ab", "a\x00b", "CaSeY", "x" * 64]


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_names_that_could_be_taken_for_others_are_no_names(
    deployment: Deployment, name: str
) -> None:
    with deployment.api() as api:
        answer = api.post(f"/users/{quote(name, safe='')}")
        assert answer.status_code in (400, 404), answer.text
        if name not in ("CaSeY", " ab"):  # in a list, these are set right
            assert api.post("/users", json={"usernames": [name]}).status_code == 400


def test_a_user_is_not_renamed_into_the_reach_of_another_home(people: People) -> None:
    person = people()
    with person.deployment.api() as api:
        answer = api.patch(f"/users/{person.name}", json={"name": "somebody"})
        assert (answer.status_code, "renamed" in answer.json()["message"]) == (400, True)
        assert api.get(f"/users/{person.name}").status_code == 200
        assert api.patch(f"/users/{person.name}", json={"admin": False}).status_code == 200


def test_a_deleted_user_leaves_the_data_until_it_is_handed_over(people: People) -> None:
    person = people("zoe")
    person.run(quick())
    person.shell("echo precious > ~/thesis")
    volume = home_volume(person.deployment.settings.deployment, "zoe")
    delete_user(person)
    until(lambda: person.state() is None, 20)
    home = home_of(person)
    assert home is not None and home.user_deleted_at is not None
    assert volume in volumes(person.deployment)
    # Whoever comes under that name is somebody else.
    heir = people("zoe")
    answer = heir.post(quick())
    assert answer.status_code == 409
    assert "dcloud homes adopt zoe" in answer.json()["message"]
    assert heir.workload() is None
    assert not heir.platform.engine.observe()
    assert user_homes.adopt_home(heir.platform, "zoe", ADMIN)
    heir.run(quick())
    assert heir.shell("cat ~/thesis") == "precious\n"
    heir.end()
    actions = [row.action for row in action_log(heir.platform, "zoe") if "home" in row.action]
    assert actions == ["home.create", "home.keep", "home.adopt"]


def test_a_home_used_by_named_servers_only_is_kept_too(people: People) -> None:
    person = people("una")
    person.run(quick(), "second")
    person.shell("echo precious > ~/thesis", "second")
    delete_user(person)
    heir = people("una")
    assert heir.post(quick(), "third").status_code == 409
    assert heir.post(quick()).status_code == 409


def test_a_purged_home_is_gone_and_the_next_user_begins_anew(people: People) -> None:
    person = people("yan")
    person.run(quick())
    person.shell("echo secret > ~/diary")
    person.end()
    delete_user(person)
    assert user_homes.purge_home(person.platform, "yan", ADMIN)
    assert home_of(person) is None
    volume = home_volume(person.deployment.settings.deployment, "yan")
    assert volume not in volumes(person.deployment)
    heir = people("yan")
    heir.run(quick())
    assert heir.shell("ls -A ~ | grep -c diary") == "0\n"
    assert not user_homes.purge_home(heir.platform, "nobody-known", ADMIN)


def test_a_home_in_use_is_not_purged(people: People) -> None:
    running, waiting = people.many(2)
    running.run(quick(4))
    waiting.run(quick())
    waiting.end()  # so that there is a home
    waiting.start(quick(1))
    assert waiting.state() is State.QUEUED
    for person in (running, waiting):
        with pytest.raises(Conflict, match="still runs or waits"):
            user_homes.purge_home(person.platform, person.name, ADMIN)
        home = home_of(person)
        assert home is not None and home.user_deleted_at is None
        assert home.volume in volumes(person.deployment)
    assert running.shell("touch ~/still-mine && echo done") == "done\n"


def test_deleting_a_user_who_waits_leaves_the_queue(people: People) -> None:
    holder, person = people.many(2)
    holder.run(quick(4))
    person.start(quick(1))
    assert person.state() is State.QUEUED
    workload = person.workload()
    assert workload is not None
    delete_user(person)
    assert person.state() is None
    last = action_log(person.platform, workload.id)[-1]
    assert (last.action, last.actor) == ("workload.cancel", "tester")


def test_deleting_a_user_ends_all_servers_first(people: People) -> None:
    person = people()
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda name: person.run(quick(1), name), ("", "second", "third")))
    person.start(quick(2), "fourth")  # waits
    delete_user(person)
    assert not person.platform.engine.observe()
    assert person.past() == []  # whoever takes the name next has run nothing
    with person.platform.database.reading() as connection:
        ended = workloads.in_states(connection, (State.ENDED,))
    theirs = [row for row in ended if row.user.startswith(f"{person.name} (deleted, ")]
    assert {row.end_reason for row in theirs} == {"stopped", "cancelled"}
    assert home_of(person) is not None
    with person.deployment.api() as api:
        assert api.get(f"/users/{person.name}").status_code == 404


def test_sizes_are_measured_and_shown(people: People) -> None:
    person = people()
    person.run(quick())
    person.shell("head -c 5000000 /dev/urandom > ~/data")

    def measured() -> bool:
        home = home_of(person)
        return home is not None and (home.size_bytes or 0) >= 5_000_000

    until(measured, 60, "the measurement")
    home = home_of(person)
    assert home is not None and home.size_bytes is not None and home.size_bytes < 6_000_000
