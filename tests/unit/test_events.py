"""The action log: append-only, chained, and whoever changes it is found out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from dcloud_spawner.store import events
from dcloud_spawner.store.database import Database, storable
from dcloud_spawner.store.events import GENESIS, Actor, Event, Head, Line

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
DETAIL: dict[str, object] = {
    "user": "Zoë 😀 \u202e",
    "numbers": [0, -1, 1.5, 1e300, 10**15],
    "nothing": None,
    "nested": {"b": {"a": [True, False]}, "a": ""},
    "half a character": "\ud800",
    "nul": "\x00",
}


def append(connection: Connection, **values: Any) -> int:
    actor = Actor(values.pop("actor", "alice"), values.pop("source", ""))
    target = values.pop("target", "t")
    return events.note(connection, actor, "workload.submit", target, **{"at": AT, **values})


def problems(database: Database, known: Head | None = None) -> list[str]:
    with database.reading() as connection:
        return list(events.verify(connection, known))


def tamper(database: Database, statement: str, **values: object) -> None:
    """What somebody with the database's password would do."""
    with database.transaction() as connection:
        result = connection.execute(text(statement), values)
        assert result.rowcount >= 1


@pytest.fixture
def chain(database: Database) -> Database:
    """Five rows."""
    with database.transaction() as connection:
        for number in range(1, 6):
            append(
                connection,
                target=f"target-{number}",
                source="10.0.0.7",
                at=AT + timedelta(microseconds=number),
                detail={**DETAIL, "number": number},
            )
    return database


# ---------------------------------------------------------------------------- writing


def test_rows_are_numbered_from_one_and_each_continues_the_one_before(chain: Database) -> None:
    with chain.reading() as connection:
        rows = events.read(connection)
    assert [row.sequence for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].previous_hash == GENESIS
    assert [row.previous_hash for row in rows[1:]] == [row.hash for row in rows[:-1]]
    assert problems(chain) == []


def test_a_row_is_read_as_it_was_written(chain: Database) -> None:
    with chain.reading() as connection:
        row = events.read(connection)[0]
    assert row.at == AT + timedelta(microseconds=1)
    assert row.at.utcoffset() == timedelta()
    assert row.detail == {**DETAIL, "number": 1}
    assert (row.actor, row.source, row.result) == ("alice", "10.0.0.7", "ok")


def test_an_empty_log_is_in_order(database: Database) -> None:
    assert problems(database) == []
    with database.reading() as connection:
        assert events.head(connection) == Head(0, GENESIS)


@pytest.mark.parametrize("hours", [-11, -3.5, 0, 2, 13.75])
def test_a_time_of_any_zone_is_kept_as_the_same_moment(database: Database, hours: float) -> None:
    at = AT.astimezone(timezone(timedelta(hours=hours)))
    with database.transaction() as connection:
        append(connection, at=at)
    assert problems(database) == []
    with database.reading() as connection:
        assert events.read(connection)[0].at == at


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="naive"), database.transaction() as connection:
        append(connection, at=AT.replace(tzinfo=None))


@pytest.mark.parametrize("detail", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1, 2}}])
def test_what_is_not_json_is_refused_on_every_database(
    database: Database, detail: dict[str, object]
) -> None:
    with pytest.raises((ValueError, TypeError)), database.transaction() as connection:
        append(connection, detail=detail)
    assert problems(database) == []


def test_tuples_and_numbers_as_keys_verify_as_what_they_became(database: Database) -> None:
    with database.transaction() as connection:
        append(connection, detail={"pair": (1, 2), "by number": {7: "x"}})
    assert problems(database) == []
    with database.reading() as connection:
        detail = events.read(connection)[0].detail
    assert detail == {"pair": [1, 2], "by number": {"7": "x"}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    detail=st.dictionaries(st.text(), json_values, max_size=4),
    actor=st.text(max_size=300),
    at=st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_any_detail_actor_and_time_verifies(
    database: Database, detail: dict[str, object], actor: str, at: datetime
) -> None:
    with database.transaction() as connection:
        append(connection, detail=detail, actor=actor, source=actor, target=actor, at=at)
    assert problems(database) == []


@given(st.text(st.characters(), max_size=50))
def test_storable_text_can_be_encoded_and_keeps_what_is_sound(found: str) -> None:
    kept = storable(found)
    assert "\x00" not in kept
    kept.encode()
    if "\x00" not in found and found == found.encode("utf-8", "ignore").decode():
        assert kept == found


def test_writers_at_the_same_time_make_one_chain(database: Database) -> None:
    def write(number: int) -> None:
        for _ in range(5):
            with database.transaction() as connection:
                append(connection, actor=f"writer {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert problems(database) == []
    with database.reading() as connection:
        assert events.head(connection).sequence == 20


def test_lines_written_at_once_are_the_chain_they_would_be_one_by_one(database: Database) -> None:
    lines = [Line(Actor(f"user-{number}"), "x", "t", detail={"n": number}) for number in range(5)]
    with database.transaction() as connection:
        append(connection)
        assert events.note_all(connection, lines, at=AT) == 6
        assert events.note_all(connection, [], at=AT) == 6
        append(connection)
        at_once = events.read(connection)
        connection.execute(text("DELETE FROM events"))
        append(connection)
        for line in lines:
            events.note(connection, line.actor, line.action, line.target, at=AT, detail=line.detail)
        append(connection)
        assert events.read(connection) == at_once
    assert problems(database) == []


def test_a_row_whose_transaction_fails_was_never_there(chain: Database) -> None:
    with pytest.raises(RuntimeError), chain.transaction() as connection:
        append(connection)
        raise RuntimeError
    assert problems(chain) == []
    with chain.reading() as connection:
        assert events.head(connection).sequence == 5


def test_reading_pages_by_sequence_and_target(chain: Database) -> None:
    with chain.reading() as connection:
        assert [e.sequence for e in events.read(connection, after=1, limit=2)] == [2, 3]
        assert [e.sequence for e in events.read(connection, target="target-4")] == [4]


# ---------------------------------------------------------------------------- tampering


CHANGES = {
    "at": "at = '2026-03-01 12:00:00.000004'",
    "actor": "actor = 'mallory'",
    "action": "action = 'workload.stop'",
    "target": "target = 'other'",
    "source": "source = ''",
    "result": "result = 'failed'",
    "detail": """detail = '{"number": 9}'""",
    "detail_null": "detail = 'null'",
    "previous_hash": f"previous_hash = '{GENESIS}'",
    "hash": f"hash = '{'1' * 64}'",
}


@pytest.mark.parametrize("row", [2, 3, 5])
@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_change_of_any_field_of_any_row_is_found(chain: Database, field: str, row: int) -> None:
    tamper(chain, f"UPDATE events SET {CHANGES[field]} WHERE sequence = :row", row=row)
    assert any(f"row {row}" in sentence for sentence in problems(chain))


def test_a_change_of_the_first_row_is_found(chain: Database) -> None:
    tamper(chain, "UPDATE events SET actor = 'mallory' WHERE sequence = 1")
    assert problems(chain) == ["row 1 was changed after it was written"]


def test_a_microsecond_is_enough(chain: Database) -> None:
    with chain.transaction() as connection:
        connection.execute(
            events.events.update()
            .where(events.events.c.sequence == 3)
            .values(at=AT + timedelta(microseconds=4))
        )
    assert problems(chain) == ["row 3 was changed after it was written"]


@pytest.mark.parametrize("row", [1, 2, 4])
def test_a_deleted_row_is_found(chain: Database, row: int) -> None:
    tamper(chain, "DELETE FROM events WHERE sequence = :row", row=row)
    assert problems(chain)[0] == f"row {row} is missing before row {row + 1}"


def test_a_deleted_row_is_found_when_those_behind_it_are_renumbered(chain: Database) -> None:
    tamper(chain, "DELETE FROM events WHERE sequence = 2")
    for number in (3, 4, 5):
        tamper(chain, "UPDATE events SET sequence = :new WHERE sequence = :row",
               row=number, new=number - 1)  # fmt: skip
    assert "row 2 does not continue the row before it" in problems(chain)


def test_two_rows_that_change_places_are_found(chain: Database) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        tamper(chain, "UPDATE events SET sequence = :new WHERE sequence = :row", row=old, new=new)
    found = problems(chain)
    assert "row 2 was changed after it was written" in found
    assert "row 3 was changed after it was written" in found


def test_a_row_put_in_later_is_found(chain: Database) -> None:
    columns = "at, actor, action, target, source, result, detail, previous_hash"
    tamper(
        chain,
        f"INSERT INTO events (sequence, hash, {columns}) "
        f"SELECT 6, '{'2' * 64}', {columns} FROM events WHERE sequence = 5",
    )
    assert any("row 6" in sentence for sentence in problems(chain))


def test_a_row_made_anew_with_its_own_right_hash_breaks_the_next_one(chain: Database) -> None:
    with chain.reading() as connection:
        row = events.read(connection)[2]
    body = {name: getattr(row, name) for name in events._HASHED} | {"actor": "mallory"}
    digest = events._digest(row.previous_hash, body)
    tamper(chain, "UPDATE events SET actor = 'mallory', hash = :hash WHERE sequence = 3",
           hash=digest)  # fmt: skip
    assert problems(chain) == ["row 4 does not continue the row before it"]


@pytest.mark.parametrize("row", [1, 3, 5])
def test_a_row_that_is_not_even_readable_is_said_and_raises_nothing(
    chain: Database, row: int
) -> None:
    broken = "at = 'infinity'"
    if chain.is_sqlite:
        broken = "detail = '{not json'" if row == 1 else "at = 'yesterday'"
    tamper(chain, f"UPDATE events SET {broken} WHERE sequence = :row", row=row)
    assert any("cannot be read" in sentence for sentence in problems(chain))


def cut(chain: Database) -> None:
    tamper(chain, "DELETE FROM events WHERE sequence > 3")


def rewrite(chain: Database) -> None:
    """Cut the end off and write another one with right hashes."""
    cut(chain)
    with chain.transaction() as connection:
        append(connection, actor="mallory")
        append(connection, actor="mallory")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cut, "row 5 was noted once and is missing"),
        (rewrite, "row 5 is not the one that was noted"),
    ],
)
def test_an_end_that_was_cut_off_or_rewritten_is_found_by_a_head_that_was_noted(
    chain: Database, change: Callable[[Database], None], sentence: str
) -> None:
    with chain.reading() as connection:
        known = events.head(connection)
    change(chain)
    assert problems(chain) == []  # the chain alone cannot know
    assert problems(chain, known) == [sentence]


def test_a_head_that_was_noted_still_holds_when_the_log_has_grown(chain: Database) -> None:
    with chain.reading() as connection:
        known = events.head(connection)
    with chain.transaction() as connection:
        append(connection)
    assert problems(chain, known) == []


def test_a_long_chain_is_walked_to_its_end(database: Database) -> None:
    with database.transaction() as connection:
        for _ in range(1001):
            append(connection)
    tamper(database, "UPDATE events SET actor = 'mallory' WHERE sequence = 1001")
    assert problems(database) == ["row 1001 was changed after it was written"]


def test_events_are_values() -> None:
    assert Event.__dataclass_params__.frozen  # type: ignore[attr-defined]
