"""The decisions of sign-in, with a clock that a test can turn. Both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from dcloud_spawner.authenticator.accounts import PENDING_PER_ADDRESS, Accounts
from dcloud_spawner.authenticator.attempts import (
    FREE_FAILURES_PER_ADDRESS,
    SLOWEST_SECONDS,
    Attempts,
    address_key,
)
from dcloud_spawner.authenticator.people import people, sign_ups
from dcloud_spawner.errors import Conflict, NotAllowed, NotFound, TooManyAttempts, UserError
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import events, homes, logins
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.logins import LoginStatus

BOSS = Actor("boss", "10.0.0.1")


class Clock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, Settings(), clock)


@pytest.fixture
def attempts(database: Database, clock: Clock) -> Attempts:
    return Attempts(database, Settings(), clock)


def _fail(attempts: Attempts, name: str, address: str = "10.0.0.9") -> Exception:
    return attempts.failed(attempts.begin(name, address), address)


def _approved(accounts: Accounts, name: str, password_hash: str = "hash") -> None:
    accounts.sign_up(name, password_hash, "", "10.0.0.2")
    accounts.approve(name, BOSS)


@pytest.mark.parametrize("exists", [True, False])
def test_a_name_is_locked_out_after_five_failures_whether_or_not_it_exists(
    accounts: Accounts, attempts: Attempts, exists: bool
) -> None:
    if exists:
        _approved(accounts, "ada")
    for _ in range(4):
        assert isinstance(_fail(attempts, "ada"), NotAllowed)
    last = _fail(attempts, "ada")
    assert isinstance(last, TooManyAttempts) and "12:15 UTC" in last.message
    with pytest.raises(TooManyAttempts, match="until 12:15 UTC"):
        attempts.begin("ada", "10.0.0.77")


def test_a_lock_out_ends_by_itself_and_is_not_made_longer_by_trying(
    attempts: Attempts, clock: Clock
) -> None:
    for _ in range(5):
        _fail(attempts, "ada")
    clock.turn(minutes=14)
    with pytest.raises(TooManyAttempts, match="12:15"):
        attempts.begin("ada", "10.0.0.9")
    clock.turn(minutes=1)
    assert isinstance(_fail(attempts, "ada"), NotAllowed)


def test_failures_long_ago_do_not_count(attempts: Attempts, clock: Clock) -> None:
    for _ in range(20):
        assert isinstance(_fail(attempts, "ada"), NotAllowed)
        clock.turn(minutes=5)


def test_many_tries_at_once_are_no_more_tries(attempts: Attempts) -> None:
    passed, lock = 0, threading.Lock()

    def attempt() -> None:
        nonlocal passed
        try:
            attempts.begin("ada", "10.0.0.9")
        except TooManyAttempts:
            return
        with lock:
            passed += 1

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == 5


def test_the_right_password_forgets_the_failures(accounts: Accounts, attempts: Attempts) -> None:
    _approved(accounts, "ada")
    for _ in range(3):
        for _ in range(4):
            _fail(attempts, "ada")
        attempts.succeeded(attempts.begin("ada", "10.0.0.9"), "10.0.0.9")


def test_an_address_is_slowed_down_and_never_shut_out(attempts: Attempts) -> None:
    delays = [attempts.begin(f"name{n}", "10.0.0.9").delay_seconds for n in range(60)]
    assert delays[:FREE_FAILURES_PER_ADDRESS] == [0.0] * FREE_FAILURES_PER_ADDRESS
    assert delays == sorted(delays) and delays[-1] == SLOWEST_SECONDS
    assert attempts.begin("somebody", "10.0.0.10").delay_seconds == 0


def test_a_right_password_does_not_slow_its_address_down(
    accounts: Accounts, attempts: Attempts
) -> None:
    _approved(accounts, "ada")
    for _ in range(50):
        attempts.succeeded(attempts.begin("ada", "10.0.0.9"), "10.0.0.9")
    assert attempts.begin("ada", "10.0.0.9").delay_seconds == 0


def test_a_whole_ipv6_network_of_one_customer_counts_as_one_address() -> None:
    assert address_key("2001:db8:1:2::5") == address_key("2001:db8:1:2:ffff::9")
    assert address_key("2001:db8:1:2::5") != address_key("2001:db8:1:3::5")
    assert address_key("nonsense") == address_key("")


def test_old_failures_do_not_fill_the_database(
    database: Database, attempts: Attempts, clock: Clock
) -> None:
    for n in range(40):
        attempts.begin(f"name{n}", f"10.0.1.{n}")
    clock.turn(hours=1)
    attempts.begin("ada", "10.0.0.9")
    with database.reading() as connection:
        count = len(connection.execute(logins.sign_in_failures.select()).all())
    assert count == 2


def test_a_password_changed_meanwhile_lets_the_old_one_no_longer_in(
    accounts: Accounts, attempts: Attempts
) -> None:
    _approved(accounts, "ada", "old hash")
    attempt = attempts.begin("ada", "10.0.0.9")
    link = accounts.make_link("ada", BOSS)
    accounts.use_link(link.token, "new hash", "10.0.0.3")
    with pytest.raises(NotAllowed):
        attempts.succeeded(attempt, "10.0.0.9")


@pytest.mark.parametrize(("act", "word"), [("lock", "locked"), (None, "waits for")])
def test_the_right_password_alone_lets_nobody_in(
    accounts: Accounts, attempts: Attempts, act: str | None, word: str
) -> None:
    accounts.sign_up("ada", "hash", "", "10.0.0.2")
    if act == "lock":
        accounts.approve("ada", BOSS)
        accounts.lock("ada", BOSS)
    with pytest.raises(NotAllowed, match=word):
        attempts.succeeded(attempts.begin("ada", "10.0.0.9"), "10.0.0.9")


def test_failing_on_purpose_does_not_keep_the_owner_out_of_a_browser_of_theirs(
    accounts: Accounts, attempts: Attempts
) -> None:
    _approved(accounts, "ada")
    for _ in range(5):
        _fail(attempts, "ada")
    attempts.succeeded(attempts.begin("ada", "10.0.0.2", "b1"), "10.0.0.2")
    for _ in range(5):
        attempts.begin("ada", "10.0.0.2", "b1")
    with pytest.raises(TooManyAttempts):
        attempts.begin("ada", "10.0.0.2", "b1")
    accounts.unlock("ada", BOSS)
    for browser in ("", "b1"):
        attempts.begin("ada", "10.0.0.2", browser)


def test_unlocking_one_name_unlocks_no_other(accounts: Accounts, attempts: Attempts) -> None:
    for name in ("a_a", "aba", "a_a.b"):
        _approved(accounts, name)
        for browser in ("", "b1"):
            for _ in range(5):
                attempts.begin(name, "10.0.0.9", browser)
    accounts.unlock("a_a", BOSS)
    _, locked_out, _ = accounts.overview()
    assert set(locked_out) == {"aba", "a_a.b"}


def test_a_sign_up_cannot_take_a_name_that_is_there(accounts: Accounts) -> None:
    _approved(accounts, "ada", "first")
    with pytest.raises(Conflict, match="taken"):
        accounts.sign_up("ada", "second", "", "10.0.0.66")
    found = accounts.find("ada")
    assert found is not None and found.password_hash == "first"


def test_one_address_cannot_fill_the_list_of_sign_ups(accounts: Accounts) -> None:
    for n in range(PENDING_PER_ADDRESS):
        accounts.sign_up(f"spam{n}", "hash", "", "10.0.0.66")
    with pytest.raises(TooManyAttempts):
        accounts.sign_up("spam", "hash", "", "10.0.0.66")
    accounts.sign_up("ada", "hash", "", "10.0.0.2")


def test_what_was_approved_is_what_the_administrator_saw(accounts: Accounts, clock: Clock) -> None:
    accounts.sign_up("ada", "hash of ada", "Ada", "10.0.0.2")
    seen = clock.now
    accounts.decline("ada", Actor("other boss"))
    clock.turn(seconds=5)
    accounts.sign_up("ada", "hash of mallory", "Ada", "10.0.0.66")
    with pytest.raises(Conflict, match="another sign-up"):
        accounts.approve("ada", BOSS, seen=seen)


def test_approving_twice_changes_nothing_more(accounts: Accounts) -> None:
    _approved(accounts, "ada")
    with pytest.raises(Conflict):
        accounts.approve("ada", BOSS)
    accounts.lock("ada", BOSS)
    with pytest.raises(Conflict):
        accounts.approve("ada", BOSS)


def test_an_administrator_cannot_lock_themselves(accounts: Accounts) -> None:
    _approved(accounts, "boss")
    with pytest.raises(Conflict, match="yourself"):
        accounts.lock("boss", BOSS)


def test_a_link_works_once(accounts: Accounts) -> None:
    _approved(accounts, "ada")
    link = accounts.make_link("ada", BOSS)
    assert accounts.link_owner(link.token) == "ada"
    assert accounts.use_link(link.token, "new", "10.0.0.3") == "ada"
    for use in (lambda: accounts.link_owner(link.token), lambda: _use(accounts, link.token)):
        with pytest.raises(NotAllowed, match="used"):
            use()


def _use(accounts: Accounts, token: str) -> str:
    return accounts.use_link(token, "stolen", "10.0.0.66")


def test_a_link_ends_with_time_with_a_newer_one_and_with_a_lock(
    accounts: Accounts, clock: Clock
) -> None:
    _approved(accounts, "ada")
    first = accounts.make_link("ada", BOSS)
    second = accounts.make_link("ada", BOSS)
    with pytest.raises(NotAllowed):
        _use(accounts, first.token)
    clock.turn(hours=24)
    with pytest.raises(NotAllowed):
        _use(accounts, second.token)
    third = accounts.make_link("ada", BOSS)
    accounts.lock("ada", BOSS)
    accounts.unlock("ada", BOSS)
    with pytest.raises(NotAllowed):
        _use(accounts, third.token)


def test_the_database_holds_no_token(database: Database, accounts: Accounts) -> None:
    _approved(accounts, "ada")
    link = accounts.make_link("ada", BOSS)
    with database.reading() as connection:
        rows = [str(row) for row in connection.execute(logins.logins.select())]
        rows += [str(row) for row in connection.execute(events.events.select())]
    assert rows and not any(link.token in row for row in rows)
    assert link.token not in repr(link)


@pytest.mark.parametrize("status", ["pending", "locked", "nobody"])
def test_there_is_no_link_for_somebody_who_may_not_sign_in(accounts: Accounts, status: str) -> None:
    if status == "pending":
        accounts.sign_up("ada", "hash", "", "10.0.0.2")
    if status == "locked":
        _approved(accounts, "ada")
        accounts.lock("ada", BOSS)
    with pytest.raises((Conflict, NotFound)):
        accounts.make_link("ada", BOSS)


def test_the_first_administrators_link_throws_a_strangers_password_away(
    accounts: Accounts, attempts: Attempts
) -> None:
    accounts.sign_up("admin", "hash of mallory", "I am the admin", "10.0.0.66")
    link = accounts.make_admin_link("admin", Actor("command line"))
    assert link is not None
    assert attempts.begin("admin", "10.0.0.66").password_hash == ""
    accounts.use_link(link.token, "hash of boss", "10.0.0.1")
    login = attempts.succeeded(attempts.begin("admin", "10.0.0.1"), "10.0.0.1")
    assert login.grants_admin and login.note == ""


def test_an_unused_administrators_link_grants_nothing(accounts: Accounts) -> None:
    accounts.make_admin_link("admin", Actor("command line"))
    found = accounts.find("admin")
    assert found is not None and not found.grants_admin
    plain = accounts.make_link("admin", BOSS)
    accounts.use_link(plain.token, "hash", "10.0.0.1")
    found = accounts.find("admin")
    assert found is not None and not found.grants_admin


def test_there_is_a_first_administrator_once(accounts: Accounts) -> None:
    first = accounts.make_admin_link("admin", Actor("command line"))
    again = accounts.make_admin_link("admin", Actor("command line"))
    assert first is not None and again is not None
    with pytest.raises(NotAllowed):
        _use(accounts, first.token)
    accounts.use_link(again.token, "hash", "10.0.0.1")
    assert accounts.make_admin_link("root", Actor("command line")) is None
    assert accounts.make_admin_link("root", Actor("command line"), again=True) is not None


def test_every_change_has_its_row_in_the_log_and_a_refused_one_has_none(
    database: Database, accounts: Accounts, attempts: Attempts
) -> None:
    accounts.sign_up("ada", "hash", "", "10.0.0.2")
    accounts.approve("ada", BOSS)
    attempts.succeeded(attempts.begin("ada", "10.0.0.2"), "10.0.0.2")
    for _ in range(5):
        _fail(attempts, "ada", "10.0.0.66")
    accounts.unlock("ada", BOSS)
    accounts.lock("ada", BOSS)
    with pytest.raises(UserError):
        accounts.lock("ada", BOSS)
    accounts.unlock("ada", BOSS)
    accounts.use_link(accounts.make_link("ada", BOSS).token, "new", "10.0.0.2")
    accounts.remove("ada", Actor("hub"))
    with database.reading() as connection:
        rows = events.read(connection, target="ada")
        assert list(events.verify(connection)) == []
    assert [(row.action, row.actor, row.source) for row in rows] == [
        ("login.sign-up", "ada", "10.0.0.2"),
        ("login.approve", "boss", "10.0.0.1"),
        ("login.sign-in", "ada", "10.0.0.2"),
        ("login.lockout", "visitor", "10.0.0.66"),
        ("login.unlock", "boss", "10.0.0.1"),
        ("login.lock", "boss", "10.0.0.1"),
        ("login.unlock", "boss", "10.0.0.1"),
        ("login.link", "boss", "10.0.0.1"),
        ("login.link-used", "ada", "10.0.0.2"),
        ("login.remove", "hub", ""),
    ]


def test_the_administrator_is_warned_what_an_approval_would_hand_over(
    database: Database, accounts: Accounts, clock: Clock
) -> None:
    for name in ("plain", "wished", "chief", "known", "former"):
        accounts.sign_up(name, "hash", "", "10.0.0.2")
    with database.transaction() as connection:
        homes.insert(connection, "volume", "former", clock.now)
    every, _, kept = accounts.overview()
    found = {
        one.name: " ".join(one.cautions)
        for one in sign_ups(every, {"chief": True, "known": False}, kept, ("wished",))
    }
    assert found["plain"] == ""
    assert "administrator" in found["wished"] and "administrator" in found["chief"]
    assert "hands that user to them" in found["known"]
    assert "files" in found["former"]


def test_the_list_of_people_says_who_is_kept_out_and_who_has_no_password(
    accounts: Accounts, attempts: Attempts
) -> None:
    for name in ("ada", "bob", "eve"):
        _approved(accounts, name)
    accounts.lock("eve", BOSS)
    for _ in range(5):
        _fail(attempts, "bob")
    accounts.sign_up("new", "hash", "", "10.0.0.2")
    every, locked_out, _ = accounts.overview()
    found = {
        one.name: one.state for one in people(every, {"guest": False, "ada": True}, locked_out)
    }
    assert found == {"ada": "ok", "bob": "locked-out", "eve": "locked", "guest": "invited"}


def test_status_words_are_the_ones_in_the_database(database: Database, accounts: Accounts) -> None:
    accounts.sign_up("ada", "hash", "", "10.0.0.2")
    with database.reading() as connection:
        assert logins.count(connection, LoginStatus.PENDING) == 1
