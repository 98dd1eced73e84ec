"""What homes cost: once a day, by their measured size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import alembic.command
import alembic.config
import pytest

from dcloud_spawner import accounting, deleted_users, user_homes
from dcloud_spawner.datasets import quota
from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.ledger.rates import Resource
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.limits import limits_of
from dcloud_spawner.roles import RoleLimits
from dcloud_spawner.storage_charges import EVERY, charge_storage
from dcloud_spawner.store import accounts, datasets, entries, homes, migrations, storage_meters
from dcloud_spawner.store.accounts import Budget
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.entries import Entry, Kind, NewEntry
from hub_services.controller.homes import measure_homes
from tests.ledger_world import BEGINNING, BOSS, GIB, World, world
from tests.platforms import home, submit

pytestmark = pytest.mark.database

DAY = 86400
A_DAY = 30_000
"""Micro-credits for one GiB: the rate is for a month of 30 days."""


@pytest.fixture
def lab(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world(database_url, tmp_path, monkeypatch) as made:
        made.begin()
        accounting.change_rate(made.platform, Resource.STORAGE_GIB_MONTH, 30 * A_DAY, BOSS)
        yield made
        with made.platform.database.reading() as connection:
            assert list(verify(connection)) == []


def size(lab: World, monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    """All homes are so large, and were measured just now."""
    found = dict.fromkeys(lab.engine.volumes, int(gib * GIB))
    monkeypatch.setattr(lab.engine, "homes", lambda: found)
    measure_homes(lab.platform)


def days(lab: World, count: float) -> None:
    """Time goes by; the meter ticks a few times a day."""
    for _ in range(round(count * 4)):
        lab.clock.goes(DAY / 4)
        charge_storage(lab.platform)


def charges(lab: World, user: str) -> list[Entry]:
    with lab.platform.database.reading() as connection:
        account = accounts.personal(connection, user)
        found = entries.page(connection, account.id) if account else []
    return [entry for entry in reversed(found) if entry.key.startswith("storage:")]


def test_a_home_is_charged_once_a_day_from_when_it_was_first_seen(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 2.5)
    charge_storage(lab.platform)
    days(lab, 3)
    rows = charges(lab, "ann")
    assert [row.microcredits for row in rows] == [-A_DAY * 5 // 2] * 3
    assert [row.from_at for row in rows[1:]] == [row.until_at for row in rows[:-1]]


def test_a_clock_that_is_set_back_charges_no_day_twice(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 1)
    charge_storage(lab.platform)
    days(lab, 2)
    lab.clock.goes(-2 * DAY)
    days(lab, 2)
    assert len(charges(lab, "ann")) == 2


def test_a_rate_that_changes_counts_from_then_on(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 1)
    charge_storage(lab.platform)
    lab.clock.goes(DAY / 2)
    accounting.change_rate(lab.platform, Resource.STORAGE_GIB_MONTH, 60 * A_DAY, BOSS)
    days(lab, 0.5)
    assert [row.microcredits for row in charges(lab, "ann")] == [-A_DAY * 3 // 2]


def test_a_home_of_unknown_size_or_of_a_deleted_user_costs_nothing(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    charge_storage(lab.platform)
    days(lab, 2)
    size(lab, monkeypatch, 1)
    with lab.platform.database.transaction() as connection:
        user_homes.orphan_home(connection, "ann", BOSS)
    days(lab, 2)
    assert charges(lab, "ann") == []


def test_a_home_made_anew_is_not_charged_for_the_time_without_one(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 1)
    charge_storage(lab.platform)
    user_homes.purge_home(lab.platform, "ann", BOSS)
    lab.clock.goes(60 * DAY)
    home(lab.platform, "ann")
    size(lab, monkeypatch, 1)
    days(lab, 1.5)
    assert sum(-row.microcredits for row in charges(lab, "ann")) <= 2 * A_DAY


def test_a_home_made_before_the_clock_was_set_back_brings_no_credits(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 1)
    charge_storage(lab.platform)
    user_homes.purge_home(lab.platform, "ann", BOSS)
    lab.clock.goes(3 * DAY)
    home(lab.platform, "ann")
    size(lab, monkeypatch, 1)
    lab.clock.goes(-DAY)
    charge_storage(lab.platform)
    assert charges(lab, "ann") == []
    days(lab, 2)
    assert [row.microcredits for row in charges(lab, "ann")] == [-A_DAY]


def test_an_own_space_is_not_added_to_a_size_that_was_measured_with_it_before_an_upgrade(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 5)
    with lab.platform.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE homes SET space_bytes = NULL")
        before = homes.of_user(connection, "ann")
        assert before is not None
        found = []
        for space in (1, 3):
            homes.set_space(connection, before.volume, space * GIB)
            after = homes.of_user(connection, "ann")
            assert after is not None
            found.append((after.size_bytes, after.space_bytes))
    assert found == [(5 * GIB, GIB), (7 * GIB, 3 * GIB)]


def test_homes_whose_long_names_begin_alike_are_all_charged(
    lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.platform.database.transaction() as connection:
        for user in ("ann", "bob"):
            homes.insert(connection, "x" * 100 + user, user, lab.clock.at)
            lab.engine.volumes.add("x" * 100 + user)
    size(lab, monkeypatch, 1)
    charge_storage(lab.platform)
    days(lab, 1)
    assert [len(charges(lab, user)) for user in ("ann", "bob")] == [1, 1]


def stored(lab: World, gib: float, owner: str = "ann", kind: str = datasets.USER) -> None:
    """An owner's one dataset is so large."""
    with lab.platform.database.transaction() as connection:
        found = datasets.of_owner(connection, kind, owner)
        made = found[0] if found else None
        if made is None:
            made = datasets.insert(
                connection,
                owner_kind=kind,
                owner=owner,
                owner_name="x",
                name="cars",
                created_by="ann",
                at=lab.clock.at,
            )
        datasets.change(connection, made.id, stored_bytes=int(gib * GIB))


def test_datasets_are_charged_to_their_owner_once_a_day(lab: World) -> None:
    stored(lab, 2.5)
    stored(lab, 10, lab.lab, datasets.PROJECT)
    charge_storage(lab.platform)
    days(lab, 2)
    stored(lab, 0)
    days(lab, 2)
    assert [row.microcredits for row in charges(lab, "ann")] == [-A_DAY * 5 // 2] * 2
    with lab.platform.database.reading() as connection:
        of_lab = entries.page(connection, lab.lab)
    assert [row.microcredits for row in of_lab] == [-10 * A_DAY] * 4


def test_what_a_deleted_user_left_costs_nobody_anything(lab: World) -> None:
    stored(lab, 2.5)
    charge_storage(lab.platform)
    deleted_users.let_go(lab.platform, "ann", BOSS)
    days(lab, 2)
    assert charges(lab, "ann") == []


def test_homes_and_datasets_count_as_one(lab: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 3)
    roles = {"standard": RoleLimits(storage_gib=5)}
    settings = lab.platform.settings.model_copy(update={"roles": roles})
    monkeypatch.setattr(lab.platform, "settings", settings)
    with lab.platform.database.reading() as connection:
        assert quota.stored(connection, settings, "user", "ann").left_bytes == 2 * GIB
    stored(lab, 3)
    with lab.platform.database.reading() as connection:
        limits = limits_of(connection, settings, "ann", lab.clock.at)
    assert [each.used for each in limits if each.name == "storage_gib"] == [6]
    with pytest.raises(NotAllowed) as refused:
        submit(lab.platform, "ann", 0)
    assert refused.value.message == (
        "Your limit is 5 GiB of storage, and your home has 3.0 GiB, your datasets 3.0 GiB."
    )


STORAGE_TAMPERED = {
    "the size that was measured": (
        "UPDATE storage_charges SET size_bytes = size_bytes * 2 WHERE measured_at IS NOT NULL",
        "is of 0.075000 credits, 0.150000 credits are due for 5368709120 bytes",
    ),
    "the rate": ("UPDATE rates SET microcredits = 5", "are due for"),
    "the time of an entry": (
        "UPDATE entries SET from_at = '2026-01-30 00:00:00.000000' WHERE key LIKE 'storage:%%'",
        "is for another time",
    ),
    "the time that was measured": (
        "UPDATE storage_charges SET from_at = '2026-01-30 00:00:00.000000'",
        "already",
    ),
    "the account": ("UPDATE storage_charges SET account = 'x'", "is on another account"),
    "what an entry was made from": (
        "DELETE FROM storage_charges WHERE subject LIKE 'datasets/%%'",
        "is a charge of no session and of no measured storage",
    ),
    "an entry": (
        "UPDATE entries SET key = 'x' WHERE id = "
        "(SELECT min(id) FROM entries WHERE key LIKE 'storage:%%')",
        "it was measured, and no entry charges it",
    ),
    "the meter": (
        "UPDATE storage_meters SET watermark_at = '2026-01-31 00:00:00.000000'",
        "its meter says 2026-01-31",
    ),
}


@pytest.mark.parametrize("what", STORAGE_TAMPERED)
def test_a_charge_for_storage_that_is_not_what_was_measured_is_found(
    lab: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    home(lab.platform, "ann")
    size(lab, monkeypatch, 2.5)
    stored(lab, 1, "bob")
    charge_storage(lab.platform)
    days(lab, 3)
    statement, said = STORAGE_TAMPERED[what]
    with lab.platform.database.engine.connect() as connection:
        connection.begin()
        assert list(verify(connection)) == []
        assert connection.exec_driver_sql(statement).rowcount
        found = list(verify(connection))
        connection.rollback()
    assert any(said in sentence for sentence in found), found


def test_datasets_of_an_owner_with_a_long_name_are_charged(lab: World) -> None:
    stored(lab, 1, "x" * 80)
    charge_storage(lab.platform)
    days(lab, 1)
    assert len(charges(lab, "x" * 80)) == 1


def test_what_was_charged_before_sizes_were_kept_is_no_difference(
    hub_database_url: str,
) -> None:
    database = Database(hub_database_url)
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(migrations.__path__[0])))
    config.attributes["database"] = database
    alembic.command.upgrade(config, "0018")
    with database.transaction() as connection:
        ann = accounts.insert(connection, accounts.USER, "ann", Budget.NONE, BEGINNING)
        storage_meters.set_watermark(connection, "home-ann", BEGINNING + EVERY)
        old = NewEntry(
            ann.id,
            Kind.CHARGE,
            -7,
            f"storage:home-ann:{BEGINNING.isoformat()}",
            "meter",
            from_at=BEGINNING,
            until_at=BEGINNING + EVERY,
        )
        entries.post(connection, old, BEGINNING + EVERY)
    database.migrate()
    with database.reading() as connection:
        assert list(verify(connection)) == []
        [(charge, entry)] = storage_meters.charges(connection)
    assert (charge.subject, charge.size_bytes) == ("home-ann", None) and entry is not None
    database.close()
