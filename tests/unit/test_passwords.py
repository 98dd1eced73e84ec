"""Rules of names and passwords, and how passwords are kept."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from argon2 import PasswordHasher
from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.authenticator.gate import HashGate
from dcloud_spawner.authenticator.passwords import (
    check_name,
    check_password,
    hash_password,
    needs_rehash,
    verify_password,
)
from dcloud_spawner.errors import InvalidChoice, Unavailable


@pytest.mark.parametrize("name", ["a", "7", "ada", "ada.lovelace", "a_b-c.d", "x" * 63])
def test_a_plain_name_is_taken_as_it_is(name: str) -> None:
    assert check_name(name) == name


def test_case_and_blanks_around_do_not_make_another_name() -> None:
    assert check_name("  Ada ") == "ada"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        ".ada",
        "-ada",
        "_ada",
        "x" * 64,
        "a/b",
        "a b",
        "a%2f",
        "ada\x00",
        "../etc",
        "<b>",
        "ада",
        "ada\u200b",
        "\u212aing",  # the Kelvin sign, which lower-cases to k
        "adminı",
    ],
)
def test_a_name_that_no_account_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidChoice) as refused:
        check_name(name)
    assert refused.value.field == "username"


@given(st.text(max_size=70))
@settings(max_examples=300, deadline=None)
def test_a_name_that_passes_is_its_own_normal_form(text: str) -> None:
    try:
        name = check_name(text)
    except InvalidChoice:
        return
    assert name.isascii() and 1 <= len(name) <= 63 and check_name(name) == name


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "at least 10"),
        ("x" * 257, "at most 256"),
        ("ada2026!!!", "must not be the name"),
        ("1234567ada", "must not be the name"),
        ("ADA-000-000", "must not be the name"),
        ("password123", "guessing programs"),
        ("PassWord123", "guessing programs"),
        ("aaaaaaaaaaaa", "guessing programs"),
        ("abababababab", "guessing programs"),
        ("lone \ud800 surrogate", "cannot be kept"),
    ],
)
def test_a_weak_password_is_refused_with_the_rule_it_breaks(password: str, why: str) -> None:
    with pytest.raises(InvalidChoice, match=why) as refused:
        check_password(password, name="ada", min_length=10)
    assert refused.value.field == "password"


@pytest.mark.parametrize("password", ["plum orbit lantern", "ünïcödé wörds", "orbit-77 " * 20])
def test_a_long_unusual_password_is_taken(password: str) -> None:
    check_password(password, name="ada", min_length=10)


def test_what_is_kept_is_argon2id_with_a_salt_of_its_own() -> None:
    first, second = hash_password("plum orbit lantern"), hash_password("plum orbit lantern")
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second
    assert verify_password(first, "plum orbit lantern")
    assert not verify_password(first, "plum orbit lanterN")


def test_the_same_letters_from_another_keyboard_are_the_same_password() -> None:
    assert verify_password(hash_password("caf\u00e9 au lait"), "cafe\u0301 au lait")


@pytest.mark.parametrize("stored", ["", "no hash at all", "$argon2id$broken"])
@pytest.mark.parametrize("password", ["", "nobody has this one", "x" * 300, "\ud800"])
def test_nothing_is_the_password_of_an_account_without_one(stored: str, password: str) -> None:
    assert not verify_password(stored, password)


def test_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    stored = hash_password("plum orbit lantern")

    def seconds(kept: str) -> float:
        start = time.perf_counter()
        verify_password(kept, "a wrong password")
        return time.perf_counter() - start

    seconds("")
    # The least of several, taken in turn: the machine may be busy with other things.
    known, unknown = [], []
    for _ in range(4):
        known.append(seconds(stored))
        unknown.append(seconds(""))
    assert 0.5 < min(unknown) / min(known) < 2


def test_a_hash_of_weaker_parameters_is_to_be_made_anew() -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("plum orbit lantern")
    assert verify_password(weak, "plum orbit lantern")
    assert needs_rehash(weak) and not needs_rehash(hash_password("plum orbit lantern"))


async def test_only_a_few_hashes_run_at_once() -> None:
    gate, lock, running, most = HashGate(slots=2), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    await asyncio.gather(*(gate.run(f"10.0.0.{n % 3}", work) for n in range(20)))
    assert most == 2


async def test_a_flood_from_one_address_does_not_delay_another() -> None:
    gate, order = HashGate(slots=1), []

    def work(who: str) -> None:
        time.sleep(0.005)
        order.append(who)

    flood = [asyncio.create_task(gate.run("10.0.0.66", work, "flood")) for _ in range(50)]
    await asyncio.sleep(0.01)
    await gate.run("10.0.0.7", work, "other")
    assert len(order) < 10
    await asyncio.gather(*flood)


async def test_an_address_with_too_many_waiting_is_told_to_come_back() -> None:
    gate = HashGate(slots=1, waiting_per_address=3)
    release = threading.Event()
    tasks = [asyncio.create_task(gate.run("10.0.0.66", release.wait, 5)) for _ in range(6)]
    await asyncio.sleep(0.05)
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 2
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == 2


async def test_a_waiting_request_that_goes_away_leaves_no_hole() -> None:
    gate, release = HashGate(slots=1), threading.Event()
    first = asyncio.create_task(gate.run("10.0.0.1", release.wait, 5))
    await asyncio.sleep(0.02)
    gone = asyncio.create_task(gate.run("10.0.0.2", release.wait, 5))
    await asyncio.sleep(0.02)
    gone.cancel()
    first.cancel()
    release.set()
    await asyncio.gather(first, gone, return_exceptions=True)
    await asyncio.wait_for(gate.run("10.0.0.3", bool, 1), 2)
