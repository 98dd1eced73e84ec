"""What the database itself guarantees, whatever any program believes; and its migrations."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from dcloud_spawner.engines.base import AcceleratorFacts, NodeFacts
from dcloud_spawner.store import leases, nodes, workloads
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.schema import State, metadata
from dcloud_spawner.store.schema import leases as lease_rows
from dcloud_spawner.store.schema import workloads as workload_rows
from dcloud_spawner.store.workloads import NewWorkload, Workload
from tests.faults import store_worker

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
NODE = NodeFacts(
    "n1",
    8000,
    2**34,
    tuple(AcceleratorFacts(f"GPU-{index}", index, "A100", 2**36) for index in range(4)),
)


def new(user: str = "alice", server_name: str = "", kind: str = "notebook") -> NewWorkload:
    return NewWorkload(kind, user, server_name, "gpu", {"gpus": 1}, "i", 1, None, 2**30, 1000, 60)


def insert_one(connection: Connection, *arguments: str) -> Workload:
    return workloads.insert(connection, new(*arguments), AT)


@pytest.fixture
def pool(database: Database) -> Database:
    """A node with four GPUs and two workloads."""
    with database.transaction() as connection:
        nodes.record(connection, NODE, AT)
        insert_one(connection, "alice")
        insert_one(connection, "bob")
    return database


def lease(connection: Connection, workload: str, accelerators: list[str]) -> None:
    leases.open_leases(connection, [(uuid, workload) for uuid in accelerators], AT)


def ids(database: Database) -> list[str]:
    with database.reading() as connection:
        return [found.id for found in workloads.queued(connection)]


# ---------------------------------------------------------------------------- invariant 1


def test_the_database_refuses_a_second_open_lease_of_an_accelerator(pool: Database) -> None:
    alice, bob = ids(pool)
    with pool.transaction() as connection:
        lease(connection, alice, ["GPU-0"])
    for holder in (alice, bob):
        with pytest.raises(IntegrityError), pool.transaction() as connection:
            lease(connection, holder, ["GPU-0"])
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        row = {"accelerator": "GPU-0", "workload": bob, "opened_at": AT}
        connection.execute(insert(lease_rows).values(**row))
    with pool.reading() as connection:
        assert leases.holders(connection) == {"GPU-0": alice}


def test_a_closed_lease_cannot_be_opened_again_over_another(pool: Database) -> None:
    alice, bob = ids(pool)
    with pool.transaction() as connection:
        lease(connection, alice, ["GPU-0"])
        leases.close_leases(connection, [alice], AT)
        lease(connection, bob, ["GPU-0"])
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        connection.execute(text("UPDATE leases SET closed_at = NULL"))


def test_one_that_is_taken_lets_none_of_the_others_be_leased(pool: Database) -> None:
    alice, bob = ids(pool)
    with pool.transaction() as connection:
        lease(connection, alice, ["GPU-2"])
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        lease(connection, bob, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"])
    with pool.reading() as connection:
        assert leases.holders(connection) == {"GPU-2": alice}


def test_an_accelerator_can_be_leased_again_once_it_is_released(pool: Database) -> None:
    alice, bob = ids(pool)
    for holder in (alice, bob, alice):
        with pool.transaction() as connection:
            lease(connection, holder, ["GPU-0", "GPU-1"])
            assert leases.held_by(connection, holder) == ("GPU-0", "GPU-1")
            assert leases.close_leases(connection, [holder], AT) == 2
            assert leases.close_leases(connection, [holder], AT) == 0
    with pool.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM leases")).scalar() == 6


@pytest.mark.parametrize("what", ["accelerator", "workload"])
def test_a_lease_of_what_does_not_exist_is_refused(pool: Database, what: str) -> None:
    alice = ids(pool)[0]
    row = {"accelerator": "GPU-0", "workload": alice, "opened_at": AT, what: "unknown"}
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        connection.execute(insert(lease_rows).values(**row))


@pytest.mark.parametrize("table", ["accelerators", "workloads", "nodes"])
def test_what_a_lease_refers_to_cannot_be_deleted(pool: Database, table: str) -> None:
    with pool.transaction() as connection:
        lease(connection, ids(pool)[0], ["GPU-0"])
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        connection.execute(text(f"DELETE FROM {table}"))


# ---------------------------------------------------------------------------- one open workload


@pytest.mark.parametrize("state", [state for state in State if state is not State.ENDED])
def test_a_server_has_at_most_one_open_workload(pool: Database, state: State) -> None:
    alice = ids(pool)[0]
    with pool.transaction() as connection:
        workloads.set_values(connection, alice, state=state.value)
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        insert_one(connection, "alice")


def test_ended_workloads_of_a_server_are_as_many_as_there_were(pool: Database) -> None:
    for _ in range(3):
        with pool.transaction() as connection:
            mine = workloads.find_open(connection, "alice", "")
            assert mine is not None
            assert workloads.transition(connection, mine.id, State.ENDED, come_from=(State.QUEUED,))
            insert_one(connection, "alice")
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        connection.execute(text("UPDATE workloads SET state = 'queued'"))


def test_other_servers_and_kinds_of_the_same_user_are_others(pool: Database) -> None:
    with pool.transaction() as connection:
        other = insert_one(connection, "alice", "other")
        job = insert_one(connection, "alice", "", "job")
        insert_one(connection, "Alice")
        assert workloads.find_open(connection, "alice", "other") == other
        assert workloads.find_open(connection, "alice", "", "job") == job


def test_two_workloads_cannot_have_one_place(pool: Database) -> None:
    with pytest.raises(IntegrityError), pool.transaction() as connection:
        connection.execute(text("UPDATE workloads SET sequence = 1"))


def test_a_transition_happens_only_from_where_it_may(pool: Database) -> None:
    alice, bob = ids(pool)
    with pool.transaction() as connection:
        for _ in range(2):
            moved = workloads.transition(
                connection, alice, State.ADMITTED, come_from=(State.QUEUED,), node="n1"
            )
        assert not moved
        assert not workloads.transition(connection, "unknown", State.ENDED, come_from=tuple(State))
        assert workloads.get(connection, alice).state is State.ADMITTED
        assert workloads.get(connection, bob).state is State.QUEUED


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize("hours", [-7.5, 0, 9])
def test_a_time_comes_back_as_the_same_moment_in_utc_to_the_microsecond(
    pool: Database, hours: float
) -> None:
    at = AT.astimezone(timezone(timedelta(hours=hours)))
    alice = ids(pool)[0]
    with pool.transaction() as connection:
        workloads.set_values(connection, alice, ready_at=at)
    with pool.reading() as connection:
        found = workloads.get(connection, alice).ready_at
    assert found == AT
    assert found is not None and found.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(pool: Database) -> None:
    with pytest.raises(Exception, match="naive"), pool.transaction() as connection:
        workloads.set_values(connection, ids(pool)[0], ready_at=AT.replace(tzinfo=None))


def test_a_choice_comes_back_as_it_was(pool: Database) -> None:
    choice = {"gpus": 1, "memory_gib": 0.5, "image": "ünï/😀", "nothing": None, "list": [1, "2"]}
    with pool.transaction() as connection:
        values = {**vars(new("zoë")), "choice": choice}
        workload = workloads.insert(connection, NewWorkload(**values), AT)
    with pool.reading() as connection:
        found = workloads.get(connection, workload.id)
    assert found == workload
    assert found.choice == choice


def test_large_amounts_fit(pool: Database) -> None:
    with pool.transaction() as connection:
        values = {**vars(new("big")), "memory_bytes": 2**50, "limit_seconds": 24 * 365 * 3600}
        workload = workloads.insert(connection, NewWorkload(**values), AT)
        assert workload.memory_bytes == 2**50


def test_what_a_driver_says_of_a_gpu_may_hold_anything(pool: Database) -> None:
    sick = AcceleratorFacts("GPU-9", 9, "A100", 1, health_reason="ECC \x00 \udc80")
    with pool.transaction() as connection:
        nodes.record(connection, NodeFacts("n1", 1, 1, (*NODE.accelerators, sick)), AT)
        (found,) = [row for row in nodes.all_accelerators(connection) if row.uuid == "GPU-9"]
    assert found.health_reason.startswith("ECC ")


# ---------------------------------------------------------------------------- transactions


def test_a_transaction_that_raises_leaves_nothing(pool: Database) -> None:
    with pytest.raises(RuntimeError), pool.transaction() as connection:
        insert_one(connection, "carol")
        raise RuntimeError
    assert len(ids(pool)) == 2


def test_nothing_can_be_written_in_a_reading(pool: Database) -> None:
    with pytest.raises(DBAPIError), pool.reading() as connection:
        insert_one(connection, "carol")
    with pool.transaction() as connection:
        insert_one(connection, "carol")
    assert len(ids(pool)) == 3


def test_a_reading_sees_one_moment_and_blocks_no_writer(pool: Database) -> None:
    with pool.reading() as reading:
        assert workloads.count_queued(reading) == 2
        with pool.transaction() as connection:
            insert_one(connection, "carol")
        assert workloads.count_queued(reading) == 2
    assert len(ids(pool)) == 3


def test_a_writer_blocks_no_reading(pool: Database) -> None:
    with pool.transaction() as connection:
        insert_one(connection, "carol")
        with pool.reading() as reading:
            assert workloads.count_queued(reading) == 2


def test_writers_wait_for_each_other_and_none_is_lost(pool: Database) -> None:
    def add(number: int) -> None:
        for turn in range(5):
            with pool.transaction() as connection:
                insert_one(connection, f"user-{number}-{turn}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pool.reading() as connection:
        sequences = [found.sequence for found in workloads.queued(connection)]
    assert sequences == list(range(1, 33))


def test_a_writer_that_waits_sees_what_the_one_before_it_wrote(pool: Database) -> None:
    first_inside, order = threading.Event(), []

    def second() -> None:
        assert first_inside.wait(10)
        with pool.transaction() as connection:
            order.append(workloads.count_queued(connection))

    thread = threading.Thread(target=second)
    thread.start()
    with pool.transaction() as connection:
        first_inside.set()
        time.sleep(0.1)
        insert_one(connection, "carol")
        order.append(-1)
    thread.join()
    assert order == [-1, 3]


# ---------------------------------------------------------------------------- migrations


@pytest.fixture
def empty(hub_database_url: str) -> Iterator[Database]:
    """A database without any table."""
    database = Database(hub_database_url)
    assert inspect(database.engine).get_table_names() == []
    yield database
    database.close()


def config_of(database: Database) -> alembic.config.Config:
    config = alembic.config.Config()
    folder = Path(store_worker.__file__).parents[2] / "dcloud_spawner" / "store" / "migrations"
    config.set_main_option("script_location", str(folder))
    config.attributes["database"] = database
    return config


def differences(database: Database) -> list[Any]:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def test_migrating_from_nothing_makes_exactly_the_tables_that_the_code_knows(
    empty: Database,
) -> None:
    # Every table is known to the metadata only once its module is imported.
    from dcloud_spawner.store import datasets_schema, ledger_schema, logins, measures_schema  # noqa: F401

    empty.migrate()
    assert differences(empty) == []


def test_migrating_again_changes_nothing(empty: Database) -> None:
    empty.migrate()
    before = sorted(inspect(empty.engine).get_table_names())
    empty.migrate()
    assert sorted(inspect(empty.engine).get_table_names()) == before


def test_there_is_one_newest_revision_and_one_way_to_it(empty: Database) -> None:
    scripts = ScriptDirectory.from_config(config_of(empty))
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_rows_of_every_older_revision_come_through(empty: Database) -> None:
    scripts = ScriptDirectory.from_config(config_of(empty))
    revisions = [found.revision for found in scripts.walk_revisions()][::-1]
    alembic.command.upgrade(config_of(empty), revisions[0])
    with empty.transaction() as connection:
        connection.execute(
            text(
                'INSERT INTO workloads (id, sequence, kind, "user", server_name, profile, choice,'
                " image, gpus, memory_bytes, cpu_millicores, limit_seconds, state, reasons,"
                " submitted_at) VALUES ('old', 1, 'notebook', 'alice', '', 'gpu', '{}', 'i', 1, 1,"
                " 1, 1, 'queued', '[]', '2026-03-01 12:00:00')"
            )
        )
    for revision in revisions[1:]:
        alembic.command.upgrade(config_of(empty), revision)
    with empty.reading() as connection:
        found = workloads.get(connection, "old")
    assert (found.user, found.state, found.oom_killed) == ("alice", State.QUEUED, False)
    assert found.due_at == found.submitted_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_newer_program_can_be_taken_back_to_the_one_before(empty: Database) -> None:
    empty.migrate()
    alembic.command.downgrade(config_of(empty), "0003")
    empty.migrate()
    assert differences(empty) == []


def test_the_index_behind_invariant_1_is_partial_and_unique_in_a_migrated_database(
    database: Database,
) -> None:
    found = {index["name"]: index for index in inspect(database.engine).get_indexes("leases")}
    assert found["uq_leases_open_accelerator"]["unique"]
    names = {index["name"] for index in inspect(database.engine).get_indexes("workloads")}
    assert "uq_workloads_open_server" in names


@pytest.mark.timeout(120)
def test_programs_that_start_at_once_on_an_empty_database_migrate_it_once(
    hub_database_url: str,
) -> None:
    """Hub, controller and command line begin together on a new machine."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.store_worker"])
    migrating = [
        context.Process(target=store_worker.migrate, args=(hub_database_url,)) for _ in range(4)
    ]
    for process in migrating:
        process.start()
    for process in migrating:
        process.join(60)
    assert [process.exitcode for process in migrating] == [0, 0, 0, 0]
    database = Database(hub_database_url)
    with database.reading() as connection:
        versions = connection.execute(text("SELECT version_num FROM alembic_version")).all()
        assert len(versions) == 1
        assert connection.execute(select(workload_rows)).all() == []
    database.close()


def test_the_same_in_threads_of_one_process(empty: Database) -> None:
    failed: list[BaseException] = []

    def migrate() -> None:
        try:
            empty.migrate()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ---------------------------------------------------------------------------- files and secrets


def test_a_password_of_the_database_is_not_printed(database: Database) -> None:
    password = database.url.password
    assert password is None or str(password) not in repr(database.url)


def test_a_sqlite_file_is_made_with_its_folder(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/folder/x.sqlite")
    database.migrate()
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o077 == 0
    database.close()
