"""``ledger verify``: it finds every kind of tampering, and nothing where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from dcloud_spawner import accounting, granting, lifecycle, transfers
from dcloud_spawner.engines.base import Health
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import ledger_rows
from hub_services.cli.main import dcloud
from hub_services.controller.meter import settle_running
from tests.ledger_world import BOSS, World, set_health, world
from tests.platforms import get, launch, submit

pytestmark = pytest.mark.database


@pytest.fixture(scope="module")
def busy(
    module_databases: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A ledger with something of everything on it."""
    folder = tmp_path_factory.mktemp("ledger")
    with (
        pytest.MonkeyPatch.context() as patch,
        world(module_databases["database_url"], folder, patch) as made,
    ):
        made.begin()
        fill(made)
        yield made


def begin(world: World, user: str, gpus: int, **more: object) -> str:
    workload = submit(world.platform, user, gpus, **more)
    world.platform.run_pass()
    world.learn_accounts()
    facts = launch(world.platform, workload.id)
    world.clock.goes(3, 141592)
    assert lifecycle.mark_ready(world.platform, workload.id, facts)
    world.became_ready(get(world.platform, workload.id))
    return workload.id


def fill(world: World) -> None:
    """Sessions of an hour and more over a change of rates, a fault, a restart of the clock."""
    accounting.change_rate(world.platform, Resource.CPU_CORE, 12_345, BOSS)
    granting.grant(world.platform, world.lab, 3 * MICRO, BOSS, reason="for a test")
    running = begin(world, "ann", 2, gpu_model="A100", cores=0.7, account="lab")
    ended = begin(world, "bob", 1, gpu_model="H100")
    for _ in range(3):
        world.clock.goes(1234, 567)
        settle_running(world.platform)
    accounting.change_rate(world.platform, Resource.GPU, 2 * MICRO, BOSS, gpu_model="A100")
    set_health(world, "GPU-0", Health.LOST)
    world.clock.goes(777)
    settle_running(world.platform)
    world.clock.goes(-400)
    lifecycle.stop(world.platform, ended, "stopped", BOSS)  # before what was charged
    lost = begin(world, "bob", 1, gpu_model="H100", server="lost")
    world.clock.goes(60)
    settle_running(world.platform)
    del world.engine.containers[lost]
    lifecycle.stop(world.platform, lost, "lost", BOSS)
    failed = submit(world.platform, "bob", 0, server="failed")
    world.platform.run_pass()
    lifecycle.stop(world.platform, failed.id, "failed", BOSS)
    with world.platform.database.reading() as connection:
        charge = next(
            found
            for found in ledger_rows.all_entries(connection)
            if found.workload == running and found.microcredits
        )
    transfers.refund(world.platform, charge.id, BOSS, reason="for a test", microcredits=1)
    bob = next(key for key in world.opinion.purses if key != world.lab)
    transfers.transfer(world.platform, world.lab, bob, 1000, BOSS, reason="for a test")


def sentences(world: World) -> list[str]:
    with world.platform.database.reading() as connection:
        return list(verify(connection))


def tamper(world: World, *statements: str) -> list[str]:
    """What is found after somebody wrote into the database by hand; then it is as it was."""
    with world.platform.database.engine.connect() as connection:
        connection.begin()
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount, "nothing was changed"
        found = list(verify(connection))
        connection.rollback()
    return found


def test_a_ledger_that_is_right_is_found_right(busy: World) -> None:
    assert sentences(busy) == []


SOME_CHARGE = "(SELECT min(id) FROM entries WHERE kind = 'charge' AND microcredits < 0)"
GIVEN_BACK = "(SELECT workload FROM entries WHERE key LIKE 'back:%%')"
LAST = "(SELECT max(id) FROM entries)"

TAMPERED = {
    "a balance": ("UPDATE accounts SET balance_microcredits = balance_microcredits + 1", "add up"),
    "balance after": (f"UPDATE entries SET balance_after = 7 WHERE id = {LAST}", "it had"),
    "an amount": (
        f"UPDATE entries SET microcredits = microcredits - 1 WHERE id = {SOME_CHARGE}",
        "are due for its time",
    ),
    "an entry is gone": (f"DELETE FROM entries WHERE id = {SOME_CHARGE}", "is missing"),
    "the sign of a charge": (
        f"UPDATE entries SET microcredits = 5 WHERE id = {SOME_CHARGE}",
        "is a charge of",
    ),
    "the account of an entry": (
        "UPDATE entries SET account = (SELECT id FROM accounts WHERE kind = 'project') "
        "WHERE key LIKE 'back:%%'",
        "on another account",
    ),
    "what was given back": (
        "UPDATE entries SET microcredits = microcredits + 1 WHERE key LIKE 'back:%%'",
        "are not due",
    ),
    "the time of a charge": (
        f"UPDATE entries SET from_at = '2026-01-30 22:59:00.000000' WHERE id = {SOME_CHARGE}",
        "charges again",
    ),
    "the quantity of a charge": (
        f"UPDATE entries SET gpu_microseconds = 1 WHERE id = {SOME_CHARGE}",
        "other quantities",
    ),
    "the rates of a charge": (
        f"UPDATE entries SET rates = '{json.dumps({'gpu:A100': 1})}' WHERE id = {SOME_CHARGE}",
        "other rates",
    ),
    "a lot's rest": ("UPDATE lots SET left_microcredits = left_microcredits + 1", "left"),
    "a lot's amount": ("UPDATE lots SET microcredits = microcredits + 1", "its lots hold"),
    "a lot of no entry": ("UPDATE lots SET entry = 999 WHERE id = 1", "does not exist"),
    "a half of a transfer": (
        "UPDATE entries SET key = 'transfer:x:in' WHERE key LIKE 'transfer:%%:in'",
        "opposite",
    ),
    "a refund": (
        f"UPDATE entries SET refund_of = {LAST} WHERE kind = 'refund'",
        "were given back",
    ),
    "how often a grant was given": ("UPDATE grants SET given = 0", "given 1 times"),
    "a meter's sum": ("UPDATE meters SET charged_microcredits = 1", "its meter counts"),
    "a meter's quantity": ("UPDATE meters SET gpu_microseconds = 1", "other quantities"),
    "a meter's free time": ("UPDATE meters SET free_microseconds = 1", "other quantities"),
    "a meter's watermark": (
        "UPDATE meters SET watermark_at = '2026-01-31 05:00:00.000000' "
        f"WHERE workload = {GIVEN_BACK}",
        "it ended at",
    ),
    "a meter's beginning": (
        "UPDATE meters SET began_at = '2026-01-30 21:00:00.000000' WHERE began_at IS NOT NULL",
        "its meter begins",
    ),
    "a meter that is settled": ("UPDATE meters SET settled_at = NULL", "not settled"),
    "a meter that is not settled": (
        "UPDATE meters SET settled_at = began_at WHERE settled_at IS NULL",
        "its meter is settled",
    ),
    "the engine's finish": (
        "UPDATE workloads SET engine_finished_at = '2026-01-30 23:05:00.000000' "
        "WHERE engine_finished_at IS NOT NULL",
        "it ended at 2026-01-30 23:05",
    ),
    "the engine's start": (
        "UPDATE workloads SET engine_started_at = '2026-01-30 23:05:00.000000' "
        "WHERE engine_started_at IS NOT NULL",
        "the engine says 2026-01-30 23:05",
    ),
    "an end nobody knows": (
        f"UPDATE workloads SET engine_finished_at = NULL WHERE id = {GIVEN_BACK}",
        "nobody knows when it ended",
    ),
    "what a session held": ("UPDATE spans SET gpu_models = '{\"A100\": 4}'", "it had leased"),
    "what a session had of memory": ("UPDATE spans SET memory_bytes = 1", "other quantities"),
    "a lease": ("DELETE FROM leases", "it had leased no GPU"),
    "a rate of the past": (
        "UPDATE rates SET microcredits = 77 WHERE resource = 'cpu_core'",
        "are due for its time",
    ),
    "use by the hour": (
        "UPDATE usage_hours SET microcredits = microcredits + 1",
        "are counted",
    ),
    "an hour is gone": ("DELETE FROM usage_hours", "nothing is counted"),
    "a charge of what was never ready": (
        "UPDATE meters SET charged_microcredits = 5 WHERE began_at IS NULL",
        "never became ready",
    ),
    "the word about a failed start": (
        "UPDATE entries SET workload = NULL WHERE key LIKE 'free:%%'",
        "and 0 entries say so",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_somebody_changed_by_hand_is_found(busy: World, what: str) -> None:
    statement, said = TAMPERED[what]
    found = tamper(busy, statement)
    assert any(said in sentence for sentence in found), found


def test_a_session_that_lost_its_meter_is_found(busy: World) -> None:
    found = tamper(
        busy,
        "DELETE FROM spans WHERE workload IN (SELECT workload FROM meters)",
        "DELETE FROM meters WHERE began_at IS NOT NULL",
    )
    assert sum("was ready, and has no meter" in sentence for sentence in found) == 3


def test_the_command_says_what_differs_and_ends_with_1(
    busy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = busy.platform.settings.database_url
    monkeypatch.setenv("DCLOUD_DATABASE_URL", url or "")
    monkeypatch.setenv("DCLOUD_STATE", str(busy.platform.settings.state))
    right = CliRunner().invoke(dcloud, ["ledger", "verify"], catch_exceptions=False)
    assert right.exit_code == 0 and "The ledger is right" in right.output
    change = "UPDATE accounts SET balance_microcredits = balance_microcredits {} 1000001"
    with busy.platform.database.transaction() as connection:
        connection.exec_driver_sql(change.format("+"))
    wrong = CliRunner().invoke(dcloud, ["ledger", "verify"], catch_exceptions=False)
    with busy.platform.database.transaction() as connection:
        connection.exec_driver_sql(change.format("-"))
    assert wrong.exit_code == 1
    assert "The balance of project lab is 1.929943 credits; its entries add up to" in wrong.output
    assert "2 differences in" in wrong.output
    assert sentences(busy) == []
