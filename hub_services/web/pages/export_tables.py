"""The tables that can be had as files, each for who may see it on a page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime

from sqlalchemy import Connection

from dcloud_spawner.errors import NotFound
from dcloud_spawner.ledger.rates import GIB
from dcloud_spawner.store import accounts, bookkeeping, entries, measures
from dcloud_spawner.store.bookkeeping import Cursor, HourOfUse
from dcloud_spawner.store.entries import Entry
from dcloud_spawner.store.measures import SessionMeasures
from dcloud_spawner.store.usage import Session, Use
from hub_services.web.pages.administration_tables import ADMINISTRATION_EXPORTS
from hub_services.web.pages.exporting import Column, Export, Row, Type, credits
from hub_services.web.pages.figures import HOUR_MICROSECONDS, KWH_MILLIJOULES
from hub_services.web.pages.payers import Payer, chosen, parts_of
from hub_services.web.pages.usage import PERIODS
from hub_services.web.pages.usage_days import sum_of
from hub_services.web.pages.usage_graphs import KINDS
from hub_services.web.pages.usage_ledger import SHOWN, month_of
from hub_services.web.pages.usage_session import visible_session
from hub_services.web.pages.views import Call

PART = 1000
MEASURES_SECONDS = 60

USE = (
    Column("gpu_hours", Type.NUMBER),
    Column("gpu_microseconds", Type.WHOLE),
    Column("cpu_core_microseconds", Type.WHOLE),
    Column("memory_gib_microseconds", Type.WHOLE),
    Column("cost_microcredits", Type.WHOLE),
    Column("cost_credits", Type.CREDITS),
    Column("measured_gpu_microseconds", Type.WHOLE),
    Column("busy_gpu_microseconds", Type.WHOLE),
    Column("energy_millijoules", Type.WHOLE),
    Column("energy_kwh", Type.NUMBER),
)

SESSIONS = (
    *(Column(name) for name in ("session", "user", "account", "profile", "server", "tier")),
    Column("gpus", Type.WHOLE),
    *(Column(name) for name in ("gpu_models",)),
    Column("memory_gib", Type.NUMBER),
    Column("cpu_cores", Type.NUMBER),
    *(Column(f"{name}_at", Type.TIME) for name in ("submitted", "admitted", "started", "ended")),
    *(Column(name) for name in ("state", "end_reason", "end_detail")),
    Column("charged_microcredits", Type.WHOLE),
    Column("charged_credits", Type.CREDITS),
    *(
        Column(f"{name}_microseconds", Type.WHOLE)
        for name in ("gpu", "cpu_core", "memory_gib", "free")
    ),
    Column("gpu_hours", Type.NUMBER),
    Column("gpu_use_percent", Type.NUMBER),
    Column("energy_millijoules", Type.WHOLE),
    Column("energy_kwh", Type.NUMBER),
)

ENTRIES = (
    Column("entry", Type.WHOLE),
    Column("account"),
    Column("at", Type.TIME),
    Column("kind"),
    Column("microcredits", Type.WHOLE),
    Column("credits", Type.CREDITS),
    Column("balance_after_microcredits", Type.WHOLE),
    Column("balance_after_credits", Type.CREDITS),
    Column("session"),
    Column("from_at", Type.TIME),
    Column("until_at", Type.TIME),
    *(Column(f"{name}_microseconds", Type.WHOLE) for name in ("gpu", "cpu_core", "memory_gib")),
    Column("rates_microcredits_an_hour"),
    Column("by"),
    Column("reason"),
    Column("other_account"),
    Column("refund_of", Type.WHOLE),
)


def sessions(call: Call) -> Export:
    """Sessions of an account in a time."""
    payer, from_at, until = _of(call)

    def parts() -> Iterator[Sequence[Row]]:
        after: Cursor | None = None
        while True:
            with call.platform.database.reading() as connection:
                found = bookkeeping.sessions(
                    connection,
                    payer.id,
                    since=from_at,
                    until=until,
                    user=payer.only,
                    after=after,
                    limit=PART,
                )
                ids = [each.workload.id for each in found]
                measured = measures.of_sessions(connection, ids)
                models = bookkeeping.models_of(connection, ids)
            if not found:
                return
            yield [
                _session(
                    each, payer, measured.get(each.workload.id), models.get(each.workload.id, {})
                )
                for each in found
            ]
            last = found[-1].workload
            assert last.admitted_at is not None
            after = Cursor(last.admitted_at, last.sequence)

    return Export(_name("sessions", payer, from_at), SESSIONS, parts())


def _session(
    session: Session, payer: Payer, found: SessionMeasures | None, models: dict[str, int]
) -> Row:
    workload, meter = session.workload, session.meter
    figures = found.figures if found else None
    energy = figures.energy_millijoules if figures else None
    return (
        workload.id,
        workload.user,
        payer.account.name,
        workload.profile,
        workload.server_name,
        workload.tier,
        workload.gpus,
        ", ".join(f"{count} x {model}" for model, count in sorted(models.items())),
        workload.memory_bytes / GIB,
        workload.cpu_millicores / 1000,
        workload.submitted_at,
        workload.admitted_at,
        meter.began_at,
        workload.engine_finished_at or workload.ended_at,
        workload.state.value,
        workload.end_reason,
        workload.end_detail,
        meter.charged_microcredits,
        credits(meter.charged_microcredits),
        meter.gpu_microseconds,
        meter.cpu_microseconds,
        meter.memory_gib_microseconds,
        meter.free_microseconds,
        meter.gpu_microseconds / HOUR_MICROSECONDS,
        figures.gpu_utilisation_percent if figures else None,
        energy,
        None if energy is None else energy / KWH_MILLIJOULES,
    )


def hours(call: Call) -> Export:
    """Use of an account by user, GPU model and hour of UTC."""
    payer, from_at, until = _of(call)
    columns = (Column("hour", Type.TIME), Column("user"), Column("gpu_model"), *USE)

    def parts() -> Iterator[Sequence[Row]]:
        offset = 0
        while True:
            with call.platform.database.reading() as connection:
                found = bookkeeping.hours_by_user(
                    connection, payer.id, from_at, until, payer.only, limit=PART, offset=offset
                )
            if not found:
                return
            yield [(each.hour, each.user, each.gpu_model, *_use(each.use)) for each in found]
            offset += len(found)

    return Export(_name("use-by-hour", payer, from_at), columns, parts())


def days(call: Call) -> Export:
    """Use of an account by GPU model and the reader's day."""
    payer, from_at, until = _of(call)
    columns = (Column("day", Type.DAY), Column("time_zone"), Column("gpu_model"), *USE)

    def parts() -> Iterator[Sequence[Row]]:
        with call.platform.database.reading() as connection:
            found = bookkeeping.hours(connection, payer.id, from_at, until, payer.only)
        grouped: defaultdict[tuple[date, str], list[HourOfUse]] = defaultdict(list)
        for each in found:
            grouped[call.zone.day(each.hour), each.gpu_model].append(each)
        yield [
            (day, call.zone.name, model, *_use(sum_of(group)))
            for (day, model), group in sorted(grouped.items())
        ]

    return Export(_name("use-by-day", payer, from_at), columns, parts())


def members(call: Call) -> Export:
    """What each person used of a project in a time. A member gets their own part, and that of
    everybody else together beside no name."""
    payer, from_at, until = _of(call)
    columns = (Column("user"), Column("role"), *USE)

    def parts() -> Iterator[Sequence[Row]]:
        with call.platform.database.reading() as connection:
            used = parts_of(payer, bookkeeping.shares(connection, payer.id, from_at, until))
            roles = {
                each.user: each.role.value
                for each in accounts.members(connection, payer.id)
                if payer.only in ("", each.user)
            }
        yield [
            (user, roles.get(user, ""), *_use(used.get(user, Use())))
            for user in sorted({*used, *roles})
        ]

    return Export(_name("members", payer, from_at), columns, parts())


def _use(use: Use) -> Row:
    return (
        use.gpu_microseconds / HOUR_MICROSECONDS,
        use.gpu_microseconds,
        use.cpu_microseconds,
        use.memory_gib_microseconds,
        use.microcredits,
        credits(use.microcredits),
        use.measured_microseconds,
        use.busy_microseconds,
        use.energy_millijoules,
        use.energy_millijoules / KWH_MILLIJOULES,
    )


def ledger(call: Call) -> Export:
    """Entries of an account, the newest first."""
    kinds = SHOWN[call.one_of("show", tuple(SHOWN))]
    with call.platform.database.reading() as connection:
        payer = _payer(connection, call)

    def parts() -> Iterator[Sequence[Row]]:
        before: int | None = None
        while True:
            with call.platform.database.reading() as connection:
                found = bookkeeping.page(
                    connection, payer.id, kinds=kinds, user=payer.only, before=before, limit=PART
                )
                names = _names(connection, found)
            if not found:
                return
            yield [_entry(each, names) for each in found]
            before = found[-1].id

    return Export(f"entries-{_safe(payer.account.name)}", ENTRIES, parts())


def session_entries(call: Call) -> Export:
    """Entries of one session, one by one."""
    with call.platform.database.reading() as connection:
        found = visible_session(connection, call, call.text("session"))

    def parts() -> Iterator[Sequence[Row]]:
        with call.platform.database.reading() as connection:
            rows = entries.of_workload(connection, found.workload.id)
            names = _names(connection, rows)
        for begin in range(0, len(rows), PART):
            yield [_entry(each, names) for each in rows[begin : begin + PART]]

    return Export(f"session-{found.workload.id}", ENTRIES, parts())


def _names(connection: Connection, found: Sequence[Entry]) -> dict[str, str]:
    wanted = {each.account for each in found}
    wanted |= {each.other_account for each in found if each.other_account}
    return dict(accounts.names_of(connection, wanted)) if wanted else {}


def _entry(entry: Entry, names: dict[str, str]) -> Row:
    return (
        entry.id,
        names.get(entry.account, entry.account),
        entry.at,
        entry.kind.value,
        entry.microcredits,
        credits(entry.microcredits),
        entry.balance_after,
        credits(entry.balance_after),
        entry.workload or "",
        entry.from_at,
        entry.until_at,
        entry.gpu_microseconds,
        entry.cpu_microseconds,
        entry.memory_gib_microseconds,
        json.dumps(entry.rates) if entry.rates else "",
        entry.actor,
        entry.reason,
        names.get(entry.other_account or "", ""),
        entry.refund_of,
    )


def session_measures(call: Call) -> Export:
    """Measures of one session by the minute, or by the hour where minutes are no longer kept."""
    with call.platform.database.reading() as connection:
        found = visible_session(connection, call, call.text("session"))
    lines = [(kind, line) for kind in KINDS for line in kind.lines]
    columns = (
        Column("from", Type.TIME),
        Column("seconds", Type.WHOLE),
        *(
            Column(
                "_".join(part for part in (kind.id.replace("-", "_"), line.label) if part)
                + f" ({kind.unit})",
                Type.NUMBER,
            )
            for kind, line in lines
        ),
    )
    workload = found.workload
    begun = workload.engine_started_at or workload.submitted_at

    def parts() -> Iterator[Sequence[Row]]:
        with call.platform.database.reading() as connection:
            span = (workload.id, begun, workload.ended_at or call.now)
            pieces = measures.series(connection, *span, MEASURES_SECONDS)
            pieces = pieces or measures.series(connection, *span, measures.HOUR)
        for begin in range(0, len(pieces), PART):
            yield [
                (piece.at, piece.seconds, *(line.value(piece.figures) for _, line in lines))
                for piece in pieces[begin : begin + PART]
            ]

    return Export(f"measures-{workload.id}", columns, parts())


# ---------------------------------------------------------------------------- of which


def _payer(connection: Connection, call: Call) -> Payer:
    payer, _ = chosen(connection, call)
    if payer is None:
        raise NotFound("You have no account yet.", hint="It is opened with your first server.")
    return payer


def _of(call: Call) -> tuple[Payer, datetime, datetime]:
    """The account, and the month or the last days that the address names."""
    if call.text("month"):
        from_at, until = call.zone.month(*month_of(call))
    else:
        count = int(call.one_of("days", PERIODS))
        from_at, until = call.zone.midnight(call.zone.last_days(call.now, count)[0]), call.now
    with call.platform.database.reading() as connection:
        return _payer(connection, call), from_at, min(until, call.now)


def _name(table: str, payer: Payer, from_at: datetime) -> str:
    return f"{table}-{_safe(payer.account.name)}-{from_at:%Y-%m-%d}"


def _safe(name: str) -> str:
    """For the name of a file."""
    kept = "".join(each if each.isascii() and each.isalnum() else "-" for each in name)
    return kept[:64].strip("-") or "account"


EXPORTS: dict[str, Callable[[Call], Export]] = {
    "sessions": sessions,
    "hours": hours,
    "days": days,
    "members": members,
    "entries": ledger,
    "session": session_entries,
    "measures": session_measures,
    **ADMINISTRATION_EXPORTS,
}
"""By the name that the address gives. Checked at once, read when it is sent."""
