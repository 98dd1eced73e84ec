"""The usage pages as values, read from a store with a past; on both databases."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from dcloud_spawner import accounting, granting, transfers
from dcloud_spawner.errors import InvalidChoice, NotAllowed
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, bookkeeping, entries
from dcloud_spawner.store.accounts import Account, Role
from dcloud_spawner.store.bookkeeping import HourOfUse
from dcloud_spawner.store.usage import Use
from hub_services.web.pages.days import Zone, day_words, zone_of
from hub_services.web.pages.export_tables import EXPORTS
from hub_services.web.pages.exporting import Column, Export, ParquetFile, Type, csv_head, csv_part
from hub_services.web.pages.figures import exact, when
from hub_services.web.pages.usage import cursor_of, read_usage
from hub_services.web.pages.usage_days import days_chart
from hub_services.web.pages.usage_ledger import read_ledger_page, read_statement
from hub_services.web.pages.usage_project import read_project
from hub_services.web.pages.usage_running import read_running, spark
from hub_services.web.pages.usage_session import read_session
from hub_services.web.pages.views import Call
from hub_services.web.viewer import Viewer
from tests import platforms
from tests.memory_engine import MemoryEngine, node
from tests.usage_story import BOSS, HOUR, Past, begun, give, past, project

pytestmark = pytest.mark.database

DAY = timedelta(days=1)
OWN_TABLES = ("sessions", "hours", "days", "members", "entries", "session", "measures")
BERLIN = zone_of("Europe/Berlin")
ALICE, BOB, EVE = Viewer("alice"), Viewer("bob"), Viewer("eve")
ADMIN = Viewer("admin-a", administrator=True)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    settings = platforms.settings_for(database_url, tmp_path)
    with platforms.opened(settings, MemoryEngine(node(gib=1000, cores=200))) as opened:
        yield opened


@pytest.fixture
def lab(platform: Platform) -> Account:
    """A project of alice with bob as a member; both used it."""
    made = project(platform, "lab", ("alice",), ("bob",), 100)
    past(platform, Past("alice", 2, 3 * DAY, 2 * HOUR, project="lab"))
    past(platform, Past("bob", 1, 2 * DAY, 3 * HOUR, project="lab", busy=5))
    return made


def call(
    platform: Platform, viewer: Viewer = ALICE, path: tuple[str, ...] = (), **arguments: str
) -> Call:
    service: Any = SimpleNamespace(platform=platform)
    return Call(service, viewer, path, arguments, BERLIN, utc_now())


def own(platform: Platform, user: str) -> Account:
    with platform.database.reading() as connection:
        found = accounts.personal(connection, user)
    assert found is not None
    return found


# ---------------------------------------------------------------------------- days


def test_a_day_begins_at_the_readers_midnight_in_summer_and_in_winter() -> None:
    assert BERLIN.midnight(date(2026, 3, 29)) == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert BERLIN.midnight(date(2026, 3, 30)) == datetime(2026, 3, 29, 22, tzinfo=UTC)
    assert BERLIN.midnight(date(2026, 10, 26)) == datetime(2026, 10, 25, 23, tzinfo=UTC)
    assert BERLIN.day(datetime(2026, 7, 1, 22, 30, tzinfo=UTC)) == date(2026, 7, 2)


def test_a_month_has_its_hours_also_when_the_clocks_change_in_it() -> None:
    begins, ends = BERLIN.month(2026, 3)
    assert ends - begins == timedelta(days=31) - HOUR
    assert BERLIN.month(2026, 12)[1] == BERLIN.midnight(date(2027, 1, 1))


@pytest.mark.parametrize("name", ["", "Nowhere/At all", "../etc/passwd", "x" * 99, "Europe", "Ä"])
def test_a_zone_that_there_is_not_is_utc_and_not_known(name: str) -> None:
    assert zone_of(name).name == "UTC" and not zone_of(name).known


def test_the_zone_in_the_address_goes_before_the_cookie() -> None:
    assert zone_of("Asia/Tokyo", "Europe/Berlin").name == "Asia/Tokyo"
    assert zone_of("nonsense", "Europe/Berlin").name == "Europe/Berlin"


def test_an_hour_counts_to_the_readers_day_and_days_without_use_have_no_row() -> None:
    late = datetime(2026, 7, 1, 22, tzinfo=UTC)  # midnight in Berlin
    hours = [
        HourOfUse("", "NVIDIA A100", late - HOUR, Use(gpu_microseconds=3_600_000_000)),
        HourOfUse("", "NVIDIA A100", late, Use(gpu_microseconds=7_200_000_000)),
        HourOfUse("", "", late, Use(cpu_microseconds=5, microcredits=7)),
    ]
    days = [date(2026, 6, 30), date(2026, 7, 1), date(2026, 7, 2)]
    chart = days_chart(hours, days, BERLIN)
    assert [(row.label, row.total, row.credits) for row in chart.rows] == [
        ("1 Jul", "1.0", 0),
        ("2 Jul", "2.0", 7),
    ]
    assert "Highest on 2 Jul with 2.0, 3.0 in all" in chart.words
    utc = days_chart(hours, days, Zone("UTC", UTC))
    assert [row.total for row in utc.rows] == ["3.0"]


def test_beyond_four_models_the_rest_is_together() -> None:
    at = datetime(2026, 7, 1, 12, tzinfo=UTC)
    hours = [HourOfUse("", f"M{n}", at, Use(gpu_microseconds=(9 - n) * 10**9)) for n in range(6)]
    chart = days_chart(hours, [date(2026, 7, 1)], BERLIN)
    assert [each.label for each in chart.series] == ["M0", "M1", "M2", "Other models"]
    assert chart.rows[0].total == f"{39 * 10**9 / 3.6e9:.1f}"


def test_times_are_the_readers_with_the_day_where_it_is_not_today() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert when(now, BERLIN, now) == "Today, 13:00"
    assert when(now - DAY, BERLIN, now) == "20 Nov, 13:00"
    assert when(now - 400 * DAY, BERLIN, now) == "17 Oct 2025, 14:00"


# ---------------------------------------------------------------------------- my usage


def test_somebody_who_never_started_anything_sees_an_empty_page(platform: Platform) -> None:
    view = read_usage(call(platform, EVE))
    assert view.payer is None and not view.sessions.rows and view.chart.empty
    assert [figure.value for figure in view.figures] == ["0.0", "–", "0.00"]


def test_the_figures_are_those_of_the_account_and_time(platform: Platform, lab: Account) -> None:
    view = read_usage(call(platform, account=lab.id, days="7"))
    figures = {figure.label: figure for figure in view.figures}
    assert figures["Balance"].value == "93.00"
    assert figures["Balance"].small == "of 100 credits"
    assert figures["GPU time, 7 days"].value == "7.0"
    assert figures["Burn rate now"].value == "0.00"
    assert figures["Runs out"].small == "at the 7-day mean of 1.0 a day"
    assert [row.cost for row in view.sessions.rows] == ["3.00", "4.00"]
    assert view.sessions.rows[0].idle and not view.sessions.rows[1].idle
    assert view.sessions.count == 2


def test_credits_that_expire_run_out_then_also_when_nothing_runs(
    platform: Platform,
) -> None:
    brief = accounting.create_project(platform, "brief", ["alice"], BOSS)

    def runs_out() -> tuple[str, str]:
        view = read_usage(call(platform, account=brief.id, days="7"))
        (found,) = [figure for figure in view.figures if figure.label == "Runs out"]
        return found.value, found.small

    ends = utc_now() + 5 * DAY
    granting.grant(platform, brief.id, 9 * MICRO, BOSS, reason="for a course", ends_at=ends)
    day = day_words(BERLIN.day(ends)) + ("" if ends.year == utc_now().year else f" {ends.year}")
    assert runs_out() == (day, "when the last credits expire")
    past(platform, Past("alice", 1, 3 * DAY, 7 * HOUR, project="brief"))  # a credit a day: 2 left
    assert runs_out()[1] == "at the 7-day mean of 1.0 a day"
    give(platform, brief.id, 100)
    assert runs_out()[0] != day and runs_out()[1] == "at the 7-day mean of 1.0 a day"


def test_what_runs_is_counted_to_this_moment_and_not_only_to_the_last_charge(
    platform: Platform,
) -> None:
    found = begun(platform, Past("alice", 3, 2 * HOUR, 24 * HOUR, server="main"))
    give(platform, own(platform, "alice").id, 20)
    with platform.database.transaction() as connection:  # as if nobody had charged for an hour
        connection.execute(text("UPDATE meters SET charged_microcredits = 3000000"))
    view = read_running(call(platform))
    (row,) = view.rows
    assert (row.name, row.cost, row.about) == ("main", "6.00", "GPU, 3 × A100, local")
    assert view.burn == 3 * MICRO and view.unsettled == pytest.approx(3 * MICRO, abs=20_000)
    assert row.gpu_use.endswith(" %") and row.spark.startswith("M") and row.memory != "–"
    assert row.open_path == "alice/main"
    assert read_session(call(platform, path=(found.id,))).live


def test_a_member_sees_their_own_part_of_a_project_and_an_owner_all(
    platform: Platform, lab: Account
) -> None:
    member = read_usage(call(platform, BOB, account=lab.id))
    assert [row.cost for row in member.sessions.rows] == ["3.00"]
    assert {f.label: f.value for f in member.figures}["GPU time, 30 days"] == "3.0"
    owner = read_usage(call(platform, ALICE, account=lab.id))
    assert {row.user for row in owner.sessions.rows} == {"", "bob"}
    assert read_usage(call(platform, ADMIN, account=lab.id)).foreign


def test_how_long_credits_last_is_the_same_for_a_member_as_for_an_owner(
    platform: Platform, lab: Account
) -> None:
    begun(platform, Past("alice", 2, HOUR, 24 * HOUR, project="lab", server="main"))
    views = [read_usage(call(platform, viewer, account=lab.id)) for viewer in (ALICE, BOB)]
    first, second = ({f.label: f.value for f in view.figures} for view in views)
    for label in ("Balance", "Burn rate now", "Runs out"):
        assert first[label] == second[label]
    assert first["Burn rate now"] == "2.00" and not views[1].running.rows


def test_sessions_page_by_cursor_in_both_orders_without_a_gap(platform: Platform) -> None:
    for hour in range(7):
        past(
            platform, Past("alice", 0, DAY + hour * HOUR, timedelta(minutes=30), server=f"s{hour}")
        )
    account = own(platform, "alice")
    with platform.database.reading() as connection:
        for oldest in (False, True):
            seen: list[str] = []
            after = None
            while part := bookkeeping.sessions(
                connection, account.id, after=after, oldest_first=oldest, limit=3
            ):
                seen += [each.workload.server_name for each in part]
                last = part[-1].workload
                assert last.admitted_at is not None
                after = bookkeeping.Cursor(last.admitted_at, last.sequence)
            expected = [f"s{hour}" for hour in range(7)]
            assert seen == (expected[::-1] if oldest else expected)


@pytest.mark.parametrize("cursor", ["x", "1", "1.x", ".", "9" * 40 + ".1", "1." + "9" * 40, "-1.2"])
def test_a_cursor_that_nobody_gave_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidChoice):
        cursor_of(cursor)


def test_a_line_of_use_has_gaps_where_nothing_was_measured() -> None:
    assert spark([None, None]) == ""
    assert spark([0, 100, None, 50]).count("M") == 2


# ---------------------------------------------------------------------------- strangers


def test_what_is_anothers_and_what_is_not_there_are_refused_with_the_same_words(
    platform: Platform, lab: Account
) -> None:
    with platform.database.reading() as connection:
        session = bookkeeping.sessions(connection, lab.id)[0].workload.id
    tries: list[tuple[Any, Call]] = []
    for identifier in (lab.id, "0" * 32):
        tries += [
            (read, call(platform, EVE, account=identifier))
            for read in (read_usage, read_running, read_ledger_page, read_statement)
        ]
        tries += [
            (EXPORTS[name], call(platform, EVE, account=identifier))
            for name in ("sessions", "hours", "days", "members", "entries")
        ]
    for name in ("lab", "no-such-project"):
        tries.append((read_project, call(platform, EVE, (name,))))
    for identifier in (session, "0" * 32, "x" * 300):
        tries.append((read_session, call(platform, EVE, (identifier,))))
        tries += [
            (EXPORTS[name], call(platform, EVE, session=identifier))
            for name in ("session", "measures")
        ]
    said = set()
    for read, asked in tries:
        with pytest.raises(NotAllowed) as refused:
            read(asked)
        said.add((refused.value.text, refused.value.status_code, refused.value.code))
    assert len(said) == 1
    assert "lab" not in said.pop()[0]


def test_a_service_of_the_same_name_is_nobody(platform: Platform, lab: Account) -> None:
    robot = Viewer("alice", person=False)
    assert read_usage(call(platform, robot)).payer is None
    with pytest.raises(NotAllowed):
        read_usage(call(platform, robot, account=lab.id))


def test_a_member_sees_only_their_own_sessions_and_entries(
    platform: Platform, lab: Account
) -> None:
    with platform.database.reading() as connection:
        of_bob, of_alice = bookkeeping.sessions(connection, lab.id)
    assert read_session(call(platform, BOB, (of_bob.workload.id,))).user == "bob"
    with pytest.raises(NotAllowed):
        read_session(call(platform, BOB, (of_alice.workload.id,)))
    view = read_ledger_page(call(platform, BOB, account=lab.id))
    assert view.rows and {row.session for row in view.rows} == {of_bob.workload.id}
    with pytest.raises(NotAllowed):
        read_statement(call(platform, BOB, account=lab.id))
    assert read_session(call(platform, ALICE, (of_bob.workload.id,))).user == "bob"


# ---------------------------------------------------------------------------- one session


def test_a_session_says_what_it_cost_why_and_what_it_did(platform: Platform, lab: Account) -> None:
    with platform.database.reading() as connection:
        found = bookkeeping.sessions(connection, lab.id)[1].workload
    view = read_session(call(platform, ALICE, (found.id,)))
    assert {f.label: f.value for f in view.figures}["Cost"] == "4.00"
    (line,) = view.lines
    assert (line.what, line.amount, line.gpu_hours) == ("Charge", "−4.00", "4.00")
    assert line.count == 6 and line.rates == "A100 1.00"
    assert [graph.id for graph in view.graphs.graphs][:4] == [
        "gpu",
        "gpu-memory",
        "power",
        "temperature",
    ]
    assert all(graph.data for graph in view.graphs.graphs)
    assert "mean" in view.graphs.graphs[0].words and len(view.graphs.rows) <= 120
    assert not view.live


def test_a_session_without_gpus_has_no_graphs_of_gpus(platform: Platform) -> None:
    found = past(platform, Past("alice", 0, DAY, HOUR))
    view = read_session(call(platform, ALICE, (found.id,)))
    assert [graph.id for graph in view.graphs.graphs] == ["cpu", "memory", "disk", "network"]


def test_a_session_that_never_became_ready_says_that_it_cost_nothing(platform: Platform) -> None:
    found = platforms.submit(platform, "alice", 1)
    platform.run_pass()
    platforms.launch(platform, found.id)
    platforms.end_all(platform)
    view = read_session(call(platform, ALICE, (found.id,)))
    assert view.ending.words == "Never ready, not charged"
    assert "costs nothing" in view.lines[0].words and not view.graphs.rows


# ---------------------------------------------------------------------------- projects, ledger


def test_a_project_shows_everybodys_share_and_who_decides(platform: Platform, lab: Account) -> None:
    view = read_project(call(platform, ALICE, ("lab",)))
    assert [(row.user, row.part, row.role) for row in view.shares] == [
        ("alice", "57 %", "owner"),
        ("bob", "43 %", "member"),
    ]
    assert view.decides and view.grants[0].credits == "100.00"
    member = read_project(call(platform, BOB, ("lab",)))
    assert not member.decides and not member.moves


def test_a_member_sees_of_others_only_what_they_used_together(
    platform: Platform, lab: Account
) -> None:
    """As by the API, where of other people a member sees the owners' names and nothing else."""
    accounting.set_member(platform, lab.id, "carol", Role.MEMBER, BOSS)
    past(platform, Past("carol", 1, 2 * DAY, HOUR, project="lab", server="c"))
    accounting.set_member(platform, lab.id, "carol", None, BOSS)
    begun(platform, Past("alice", 2, HOUR, 24 * HOUR, project="lab", server="main"))
    view = read_project(call(platform, BOB, ("lab",)))
    assert view.owners == "alice"
    mine, others = view.shares
    assert (mine.user, mine.credits, mine.role, mine.running) == ("bob", "3.00", "member", 0)
    assert (others.user, others.role, others.running) == ("", "", 1)
    everybodys = read_project(call(platform, ALICE, ("lab",))).shares
    assert Decimal(others.credits) == sum(
        Decimal(row.credits) for row in everybodys if row.user != "bob"
    )
    assert "alice" not in str(view.shares) and "carol" not in str(view.shares)
    for viewer, users in ((BOB, ["", "bob"]), (ALICE, ["alice", "bob", "carol"])):
        export = EXPORTS["members"](call(platform, viewer, account=lab.id, days="7"))
        assert [row[0] for part in export.parts for row in part] == users


def test_a_statement_adds_up_to_the_last_micro_credit(platform: Platform, lab: Account) -> None:
    transfers.transfer(
        platform, lab.id, own_or_made(platform).id, 1_234_567, BOSS, reason="for a paper"
    )
    views = [read_statement(call(platform, ALICE, account=lab.id))]
    if views[0].previous:  # the use, days ago, may lie in the month before this one
        views.append(read_statement(call(platform, ALICE, **dict(parse_qsl(views[0].previous)))))
    amounts = [{words: _number(amount) for words, amount in view.sums} for view in views]
    assert amounts[0]["Transfers"] == Decimal("-1.234567")
    for view, sums in zip(views, amounts, strict=True):
        assert _number(view.opening) + sum(sums.values()) == _number(view.closing)
    shares: Counter[str] = Counter()
    for view in views:
        shares.update({who: use.microcredits for who, use in view.shares})
    assert shares == {"alice": 4 * MICRO, "bob": 3 * MICRO}


def own_or_made(platform: Platform) -> Account:
    past(platform, Past("carol", 0, HOUR, timedelta(minutes=1)))
    return own(platform, "carol")


def _number(shown: str) -> Decimal:
    return Decimal(shown.replace("−", "-").replace(",", ""))


def test_exact_amounts_are_written_with_all_their_decimals() -> None:
    assert [exact(amount) for amount in (5_200_000, -1, 1_234_567_890_000, 0)] == [
        "5.20",
        "−0.000001",
        "1,234,567.89",
        "0.00",
    ]


def test_the_balance_at_a_time_is_found_by_halving(platform: Platform) -> None:
    for days in (3, 2, 1):
        past(platform, Past("alice", 1, days * DAY, 2 * HOUR))
        past(platform, Past("bob", 1, days * DAY - 3 * HOUR, HOUR))
    account = own(platform, "alice")
    with platform.database.reading() as connection:
        rows = entries.page(connection, account.id, limit=1000)[::-1]
        times = [row.at for row in rows]
        assert len(rows) == 18 and times == sorted(times)
        edges = [*times, *(at + timedelta(microseconds=1) for at in times), times[0] - HOUR]
        for at in edges:
            before = [row for row in rows if row.at < at]
            found = bookkeeping.last_entry_before(connection, account.id, at)
            assert (found.id if found else None) == (before[-1].id if before else None)
        assert bookkeeping.last_entry_before(connection, "0" * 32, times[-1]) is None


@pytest.mark.parametrize("month", ["2026", "2026-13", "26-01", "2026-1", "x", "2199-01"])
def test_a_month_that_there_is_not_is_refused(platform: Platform, month: str) -> None:
    with pytest.raises(InvalidChoice):
        read_statement(call(platform, ALICE, month=month))


def test_entries_page_on_and_are_found_by_kind(platform: Platform, lab: Account) -> None:
    view = read_ledger_page(call(platform, ALICE, account=lab.id, show="moves"))
    assert [row.what for row in view.rows] == ["Grant"]
    every = read_ledger_page(call(platform, ALICE, account=lab.id))
    with platform.database.reading() as connection:
        assert len(every.rows) == len(entries.page(connection, lab.id, limit=1000)) == 16


# ---------------------------------------------------------------------------- exports


def rows_of(export: Export) -> list[dict[str, str]]:
    sent = csv_head(export.columns)
    sent += b"".join(csv_part(export.columns, part) for part in export.parts)
    return list(csv.DictReader(io.StringIO(sent.decode())))


@pytest.mark.parametrize("name", OWN_TABLES)
def test_every_table_can_be_had_as_csv_and_as_parquet_with_the_same_rows(
    platform: Platform, lab: Account, name: str
) -> None:
    with platform.database.reading() as connection:
        session = bookkeeping.sessions(connection, lab.id)[0].workload.id
    asked = call(platform, ALICE, account=lab.id, session=session)
    shown = rows_of(EXPORTS[name](asked))
    file = io.BytesIO()
    export = EXPORTS[name](asked)
    made = ParquetFile(file, export.columns)
    for part in export.parts:
        made.add(part)
    made.close()
    table = pq.read_table(file)
    assert shown and table.num_rows == len(shown)
    assert table.column_names == list(shown[0])


def test_amounts_are_exact_and_times_are_utc_in_exports(platform: Platform, lab: Account) -> None:
    rows = rows_of(EXPORTS["entries"](call(platform, ALICE, account=lab.id)))
    assert sum(int(row["microcredits"]) for row in rows) == 93 * MICRO
    assert sum(Decimal(row["credits"]) for row in rows) == 93
    assert all(row["at"].endswith("Z") for row in rows)
    assert datetime.fromisoformat(rows[0]["at"]).tzinfo == UTC


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", "\tx", "  =HYPERLINK()", "\rx"])
def test_no_text_of_an_export_is_a_formula(value: str) -> None:
    sent = csv_part([Column("reason")], [(value,)]).decode()
    (cell,) = next(csv.reader(io.StringIO(sent, newline="")))
    assert cell == f"'{value}"


def test_a_negative_number_stays_a_number() -> None:
    columns = [Column("a", Type.WHOLE), Column("b", Type.CREDITS), Column("c", Type.TIME)]
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    sent = csv_part(columns, [(-5, Decimal("-0.000005"), at)]).decode()
    assert sent == "-5,-0.000005,2026-01-02T03:04:05.000006Z\r\n"


def test_parquet_columns_have_exact_types() -> None:
    file = io.BytesIO()
    made = ParquetFile(file, [Column("a", Type.CREDITS), Column("b", Type.TIME)])
    made.add([(Decimal("1.500000"), datetime(2026, 1, 1, tzinfo=UTC)), (None, None)])
    made.close()
    schema = pq.read_schema(file)
    assert schema.field("a").type == pa.decimal128(24, 6)
    assert schema.field("b").type == pa.timestamp("us", tz="UTC")


def test_an_export_of_nothing_is_an_empty_table(platform: Platform) -> None:
    past(platform, Past("alice", 0, 20 * DAY, HOUR))
    assert rows_of(EXPORTS["sessions"](call(platform, ALICE, days="7"))) == []


def test_a_zone_is_told_beside_the_days_of_an_export(platform: Platform, lab: Account) -> None:
    asked = replace(
        call(platform, ALICE, account=lab.id), zone=Zone("Asia/Tokyo", ZoneInfo("Asia/Tokyo"))
    )
    assert {row["time_zone"] for row in rows_of(EXPORTS["days"](asked))} == {"Asia/Tokyo"}
