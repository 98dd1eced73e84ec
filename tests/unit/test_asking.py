"""Asking for more: what is refused, what a grant gives, and that a request is answered once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dcloud_spawner import accounting, asking, deleted_users, limits
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.roles import DEFAULT_ROLES
from dcloud_spawner.store import accounts, asks, entries, events
from dcloud_spawner.store.accounts import Account, Role
from dcloud_spawner.store.asks import Ask, AskState, NewAsk, What
from dcloud_spawner.store.events import Actor
from tests.memory_engine import MemoryEngine, node
from tests.platforms import ALICE, actions, opened, settings_for

BOSS = Actor("boss", "10.0.0.2")
OTHER = Actor("other-boss", "10.0.0.3")
BOB = Actor("bob", "10.0.0.8")
CREDIT = asking.CREDIT


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    with opened(
        settings_for(database_url, tmp_path, roles=dict(DEFAULT_ROLES)), MemoryEngine(node())
    ) as found:
        yield found


def new(what: What = What.CREDITS, value: Any = 40 * CREDIT, **values: Any) -> NewAsk:
    """A request for a week."""
    given: dict[str, Any] = {
        "reason": "The paper is due in May.",
        "until": utc_now() + timedelta(days=7),
        **values,
    }
    return NewAsk(what, value, **given)


def own(platform: Platform, user: str = "alice") -> Account:
    with platform.database.reading() as connection:
        found = accounts.personal(connection, user)
    assert found is not None
    return found


def kept(platform: Platform, found: Ask) -> Ask:
    with platform.database.reading() as connection:
        row = asks.find(connection, found.id)
    assert row is not None
    return row


def limit_of(platform: Platform, name: str, user: str = "alice") -> Any:
    with platform.database.reading() as connection:
        mine = limits.standing(connection, platform.settings, user, utc_now())
    return getattr(mine.limits, name)


def entries_of(platform: Platform, account: Account) -> list[entries.Entry]:
    with platform.database.reading() as connection:
        return entries.page(connection, account.id)


# ---------------------------------------------------------------------------- asked


def test_what_is_asked_for_is_kept_and_logged(platform: Platform) -> None:
    made = asking.ask(platform, new(reason="  The paper is due. "), ALICE)
    found = kept(platform, made)
    assert found == made
    assert (found.user, found.state, found.value) == ("alice", AskState.OPEN, 40 * CREDIT)
    assert (found.account, found.reason) == (own(platform).id, "The paper is due.")
    assert actions(platform, made.id) == ["ask.create"]


WRONG = [
    ("value", new(value=0)),
    ("value", new(value=-CREDIT)),
    ("value", new(value=asking.LARGEST_MICROCREDITS + 1)),
    ("value", new(value=1.5)),
    ("value", new(value=True)),
    ("value", new(value=None)),
    ("value", new(What.LIMIT, None, limit="gpus")),
    ("value", new(What.LIMIT, "four", limit="gpus")),
    ("value", new(What.LIMIT, -1, limit="gpus")),
    ("value", new(What.LIMIT, float("nan"), limit="memory_gib")),
    ("value", new(What.ROLE, "emperor")),
    ("limit", new(What.LIMIT, 4, limit="gpu")),
    ("limit", new(What.LIMIT, 4, limit="")),
    ("value", new(What.LIMIT, "premium", limit="role")),
    ("reason", new(reason=" x ")),
    ("reason", new(reason="x" * 501)),
    ("until", new(until=None)),
    ("until", new(until=utc_now() - timedelta(minutes=1))),
    ("until", new(until=utc_now() + timedelta(days=4000))),
    ("until", new(until=(utc_now() + timedelta(days=1)).replace(tzinfo=None))),
]


def test_what_makes_no_sense_is_refused_by_its_field(platform: Platform) -> None:
    for field, wrong in WRONG:
        with pytest.raises(InvalidChoice) as refused:
            asking.ask(platform, wrong, ALICE)
        assert refused.value.field == field, wrong
    with platform.database.reading() as connection:
        assert not asks.open_asks(connection)


def test_credits_are_asked_for_ones_own_projects_only(platform: Platform) -> None:
    lab = accounting.create_project(platform, "lab", ["bob"], BOSS)
    with pytest.raises(NotFound):
        asking.ask(platform, new(account=lab.id), ALICE)
    with pytest.raises(NotFound):
        asking.ask(platform, new(account="nothing"), ALICE)
    accounting.set_member(platform, lab.id, "alice", Role.MEMBER, BOSS)
    assert asking.ask(platform, new(account=lab.id), ALICE).account == lab.id
    accounting.change_account(platform, lab.id, BOSS, closed=True)
    with pytest.raises(Conflict):
        asking.ask(platform, new(account=lab.id), BOB)


def test_nobody_asks_for_anothers_own_account(platform: Platform) -> None:
    asking.ask(platform, new(), BOB)
    with pytest.raises(NotFound):
        asking.ask(platform, new(account=own(platform, "bob").id), ALICE)


def test_the_same_is_asked_for_once(platform: Platform) -> None:
    first = asking.ask(platform, new(), ALICE)
    with pytest.raises(Conflict) as refused:
        asking.ask(platform, new(value=CREDIT), ALICE)
    assert refused.value.code == "asked_already"
    asking.withdraw(platform, first.id, ALICE)
    asking.ask(platform, new(value=CREDIT), ALICE)


def test_what_somebody_has_already_is_not_asked_for(platform: Platform) -> None:
    for wish in (
        new(What.LIMIT, 2, limit="gpus"),  # as much as the role standard gives
        new(What.LIMIT, 8, limit="cpus"),  # there is no limit
        new(What.ROLE, "standard"),
    ):
        with pytest.raises(Conflict) as refused:
            asking.ask(platform, wish, ALICE)
        assert refused.value.code == "have_already"
    with pytest.raises(Conflict):
        asking.ask(platform, new(What.ROLE, "premium"), ALICE, groups=["premium"])


def test_requests_do_not_pile_up(platform: Platform) -> None:
    for number in range(asking.MOST_OPEN):
        lab = accounting.create_project(platform, f"lab-{number}", ["alice"], BOSS)
        asking.ask(platform, new(account=lab.id), ALICE)
    with pytest.raises(Conflict) as refused:
        asking.ask(platform, new(), ALICE)
    assert refused.value.code == "too_many_open"


# ---------------------------------------------------------------------------- answered


def test_granted_credits_are_on_the_account_until_the_end(platform: Platform) -> None:
    made = asking.ask(platform, new(), ALICE)
    done = asking.grant(platform, made.id, BOSS)
    assert (done.state, done.given, done.given_until) == (AskState.GRANTED, made.value, made.until)
    assert not done.in_part and done.answered_by == "boss"
    account = own(platform)
    assert account.balance_microcredits == 40 * CREDIT
    (entry,) = entries_of(platform, account)
    assert (entry.kind, entry.actor) == (entries.Kind.GRANT, "boss")
    assert "The paper is due in May." in entry.reason
    with platform.database.reading() as connection:
        (lot,) = entries.open_lots(connection, account.id)
        assert lot.expires_at == made.until
        assert list(events.verify(connection)) == []
    assert actions(platform, made.id) == ["ask.create", "ask.grant"]


def test_a_part_is_granted_with_another_end_and_words(platform: Platform) -> None:
    made = asking.ask(platform, new(), ALICE)
    until = utc_now() + timedelta(days=3)
    done = asking.grant(
        platform, made.id, BOSS, value=10 * CREDIT, until=until, words="A start; ask again then."
    )
    assert (done.given, done.given_until, done.in_part) == (10 * CREDIT, until, True)
    assert kept(platform, made).answer == "A start; ask again then."
    assert own(platform).balance_microcredits == 10 * CREDIT


def test_a_granted_limit_holds_until_its_end(platform: Platform) -> None:
    made = asking.ask(platform, new(What.LIMIT, 4, limit="gpus"), ALICE)
    assert limit_of(platform, "gpus") == 2
    asking.grant(platform, made.id, BOSS, value=3, endless=True)
    assert limit_of(platform, "gpus") == 3
    done = kept(platform, made)
    assert (done.given, done.given_until, done.in_part) == (3, None, True)


def test_granted_gpu_models_come_back_as_names(platform: Platform) -> None:
    asking_for = ("A100", "H100")
    with platform.database.transaction() as connection:
        limits.override(
            connection,
            platform.settings,
            "alice",
            "gpu_models",
            ("L4",),
            actor=BOSS,
            reason="for now",
            at=utc_now(),
        )
    made = asking.ask(platform, new(What.LIMIT, asking_for, limit="gpu_models"), ALICE)
    assert kept(platform, made).value == asking_for
    asking.grant(platform, made.id, BOSS)
    assert limit_of(platform, "gpu_models") == asking_for
    assert kept(platform, made).given == asking_for


def test_a_granted_role_gives_its_limits(platform: Platform) -> None:
    made = asking.ask(platform, new(What.ROLE, "premium"), ALICE)
    asking.grant(platform, made.id, BOSS)
    assert limit_of(platform, "memory_gib") == 64


def test_declining_gives_nothing_and_says_why(platform: Platform) -> None:
    made = asking.ask(platform, new(), ALICE)
    with pytest.raises(InvalidChoice):
        asking.decline(platform, made.id, " ", BOSS)
    done = asking.decline(platform, made.id, "The budget of this year is spent.", BOSS)
    assert (done.state, done.answer) == (AskState.DECLINED, "The budget of this year is spent.")
    assert own(platform).balance_microcredits == 0


def test_a_closed_request_is_not_answered_again(platform: Platform) -> None:
    ways = ("grant", "decline", "withdraw")
    for first, second in itertools.product(ways, ways):
        made = asking.ask(platform, new(), ALICE)
        act(platform, first, made)
        before = own(platform).balance_microcredits, kept(platform, made)
        with pytest.raises(Conflict) as refused:
            act(platform, second, made)
        assert refused.value.code == "answered_already"
        assert (own(platform).balance_microcredits, kept(platform, made)) == before


def act(platform: Platform, name: str, found: Ask, by: Actor = BOSS) -> None:
    if name == "grant":
        asking.grant(platform, found.id, by)
    elif name == "decline":
        asking.decline(platform, found.id, "Not this year.", by)
    else:
        asking.withdraw(platform, found.id, ALICE)


def test_of_answers_at_the_same_time_one_counts(platform: Platform) -> None:
    for _ in range(5):
        made = asking.ask(platform, new(), ALICE)
        before = own(platform).balance_microcredits
        together = threading.Barrier(4)
        outcomes: list[str] = []

        def answer(name: str, by: Actor, made: Ask = made, together: Any = together) -> None:
            together.wait()
            try:
                act(platform, name, made, by)
                outcomes.append(name)  # noqa: B023
            except UserError as error:
                outcomes.append(error.code)  # noqa: B023

        threads = [
            threading.Thread(target=answer, args=args)
            for args in (("grant", BOSS), ("grant", OTHER), ("decline", OTHER), ("withdraw", ALICE))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("answered_already") == 3
        (won,) = set(outcomes) - {"answered_already"}
        given = 40 * CREDIT if won == "grant" else 0
        assert own(platform).balance_microcredits == before + given
        assert kept(platform, made).state.value.startswith(won[:6])
        assert len(actions(platform, made.id)) == 2


def test_what_cannot_be_given_leaves_the_request_open(platform: Platform) -> None:
    made = asking.ask(platform, new(), ALICE)
    for wrong in ({"value": 0}, {"value": "much"}, {"until": utc_now() - timedelta(days=1)}):
        with pytest.raises(InvalidChoice):
            asking.grant(platform, made.id, BOSS, **wrong)
    assert kept(platform, made).state is AskState.OPEN
    assert own(platform).balance_microcredits == 0
    asking.grant(platform, made.id, BOSS)


def test_nothing_is_given_to_a_project_that_was_closed_meanwhile(platform: Platform) -> None:
    lab = accounting.create_project(platform, "lab", ["alice"], BOSS)
    made = asking.ask(platform, new(account=lab.id), ALICE)
    accounting.change_account(platform, lab.id, BOSS, closed=True)
    with pytest.raises(Conflict) as refused:
        asking.grant(platform, made.id, BOSS)
    assert refused.value.code == "account_closed"
    assert kept(platform, made).state is AskState.OPEN
    asking.decline(platform, made.id, "The project is over.", BOSS)


def test_whoever_takes_a_deleted_users_name_reads_nothing_of_what_they_asked(
    platform: Platform,
) -> None:
    answered = asking.ask(platform, new(), ALICE)
    asking.decline(platform, answered.id, "Not this year.", BOSS)
    still_open = asking.ask(platform, new(), ALICE)
    deleted_users.let_go(platform, "alice", BOSS)
    with platform.database.reading() as connection:
        assert asks.page(connection, user="alice") == []
        assert {found.id for found in asks.page(connection)} == {answered.id, still_open.id}
        assert all(found.user.startswith("alice (deleted") for found in asks.page(connection))
    assert kept(platform, still_open).state is AskState.WITHDRAWN
    asking.ask(platform, new(), ALICE)


def test_nobody_withdraws_for_another(platform: Platform) -> None:
    made = asking.ask(platform, new(), ALICE)
    with pytest.raises(NotFound):
        asking.withdraw(platform, made.id, BOB)
    with pytest.raises(NotFound):
        asking.grant(platform, "0" * 32, BOSS)


def test_history_is_read_in_parts_the_newest_first(platform: Platform) -> None:
    made = []
    for number in range(5):
        made.append(asking.ask(platform, new(value=(number + 1) * CREDIT), ALICE))
        asking.decline(platform, made[-1].id, "Not this year.", BOSS)
    asking.ask(platform, new(), BOB)
    with platform.database.reading() as connection:
        first = asks.page(connection, user="alice", limit=3)
        rest = asks.page(connection, user="alice", limit=3, before=first[-1].id)
        assert [found.id for found in (*first, *rest)] == [found.id for found in reversed(made)]
        assert len(asks.page(connection)) == 6
        assert [found.user for found in asks.page(connection, state=AskState.OPEN)] == ["bob"]
        assert asks.count_open(connection) == 1
        assert asks.page(connection, before="nothing") == []
