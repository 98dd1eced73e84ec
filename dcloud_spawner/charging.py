"""What runs is charged: the meter of each session, from its admission to its last entry.

    meters.open_admitted -> begin (ready) -> settle, as often as one likes -> finish (the end)

Charges are made from what the engine says (when a container started and ended) and what was
leased, never from samples. Every function works inside its caller's write transaction, so a
charge, its watermark, the balance and the use by the hour change together or not at all; and a
session's watermark only moves on, so the same time is never charged twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.engines.base import Health
from dcloud_spawner.ledger.cost import Piece, Quantity, Span, by_hour, cost, pieces, quantity
from dcloud_spawner.ledger.rates import MICRO, RateBook
from dcloud_spawner.store import entries, leases, meters, nodes, rates, workloads
from dcloud_spawner.store.entries import Entry, Kind, NewEntry
from dcloud_spawner.store.meters import HourlyUse, Meter
from dcloud_spawner.store.workloads import Workload

ACTOR = "meter"

NEVER_READY = "It never became ready, so it costs nothing."
VANISHED = "Its container was gone without a word; after {at:%Y-%m-%d %H:%M:%S} UTC it is free."
ENDED_BEFORE = "It had ended before what was charged."
REFUNDED_BEFORE = "Of what was charged after its end {credits:.6f} credits were refunded already."


def begin(connection: Connection, workload: Workload, now: datetime) -> None:
    """A session is ready: charges begin at the engine's start of its container."""
    meter = meters.find(connection, workload.id)
    if meter is None or meter.began_at is not None:
        return
    began = workload.engine_started_at or workload.ready_at or now
    meters.set_values(connection, workload.id, began_at=began, watermark_at=began)
    meters.add_span(connection, workload.id, _span(connection, workload, began))


def new_span(connection: Connection, identifier: str, now: datetime) -> None:
    """What a session holds may have changed (limits, a GPU's health): from now on it is charged
    by what it holds now. Does nothing where nothing changed or nothing is charged."""
    meter = meters.find(connection, identifier)
    if meter is None or meter.watermark_at is None or meter.settled_at is not None:
        return
    last = meters.spans_of(connection, identifier)[-1]
    span = _span(connection, workloads.get(connection, identifier), last.begins_at)
    if span != last:
        # Never into what is charged already, even when the clock was set back.
        begins = max(now, meter.watermark_at, last.begins_at)
        meters.add_span(connection, identifier, replace(span, begins_at=begins))


def _span(connection: Connection, workload: Workload, at: datetime) -> Span:
    units = {row.uuid: row for row in nodes.all_accelerators(connection)}
    held = [units[uuid] for uuid in leases.held_by(connection, workload.id)]
    # A driver that does not answer for a while says nothing about the GPU: it may well work.
    faults = [
        row
        for row in held
        if row.health is not Health.OK and row.health_reason != nodes.UNKNOWN_REASON
    ]
    return Span(
        at,
        dict(Counter(row.model for row in held)),
        workload.cpu_millicores,
        workload.memory_bytes,
        f"GPU {faults[0].index} of {faults[0].node} has a fault." if faults else "",
    )


def settle(connection: Connection, identifier: str, until: datetime, now: datetime) -> int:
    """Charge a session up to a time at which the engine said that it ran; returns the
    micro-credits. A time that is charged already costs nothing again."""
    meter = meters.find(connection, identifier)
    if meter is None or meter.settled_at is not None:
        return 0
    workload = workloads.get(connection, identifier)
    return _charge(connection, workload, meter, _at_most(workload, until), now)


def _at_most(workload: Workload, until: datetime) -> datetime:
    return min(until, workload.charge_until) if workload.charge_until else until


def finish(connection: Connection, workload: Workload, now: datetime) -> None:
    """The last settlement of a session that has ended, from the times on its row; what admission
    set aside is free again. A session that never became ready gets an entry that says so."""
    meter = meters.find(connection, workload.id)
    if meter is None or meter.settled_at is not None:
        return
    if meter.began_at is None or meter.watermark_at is None:
        _post_free(connection, meter, NEVER_READY, now)
    else:
        ended = workload.engine_finished_at
        if ended is None:  # what nobody saw it run costs nothing
            ended = meter.watermark_at
            _post_free(connection, meter, VANISHED.format(at=ended), now, at=ended)
        until = max(_at_most(workload, ended), meter.began_at)
        _charge(connection, workload, meter, until, now)
        if until < meter.watermark_at:
            _give_back(connection, workload, meter, until, now)
    meters.set_values(connection, workload.id, settled_at=now)


def _post_free(
    connection: Connection, meter: Meter, reason: str, now: datetime, at: datetime | None = None
) -> None:
    entry = NewEntry(
        meter.account,
        Kind.CHARGE,
        0,
        f"free:{meter.workload}",
        ACTOR,
        reason,
        workload=meter.workload,
        from_at=at,
        until_at=at,
    )
    entries.post(connection, entry, now)


def _charge(
    connection: Connection, workload: Workload, meter: Meter, until: datetime, now: datetime
) -> int:
    """Entries from the watermark until a time, one for each piece."""
    began, mark = meter.began_at, meter.watermark_at
    if began is None or mark is None or until <= mark:
        return 0
    book, spans = rates.read_book(connection), meters.spans_of(connection, workload.id)
    total, amounts = 0, Quantity()
    for piece in pieces(spans, workload.tier, book, mark, until):
        amount = _cost(workload, spans, book, began, piece.from_at, piece.until_at)
        held = quantity(spans, began, piece.from_at, piece.until_at)
        entries.post(connection, _entry(meter, piece, amount, held), now)
        meters.add_use(connection, _use(workload, meter, spans, book, piece))
        total, amounts = total + amount, amounts + held
    _advance(connection, meter, total, amounts, until)
    return total


def _cost(
    workload: Workload,
    spans: Sequence[Span],
    book: RateBook,
    began: datetime,
    from_at: datetime,
    until: datetime,
) -> int:
    tier = workload.tier
    return cost(spans, tier, book, began, until) - cost(spans, tier, book, began, from_at)


def _entry(meter: Meter, piece: Piece, amount: int, held: Quantity) -> NewEntry:
    return NewEntry(
        meter.account,
        Kind.CHARGE,
        -amount,
        f"charge:{meter.workload}:{piece.from_at.isoformat()}",
        ACTOR,
        f"Free: {piece.span.free_reason}" if piece.span.free_reason else "",
        workload=meter.workload,
        from_at=piece.from_at,
        until_at=piece.until_at,
        quantity=held,
        rates=piece.rates or None,
    )


def _use(
    workload: Workload, meter: Meter, spans: Sequence[Span], book: RateBook, piece: Piece
) -> list[HourlyUse]:
    """Use by the hour of one piece. What several models cost together is parted by their number
    of GPUs, the rest of it with the first."""
    began = meter.began_at
    assert began is not None
    models = sorted(piece.span.gpu_models.items()) or [("", 0)]
    rows = []
    for at, until in by_hour(piece.from_at, piece.until_at):
        amount = _cost(workload, spans, book, began, at, until)
        held = quantity(spans, began, at, until)
        gpus = max(1, piece.span.gpus)
        parts = [amount * count // gpus for _, count in models]
        parts[0] += amount - sum(parts)
        for number, (model, count) in enumerate(models):
            first = number == 0
            rows.append(
                HourlyUse(
                    meter.account,
                    meter.user,
                    model,
                    at.replace(minute=0, second=0, microsecond=0),
                    Quantity(
                        held.gpu_microseconds * count // gpus,
                        held.cpu_microseconds if first else 0,
                        held.memory_gib_microseconds if first else 0,
                    ),
                    parts[number],
                )
            )
    return rows


def _give_back(
    connection: Connection, workload: Workload, meter: Meter, until: datetime, now: datetime
) -> None:
    """A session had ended before what was charged (the clock was set back, or it was given back
    because nobody had opened it): the rest is not due."""
    assert meter.began_at is not None and meter.watermark_at is not None
    book, spans = rates.read_book(connection), meters.spans_of(connection, workload.id)
    amount = _cost(workload, spans, book, meter.began_at, until, meter.watermark_at)
    held = quantity(spans, meter.began_at, until, meter.watermark_at)
    refunded = _refunded_after(connection, workload, meter, until)
    reason = REFUNDED_BEFORE.format(credits=refunded / MICRO) if refunded else ""
    entry = NewEntry(
        meter.account,
        Kind.ADJUSTMENT,
        amount - refunded,
        f"back:{meter.workload}",
        ACTOR,
        f"{ENDED_BEFORE} {reason}".rstrip(),
        workload=meter.workload,
        from_at=until,
        until_at=meter.watermark_at,
        quantity=-held,
    )
    entries.post(connection, entry, now)
    for piece in pieces(spans, workload.tier, book, until, meter.watermark_at):
        used = _use(workload, meter, spans, book, piece)
        meters.add_use(
            connection,
            [replace(row, quantity=-row.quantity, microcredits=-row.microcredits) for row in used],
        )
    _advance(connection, meter, -amount, -held, until)


def _refunded_after(
    connection: Connection, workload: Workload, meter: Meter, until: datetime
) -> int:
    """What was refunded of charges for the time after ``until``. What was refunded of a charge
    counts first for that part of it: credits are never given back in two ways."""
    sums: Counter[int] = Counter()
    for refund in entries.refunds_of(connection, workload.id):
        assert refund.refund_of is not None
        sums[refund.refund_of] += refund.microcredits
    total = 0
    for identifier, refunded in sums.items():
        charge = entries.find(connection, identifier)
        if charge is not None:
            total += min(refunded, _part_after(connection, workload, meter, charge, until))
    return total


def _part_after(
    connection: Connection, workload: Workload, meter: Meter, charge: Entry, until: datetime
) -> int:
    """Of a charge, what is for the time after ``until``."""
    if charge.from_at is None or charge.until_at is None or charge.until_at <= until:
        return 0
    assert meter.began_at is not None
    book, spans = rates.read_book(connection), meters.spans_of(connection, workload.id)
    begins = max(charge.from_at, until)
    return _cost(workload, spans, book, meter.began_at, begins, charge.until_at)


def given_back(connection: Connection, charge: Entry) -> int:
    """Of a charge, what its session got back because it had ended before."""
    if charge.workload is None:
        return 0
    back = entries.find_by_key(connection, f"back:{charge.workload}")
    meter = meters.find(connection, charge.workload)
    if back is None or back.from_at is None or meter is None:
        return 0
    workload = workloads.get(connection, charge.workload)
    refunded = sum(
        refund.microcredits
        for refund in entries.refunds_of(connection, charge.workload)
        if refund.refund_of == charge.id and refund.id < back.id
    )
    return max(0, _part_after(connection, workload, meter, charge, back.from_at) - refunded)


def _advance(
    connection: Connection, meter: Meter, amount: int, held: Quantity, until: datetime
) -> None:
    meters.set_values(
        connection,
        meter.workload,
        watermark_at=until,
        charged_microcredits=meter.charged_microcredits + amount,
        gpu_microseconds=meter.gpu_microseconds + held.gpu_microseconds,
        cpu_microseconds=meter.cpu_microseconds + held.cpu_microseconds,
        memory_gib_microseconds=meter.memory_gib_microseconds + held.memory_gib_microseconds,
        free_microseconds=meter.free_microseconds + held.free_microseconds,
    )
