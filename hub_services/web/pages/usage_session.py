"""One session: what it was, what it cost and why, and what it did, live while it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.form.words import (
    count_words,
    credits_figure,
    credits_words,
    gpus_words,
    length_words,
)
from dcloud_spawner.ledger.cost import Span
from dcloud_spawner.ledger.rates import GIB, MICRO
from dcloud_spawner.live.availability import model_words
from dcloud_spawner.scheduler.schedule import ends_at
from dcloud_spawner.store import accounts, bookkeeping, measures, meters, rates, usage
from dcloud_spawner.store.accounts import Account, Role
from dcloud_spawner.store.bookkeeping import Lines
from dcloud_spawner.store.measures import SessionMeasures
from dcloud_spawner.store.usage import Session
from hub_services.web.pages.days import Zone
from hub_services.web.pages.figures import (
    Ending,
    Figure,
    ending,
    gpu_hours,
    kwh,
    percent,
    session_gpus,
    session_length,
    signed,
    utc,
    when,
)
from hub_services.web.pages.payers import refused
from hub_services.web.pages.usage_graphs import Graphs, graphs
from hub_services.web.pages.usage_running import price_now
from hub_services.web.pages.views import Call

WINDOWS = ("all", "hour")
LIVE_SECONDS = 10
KINDS = {
    "charge": "Charge",
    "grant": "Grant",
    "transfer": "Transfer",
    "refund": "Given back",
    "adjustment": "Set right",
    "expiry": "Expired",
}


@dataclass(frozen=True)
class Fact:
    """One line of what is known of it."""

    label: str
    value: str
    exact: str = ""
    """For a title."""


@dataclass(frozen=True)
class LineRow:
    """Entries that are alike, as one."""

    what: str
    time: str
    exact: str
    amount: str
    gpu_hours: str
    rates: str
    words: str
    count: int


@dataclass(frozen=True)
class SessionView:
    """The page."""

    id: str
    title: str
    user: str
    ending: Ending
    live: bool
    seconds: int
    clock: str
    figures: tuple[Figure, ...]
    facts: tuple[Fact, ...]
    held: tuple[Fact, ...]
    """What it held when, where that changed."""
    lines: tuple[LineRow, ...]
    graphs: Graphs
    window: str
    account_id: str
    """Empty where the viewer may not see the account."""
    export: str


def read_session(call: Call) -> SessionView:
    """Everything of one session. Blocks."""
    window = call.one_of("window", WINDOWS)
    with call.platform.database.reading() as connection:
        found = visible_session(connection, call, call.path[0])
        account = accounts.get(connection, found.meter.account)
        role = accounts.role_in(connection, account, call.viewer.name)
        spans = meters.spans_of(connection, found.workload.id)
        _, used = price_now(found, spans, rates.read_book(connection), call.now)
        lines = bookkeeping.lines_of(connection, found.workload.id)
        measured = measures.of_session(connection, found.workload.id)
        drawn = _graphs(connection, call, found, window)
    profile = call.platform.profiles.current().get(found.workload.profile)
    server = found.workload.server_name
    title = profile.title if profile else found.workload.profile
    return SessionView(
        id=found.workload.id,
        title=f"{title}, {server}" if server else title,
        user=found.workload.user,
        ending=ending(found, call.viewer.name),
        live=found.meter.settled_at is None,
        seconds=LIVE_SECONDS,
        clock=f"{call.zone.local(call.now):%H:%M:%S}",
        figures=_figures(call, found, used, measured),
        facts=_facts(call, found, account, spans[-1].gpu_models if spans else None),
        held=tuple(_held(span, call) for span in spans) if len(spans) > 1 else (),
        lines=tuple(_line(each, call) for each in lines),
        graphs=drawn,
        window=window,
        account_id=account.id if role is not None or call.viewer.administrator else "",
        export=f"session={found.workload.id}",
    )


def visible_session(connection: Connection, call: Call, identifier: str) -> Session:
    """A session that the viewer may see: their own, one that an account of theirs paid for as an
    owner, and for administrators every one. The same refusal for others' and for none."""
    found = usage.find_session(connection, identifier[:64])
    if found is None:
        raise refused()
    if call.viewer.may_see(found.meter.user):
        return found
    account = accounts.find(connection, found.meter.account)
    owner = (
        account is not None
        and call.viewer.person
        and accounts.role_in(connection, account, call.viewer.name) is Role.OWNER
    )
    if not owner:
        raise refused()
    return found


def _graphs(connection: Connection, call: Call, session: Session, window: str) -> Graphs:
    workload = session.workload
    begun = workload.engine_started_at or session.meter.began_at or workload.admitted_at
    begun = begun or call.now
    until = max(workload.engine_finished_at or workload.ended_at or call.now, begun)
    if window == "hour":
        begun = max(begun, until - timedelta(hours=1))
    until = max(until, begun + timedelta(seconds=measures.SAMPLE))
    pieces = measures.series(connection, workload.id, begun, until)
    return graphs(pieces, begun, until, call.zone, call.now, has_gpus=workload.gpus > 0)


def _figures(
    call: Call, session: Session, used: int, measured: SessionMeasures | None
) -> tuple[Figure, ...]:
    workload, meter = session.workload, session.meter
    over = meter.settled_at is not None
    figures = measured.figures if measured else None
    use = figures.gpu_utilisation_percent if figures and workload.gpus else None
    gpus = (
        Figure("GPU time", gpu_hours(meter.gpu_microseconds), "GPU-hours"),
        Figure("Mean GPU use", percent(None if use is None else use / 100)),
    )
    return (
        Figure("Cost" if over else "Cost so far", credits_figure(used), "credits"),
        Figure("Length" if over else "Running for", session_length(session, call.now)),
        *(gpus if workload.gpus else ()),
        Figure("Energy", kwh(figures.energy_millijoules if figures else None), "kWh"),
    )


def _facts(
    call: Call, session: Session, account: Account, models: Mapping[str, int] | None
) -> tuple[Fact, ...]:
    workload, meter = session.workload, session.meter
    over = workload.engine_finished_at or workload.ended_at
    stops = ends_at(workload, call.now)

    def at(label: str, moment: datetime | None) -> Fact:
        return Fact(label, when(moment, call.zone, call.now), utc(moment))

    found = [
        Fact("Who", workload.user),
        Fact("Paid by", account.shown_name),
        Fact("GPUs", session_gpus(session, models)),
        Fact("Memory and cores", _size(workload.memory_bytes, workload.cpu_millicores)),
        Fact("Node", workload.node or "–"),
        Fact("Tier", workload.tier),
        at("Asked for", workload.submitted_at),
        at("Started", meter.began_at),
    ]
    if meter.settled_at is None:
        found.append(at("Stops at the latest", stops))
        held = max(0, meter.held_microcredits - meter.charged_microcredits)
        if held:
            found.append(Fact("Set aside for it", credits_words(held)))
    else:
        found.append(at("Ended", over))
    if meter.free_microseconds:
        found.append(Fact("Of it free", length_words(meter.free_microseconds / 1e6)))
    if workload.end_detail:
        found.append(Fact("What was said", workload.end_detail))
    return tuple(found)


def _size(memory_bytes: int, cpu_millicores: int) -> str:
    return f"{memory_bytes / GIB:g} GiB, {count_words(cpu_millicores / 1000, 'core')}"


def _held(span: Span, call: Call) -> Fact:
    gpus = [gpus_words(count, model) for model, count in span.gpu_models.items()]
    held = ", ".join([*gpus, _size(span.memory_bytes, span.cpu_millicores)])
    free = f". Free: {span.free_reason}" if span.free_reason else ""
    return Fact(f"from {when(span.begins_at, call.zone, call.now)}", f"{held}{free}")


def _line(lines: Lines, call: Call) -> LineRow:
    at = lines.from_at or lines.first_at
    return LineRow(
        what=KINDS[lines.kind.value],
        time=span_words(at, lines.until_at, call.zone, call.now),
        exact=f"{utc(at)} to {utc(lines.until_at)}" if lines.until_at else utc(at),
        amount=signed(lines.microcredits),
        gpu_hours=f"{lines.gpu_microseconds / 3.6e9:.2f}" if lines.gpu_microseconds else "–",
        rates=rates_words(lines.rates),
        words=lines.reason or ("By the minute while it ran" if lines.count > 1 else ""),
        count=lines.count,
    )


def span_words(from_at: datetime, until_at: datetime | None, zone: Zone, now: datetime) -> str:
    """``20 Nov, 14:22–16:05``; the day twice where it ends on another one."""
    begun = when(from_at, zone, now)
    if until_at is None or until_at == from_at:
        return begun
    if zone.day(from_at) == zone.day(until_at):
        return f"{begun}–{zone.local(until_at):%H:%M}"
    return f"{begun} – {when(until_at, zone, now)}"


def rates_words(stored: str) -> str:
    """Rates of an entry an hour: ``A100 80 GB 1.00``; what is free is left out."""
    if not stored:
        return ""
    found: dict[str, int] = json.loads(stored)
    names = {"cpu_core": "core", "memory_gib": "GiB"}
    parts = []
    for key, amount in found.items():
        if not amount:
            continue
        name = model_words(key.removeprefix("gpu:")) if key.startswith("gpu:") else names[key]
        parts.append(f"{name} {_rate(amount)}")
    return ", ".join(parts)


def _rate(microcredits: int) -> str:
    text = f"{microcredits / MICRO:.6f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"
