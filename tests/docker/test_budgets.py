"""Budgets on the real engine: one of two starts, the end at zero, warnings, what is set aside.

A GPU costs one credit a second here, so that a budget ends within a test. What a first hour costs
is there until a server runs; then most of it is taken away.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcloud_spawner import accounting, granting, transfers
from dcloud_spawner.budget_funds import read_funds
from dcloud_spawner.charging import NEVER_READY
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, entries, meters, rates
from dcloud_spawner.store.accounts import Account, Budget, Role
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from tests.docker.people import (
    People,
    Person,
    action_log,
    built_image,
    quick,
    signed_in,
    until,
)
from tests.hub.sign_in import Visitor
from tests.live import Deployment
from tests.patience import patient

pytestmark = pytest.mark.docker

ADMIN = Actor("admin")
HOUR = 3600
"""Credits that an hour of one GPU costs."""

TICK = 6
"""Of the meter, in seconds: by no more may anything go on after its credits."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def more_settings() -> dict[str, Any]:
    return {"meter_seconds": TICK, "schedule_seconds": 1, "launch_timeout_seconds": patient(3)}


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path, base_image: str, tag: str) -> Iterator[Path]:
    """With ``broken``, whose container ends before it is ready."""
    with built_image(f"dcloud/broken:{tag}", f'FROM {base_image}\nCMD ["false"]\n') as image:
        quick_profile = (quick_profiles / "quick.yaml").read_text()
        broken = re.sub(r"image: .*", f"image: {image}", quick_profile)
        (quick_profiles / "broken.yaml").write_text(broken)
        yield quick_profiles


@pytest.fixture(scope="module", autouse=True)
def dear(deployment: Deployment) -> None:
    """One credit a second."""
    assert deployment.platform is not None
    with deployment.platform.database.transaction() as connection:
        now = utc_now()
        rates.add_rate(connection, Resource.GPU, HOUR * MICRO, now, created_by="admin", at=now)


def project(people: list[Person], budget: Budget = Budget.HARD) -> Account:
    """A project of some people, the first owns it."""
    platform, name = people[0].platform, f"lab{next(_numbers)}"
    made = accounting.create_project(platform, name, [people[0].name], ADMIN, budget=budget)
    for person in people[1:]:
        accounting.set_member(platform, made.id, person.name, Role.MEMBER, ADMIN)
    return made


def give(platform: Platform, account: Account, credits: float) -> None:
    """Credits for good."""
    granting.grant(platform, account.id, round(credits * MICRO), ADMIN, reason="for a test")


def take_all_but(platform: Platform, account: Account, credits: float) -> None:
    """Leave so much of its credits, with what its servers used and have not paid yet taken off."""
    with platform.database.reading() as connection:
        (funds,) = (f for f in read_funds(connection, utc_now()) if f.account.id == account.id)
    gone = funds.runway.left_microcredits - round(credits * MICRO)
    transfers.adjust(platform, account.id, -gone, ADMIN, reason="for a test")


def credits(platform: Platform, account: Account) -> tuple[float, float]:
    """The balance, and what of it is not set aside."""
    with platform.database.reading() as connection:
        found = accounts.get(connection, account.id)
        available = accounts.available_microcredits(connection, found)
    return found.balance_microcredits / MICRO, available / MICRO


def notices(person: Person) -> list[dict[str, Any]]:
    """What JupyterLab of the default server is told."""
    answer = httpx.get(
        f"{person.deployment.url}/hub/dcloud/notices",
        params={"user": person.name, "server": ""},
        headers={"Authorization": f"token {person.token}"},
        trust_env=False,
    )
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["notices"]
    return found


def ends_of(person: Person) -> datetime | None:
    """When the budget ends what this person runs."""
    workload = person.workload()
    return workload.budget_ends_at if workload else None


def warned(person: Person, account: Account) -> list[str]:
    """Levels of the warnings in the action log."""
    log = action_log(person.platform, account.id)
    return [str(row.detail["level"]) for row in log if row.action == "budget.warning"]


def test_of_two_starts_at_once_against_a_budget_for_one_exactly_one_is_admitted(
    people: People,
) -> None:
    both = people.many(2)
    lab = project(both)
    give(both[0].platform, lab, HOUR)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda person: person.start(quick(1, account=lab.name)), both))
    until(lambda: State.RUNNING in [person.state() for person in both], 20)
    (runs,) = (person for person in both if person.state() is State.RUNNING)
    (waits,) = (person for person in both if person is not runs)
    workload = waits.workload()
    assert workload is not None and (workload.state, workload.blocked) == (State.QUEUED, "budget")
    event = waits.progress()
    assert event["blocked"]["code"] == "budget"
    assert f"the first hour costs {HOUR:,}.00" in event["blocked"]["reason"]
    answer = waits.post(quick(2, account=lab.name), "more")
    assert answer.status_code == 403 and "credits left" in answer.text
    runs.end()
    give(runs.platform, lab, 60)  # what it used
    until(lambda: waits.state() is State.RUNNING, 15, "the start of the other")


@pytest.mark.parametrize("how", ["cancelled", "never ready", "failed"])
@pytest.mark.sqlite_suffices
def test_what_was_set_aside_is_free_again(people: People, how: str) -> None:
    person = people()
    lab = project([person])
    give(person.platform, lab, HOUR)
    profile = "broken" if how == "failed" else "silent"
    workload = person.start({**quick(1, account=lab.name), "profile": profile})
    if how != "failed":  # that one may be over already
        until(lambda: person.state() is State.STARTING, 10)
        assert credits(person.platform, lab) == (HOUR, 0)
    if how == "cancelled":
        person.stop()
    until(lambda: person.state() is None, 20, "the end of the start")
    with person.platform.database.reading() as connection:
        meter = meters.find(connection, workload.id)
        (entry,) = entries.of_workload(connection, workload.id)
    assert meter is not None and meter.held_microcredits == HOUR * MICRO
    assert (entry.microcredits, entry.reason) == (0, NEVER_READY)
    assert credits(person.platform, lab) == (HOUR, HOUR)


def test_warnings_come_in_time_and_at_zero_servers_stop_with_their_homes_safe(
    people: People,
) -> None:
    person, other = people.many(2)
    lab, platform = project([person, other]), person.platform
    give(platform, lab, 2 * HOUR)
    for each in (person, other):  # they share the end
        each.run(quick(1, account=lab.name))
    person.shell("echo kept > /home/dcloud/work.txt")
    take_all_but(platform, lab, 30)
    told: list[dict[str, Any]] = []
    until(lambda: told.extend(notices(person)) or told, 10, "the notice")
    (notice,) = told
    assert notice["level"] == "error" and notice["label"] == "Ask for more"
    assert notice["text"].startswith(f"{lab.name} has ") and "{at}" in notice["text"]
    until(lambda: not (person.state() or other.state()), 30, "the end at zero")
    over_seconds = 0.0
    (first,), (second,) = person.past(), other.past()
    for ended in (first, second):
        assert ended.end_reason == "budget"
        assert ended.engine_finished_at is not None and ended.budget_ends_at is not None
        late = (ended.engine_finished_at - ended.budget_ends_at).total_seconds()
        assert -1 <= late <= TICK, late
        over_seconds += late
    assert first.budget_ends_at == second.budget_ends_at
    balance, _ = credits(platform, lab)
    assert balance == pytest.approx(-over_seconds, abs=1), "by what they ran beyond it"
    until(lambda: warned(person, lab)[-1:] == ["out"], 2 * TICK, "the last warning on the log")
    assert "now" in warned(person, lab)
    assert len(warned(person, lab)) == len(set(warned(person, lab))), "each once"
    assert person.post(quick(1, account=lab.name)).status_code == 403
    give(platform, lab, 2 * HOUR)
    person.run(quick(1, account=lab.name))
    assert person.shell("cat /home/dcloud/work.txt") == "kept\n"


def acts_on(platform: Platform, account: str) -> list[str]:
    return [line.action for line in action_log(platform, account)]


@pytest.mark.sqlite_suffices
def test_credits_in_time_withdraw_the_end(people: People) -> None:
    person = people()
    lab, platform = project([person]), person.platform
    give(platform, lab, HOUR)
    person.run(quick(1, account=lab.name))
    take_all_but(platform, lab, 40)
    until(lambda: notices(person), 10)
    # Pages know it at once; what is well again on the log was a warning on it before.
    until(lambda: "budget.warning" in acts_on(platform, lab.id), 10, "the warning on the log")
    give(platform, lab, 20 * HOUR)
    until(lambda: not notices(person), 10, "the end of the warning")
    end = ends_of(person)
    assert end is None or end > utc_now() + timedelta(hours=19), "far away"
    until(lambda: "budget.well" in acts_on(platform, lab.id), 10, "the end on the log")


@pytest.mark.sqlite_suffices
def test_a_soft_budget_goes_on_until_somebody_else_needs_the_gpus(people: People) -> None:
    poor, rich = people.many(2)
    lab = project([poor], Budget.SOFT)
    poor.run(quick(4, account=lab.name))
    until(lambda: credits(poor.platform, lab)[0] < 0, 10, "the first charge")
    assert poor.state() is State.RUNNING
    rich.start(quick(1))

    def told() -> bool:
        found = poor.workload()
        return found is not None and found.notice_at is not None

    until(told, 10, "the notice")
    until(lambda: len(notices(poor)) == 2, 10, "the notice in JupyterLab")
    budget, stop = notices(poor)
    assert "go on until somebody else needs their GPUs" in budget["text"]
    assert "Its account has no credits left, and somebody else needs its place." in stop["text"]


@pytest.mark.sqlite_suffices
def test_a_warning_stands_on_every_page_of_those_whom_it_concerns(deployment: Deployment) -> None:
    platform = deployment.platform
    assert platform is not None
    with signed_in(deployment, "warned") as visitor:
        person = Person(deployment, "warned", deployment.user("warned"))
        lab = project([person])
        for path in ("/hub/home", "/services/dcloud/queue"):
            said = f"{lab.name} has no credits left."
            until(lambda path=path, said=said: said in page(visitor, path), 10, path)  # type: ignore[misc]
            assert "Ask for more" in page(visitor, path)
        assert "no credits left" in event(visitor, "/hub/dcloud/events/warned?show=servers")
        give(platform, lab, HOUR)
        until(lambda: lab.name not in event(visitor, "/services/dcloud/events/queue"), 10)


def event(visitor: Visitor, path: str) -> str:
    """What a page that is open is told of budgets."""
    with visitor.stream("GET", path) as stream:
        lines = stream.iter_lines()
        assert any(line == "event: budgets" for line in lines)
        return next(lines)


@pytest.mark.sqlite_suffices
def test_nobody_else_is_told_what_threatens_a_server(people: People) -> None:
    person, other = people.many(2)
    address = f"{person.deployment.url}/hub/dcloud/notices"

    def asked(token: str, **query: str) -> int:
        headers = {"Authorization": f"token {token}"} if token else {}
        return httpx.get(address, params=query, headers=headers, trust_env=False).status_code

    assert asked(person.token, user=person.name, server="") == 200
    assert asked(person.token, user=person.name, server="none") == 200
    for token in (other.token, person.deployment.token, "", "wrong"):
        assert asked(token, user=person.name, server="") == 403
    assert asked(person.token) == 403


def page(visitor: Visitor, path: str) -> str:
    """A page, signed in to the service on the way."""
    return visitor.get(path, follow_redirects=True).text
