"""What runs now on an account: drawn with the page, and again every few seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.form.words import credits_figure
from dcloud_spawner.ledger.cost import Span, cost
from dcloud_spawner.ledger.rates import GIB, RateBook, hourly
from dcloud_spawner.measuring.figures import Figures
from dcloud_spawner.profiles import Profile
from dcloud_spawner.scheduler.schedule import ends_at
from dcloud_spawner.store import bookkeeping, measures, meters, rates
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.usage import Session
from hub_services.web.pages.figures import (
    ending,
    kwh,
    percent,
    session_gpus,
    session_length,
    when,
)
from hub_services.web.pages.payers import Payer, chosen
from hub_services.web.pages.views import Call

LIVE_SECONDS = 5
"""How often the page asks again."""

SPARK_POINTS = 60
SAMPLE = timedelta(seconds=measures.SAMPLE)
FRESH = 4
"""Samples that may be missing before nothing is known of now."""
SPARK_WIDTH, SPARK_HEIGHT = 160, 32


@dataclass(frozen=True)
class RunningRow:
    """One server that runs or starts."""

    id: str
    name: str
    about: str
    user: str
    """Empty where it is the viewer's."""
    gpu_use: str
    spark: str
    """Path of the last minutes' GPU use; empty where nothing was measured."""
    memory: str
    memory_of: str
    length: str
    cost: str
    energy: str
    stops: str
    open_path: str
    """Below the hub's user path; empty where it cannot be opened."""


@dataclass(frozen=True)
class RunningView:
    """All of an account that the viewer may see."""

    rows: tuple[RunningRow, ...]
    at: datetime
    clock: str
    account: str
    seconds: int = LIVE_SECONDS
    burn: Fraction = Fraction(0)
    """Micro-credits an hour of what is shown."""
    unsettled: int = 0
    """Micro-credits that are used and not charged yet."""


def read_running(call: Call) -> RunningView:
    """The part of the page alone."""
    with call.platform.database.reading() as connection:
        payer, _ = chosen(connection, call)
        return running_of(connection, call, payer)


def running_of(connection: Connection, call: Call, payer: Payer | None) -> RunningView:
    """What runs on an account now."""
    clock = f"{call.zone.local(call.now):%H:%M:%S}"
    if payer is None:
        return RunningView((), call.now, clock, "")
    found = bookkeeping.running(connection, payer.id, payer.only)
    book = rates.read_book(connection)
    held = {each.workload.id: meters.spans_of(connection, each.workload.id) for each in found}
    measured = measures.of_sessions(connection, tuple(held))
    profiles = call.platform.profiles.current()
    burn, unsettled, rows = Fraction(0), 0, []
    for each in found:
        spans = held[each.workload.id]
        price, used = price_now(each, spans, book, call.now)
        burn, unsettled = burn + price, unsettled + used - each.meter.charged_microcredits
        last = _recent(connection, each, call.now)
        total = measured[each.workload.id].figures if each.workload.id in measured else None
        rows.append(_row(call, each, profiles, spans, used, last, total))
    return RunningView(tuple(rows), call.now, clock, payer.id, burn=burn, unsettled=unsettled)


def price_now(
    session: Session, spans: Sequence[Span], book: RateBook, now: datetime
) -> tuple[Fraction, int]:
    """Micro-credits an hour of a session now, and what it has cost until now."""
    workload, meter = session.workload, session.meter
    if not spans or meter.began_at is None or workload.state is not State.RUNNING:
        return Fraction(0), meter.charged_microcredits
    last, tier = spans[-1], workload.tier
    until = min(now, workload.charge_until) if workload.charge_until else now
    used = cost(spans, tier, book, meter.began_at, max(until, meter.began_at))
    free = bool(last.free_reason) or until < now
    held = (last.gpu_models, last.cpu_millicores, last.memory_bytes)
    price = Fraction(0) if free else hourly(book, *held, tier, now)
    return price, max(used, meter.charged_microcredits)


def _recent(connection: Connection, session: Session, now: datetime) -> Sequence[Figures | None]:
    """The last samples, the newest last; None where there is none, and where it is too old."""
    if session.workload.state is not State.RUNNING:
        return ()
    begun = now - SPARK_POINTS * SAMPLE
    found = measures.series(connection, session.workload.id, begun, now, measures.SAMPLE)
    at = {(now - each.at) // SAMPLE: each.figures for each in found}
    points = [at.get(back) for back in range(SPARK_POINTS, -1, -1)]
    newest = next((number for number in range(1, FRESH + 1) if points[-number]), 0)
    return points[: len(points) - newest + 1] if newest else [*points, None]


def _row(
    call: Call,
    session: Session,
    profiles: Mapping[str, Profile],
    spans: Sequence[Span],
    used: int,
    recent: Sequence[Figures | None],
    total: Figures | None,
) -> RunningRow:
    workload = session.workload
    profile = profiles.get(workload.profile)
    title = profile.title if profile else workload.profile
    gpus = session_gpus(session, spans[-1].gpu_models if spans else None)
    gpus = "no GPU" if gpus == "none" else gpus
    place = f", {workload.node}" if workload.node else ""
    own = call.viewer.owns(workload.user)
    memory, of = _memory(session, recent)
    uses = [each.gpu_utilisation_percent if each else None for each in recent]
    known = [use for use in uses if use is not None]
    is_open = workload.state is State.RUNNING and own
    return RunningRow(
        id=workload.id,
        name=workload.server_name or "default server",
        about=f"{title}, {gpus}{place}",
        user="" if own else workload.user,
        gpu_use=percent(known[-1] / 100 if known and uses[-1] is not None else None),
        spark=spark(uses),
        memory=memory,
        memory_of=of,
        length=session_length(session, call.now)
        if session.meter.began_at
        else ending(session, call.viewer.name).words.lower(),
        cost=credits_figure(used),
        energy=kwh(total.energy_millijoules if total else None),
        stops=when(ends_at(workload, call.now), call.zone, call.now).removeprefix("Today, "),
        open_path=f"{workload.user}/{workload.server_name}" if is_open else "",
    )


def _memory(session: Session, recent: Sequence[Figures | None]) -> tuple[str, str]:
    last = recent[-1] if recent else None
    if session.workload.gpus and last is not None and last.gpu_memory_bytes is not None:
        return f"{last.gpu_memory_bytes / GIB:.1f}", "GiB of its GPUs"
    if last is not None and last.memory_bytes is not None:
        return f"{last.memory_bytes / GIB:.1f}", f"of {session.workload.memory_bytes / GIB:g} GiB"
    return "–", ""


def spark(percents: Sequence[float | None]) -> str:
    """The path of a small line; gaps where nothing was measured."""
    if len(percents) < 2 or all(each is None for each in percents):
        return ""
    step = SPARK_WIDTH / (len(percents) - 1)
    path, drawn = [], False
    for number, value in enumerate(percents):
        if value is None:
            drawn = False
            continue
        y = (SPARK_HEIGHT - 2) * (1 - min(100.0, value) / 100) + 1
        path.append(f"{'L' if drawn else 'M'}{number * step:.1f} {y:.1f}")
        drawn = True
    return "".join(path)
