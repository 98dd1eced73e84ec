"""Recomputes every session and the use by the hour, for ``ledger_verify``.

A session is made again from what it held (its spans, compared with its leases), the engine's times
and the rates: that its entries follow each other from its beginning to its watermark without a gap
and without an overlap, that each has the amount and the quantities of its time, and that after its
end the watermark is the engine's own finish time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from fractions import Fraction

from sqlalchemy import Connection

from dcloud_spawner.ledger.cost import (
    HOUR_MICROSECONDS,
    Piece,
    Quantity,
    by_hour,
    cost,
    pieces,
    quantity,
)
from dcloud_spawner.ledger.rates import MICRO, RateBook
from dcloud_spawner.store import ledger_rows
from dcloud_spawner.store import rates as rate_rows
from dcloud_spawner.store.entries import Entry, Kind
from dcloud_spawner.store.ledger_rows import HourKey, Session
from dcloud_spawner.store.schema import State

_NOTHING = [0, 0, 0, 0]

Hours = dict[HourKey, list[int]]
"""What was used in each hour: see ``HourSums``."""


def verify_sessions(connection: Connection, progress: Callable[[int], None]) -> Iterator[str]:
    """Sentences about sessions and hours that differ from what they were made of."""
    book = rate_rows.read_book(connection)
    hours: Hours = {}
    for session in ledger_rows.sessions(connection):
        yield from _verify(session, book, hours)
        progress(1 + len(session.entries))
    for identifier in ledger_rows.unmetered(connection):
        yield f"Session {identifier} was ready, and has no meter."
    yield from _compare_hours(connection, hours)


def _verify(session: Session, book: RateBook, hours: Hours) -> Iterator[str]:
    name = f"Session {session.workload.id} of {session.workload.server}"
    for sentence in _differences(session, book, hours):
        yield f"{name}: {sentence}."


def _differences(session: Session, book: RateBook, hours: Hours) -> Iterator[str]:
    workload, meter = session.workload, session.meter
    if (workload.state is State.ENDED) != (meter.settled_at is not None):
        done = "settled" if meter.settled_at else "not settled"
        yield f"it is {workload.state.value.lower()}, its meter is {done}"
    for entry in session.entries:
        if entry.account != meter.account and entry.kind is not Kind.REFUND:
            yield f"entry {entry.id} is on another account than its meter"
    mine = [entry for entry in session.entries if entry.kind is not Kind.REFUND]
    if meter.began_at is None or meter.watermark_at is None:
        yield from _not_ready(session, mine)
        return
    yield from _held(session)
    yield from _times(session, mine)
    walk = _Walk(session, book, hours)
    yield from walk.entries(mine)
    began, mark = meter.began_at, meter.watermark_at
    due = cost(session.spans, workload.tier, book, began, mark)
    if meter.charged_microcredits != due:
        yield (
            f"its meter counts {_credits(meter.charged_microcredits)}, "
            f"until {_moment(mark)} {_credits(due)} are due"
        )
    written = -sum(entry.microcredits for entry in mine)
    if written != due + walk.refunded_after:
        yield f"its entries add up to {_credits(written)}, {_credits(due)} are due"
    counted = Quantity(
        meter.gpu_microseconds,
        meter.cpu_microseconds,
        meter.memory_gib_microseconds,
        meter.free_microseconds,
    )
    if counted != quantity(session.spans, began, began, mark):
        yield f"its meter counts other quantities than were held until {_moment(mark)}"


def _not_ready(session: Session, mine: list[Entry]) -> Iterator[str]:
    if session.workload.ready_at is not None:
        yield "it was ready, and its meter never began"
    if session.meter.charged_microcredits or any(entry.microcredits for entry in mine):
        yield "it was charged, and never became ready"
    if session.meter.settled_at is not None and len(mine) != 1:
        yield f"it never became ready, and {len(mine)} entries say so"


def _held(session: Session) -> Iterator[str]:
    """Its spans against its leases and its engine's start."""
    if not session.spans:
        yield "nothing is written of what it held"
        return
    began = session.meter.began_at
    if session.spans[0].begins_at != began:
        yield f"what it held is written from {_moment(session.spans[0].begins_at)}, not {began}"
    if began != (session.workload.engine_started_at or session.workload.ready_at):
        yield f"its meter begins at {began}, the engine says {session.workload.engine_started_at}"
    for span in session.spans:
        if dict(span.gpu_models) != dict(session.leased):
            yield (
                f"from {_moment(span.begins_at)} it is charged for {_gpus(span.gpu_models)}, "
                f"it had leased {_gpus(session.leased)}"
            )


def _times(session: Session, mine: list[Entry]) -> Iterator[str]:
    """Its watermark against when the engine says that it ended."""
    workload, meter = session.workload, session.meter
    began, mark = meter.began_at, meter.watermark_at
    assert began is not None and mark is not None
    if meter.settled_at is None:
        return
    ended = workload.engine_finished_at
    if ended is None:
        if not any(entry.key.startswith("free:") for entry in mine):
            yield "nobody knows when it ended, and no entry says so"
        if workload.charge_until is not None and mark > workload.charge_until:
            yield f"it is charged until {_moment(mark)}, at most {workload.charge_until} is due"
        return
    due = max(began, min(ended, workload.charge_until or ended))
    if mark != due:
        yield f"it is charged until {_moment(mark)}, it ended at {_moment(due)}"


class _Walk:
    """The entries of one session, one after the other."""

    def __init__(self, session: Session, book: RateBook, hours: Hours) -> None:
        self._session = session
        self._book = book
        self._hours = hours
        assert session.meter.began_at is not None
        self._began: datetime = session.meter.began_at
        self._at = self._began
        self._exact = [Fraction(0)] * 3
        """Cost, core and GiB microseconds until there, not rounded."""
        self.refunded_after = 0
        """Of what was charged after its end, what was refunded before that was known."""

    def entries(self, mine: list[Entry]) -> Iterator[str]:
        """What is wrong with them."""
        charges = [entry for entry in mine if entry.key.startswith("charge:")]
        latest = max((entry.until_at or self._began for entry in charges), default=self._began)
        parts = self._pieces(self._began, latest)
        number = 0
        for entry in charges:
            if entry.from_at is None or entry.until_at is None or entry.from_at >= entry.until_at:
                yield f"entry {entry.id} is for no time"
                continue
            if entry.from_at < self._at:
                yield f"entry {entry.id} charges again from {_moment(entry.from_at)}"
            elif entry.from_at > self._at:
                yield f"nothing is charged from {_moment(self._at)} to {_moment(entry.from_at)}"
            while number + 1 < len(parts) and parts[number].until_at <= entry.from_at:
                number += 1
            piece = parts[number] if parts else None
            if (
                piece is None
                or not piece.from_at <= entry.from_at < entry.until_at <= piece.until_at
            ):
                yield f"entry {entry.id} is for a time in which something changed"
            else:
                part = Piece(entry.from_at, entry.until_at, piece.span, piece.rates, piece.an_hour)
                yield from self._entry(entry, part)
            self._at = max(self._at, entry.until_at)
        for entry in mine:
            if entry.key.startswith("back:"):
                yield from self._given_back(entry)
            elif not entry.key.startswith(("charge:", "free:")):
                yield f"entry {entry.id} is none of the meter's"
        if self._at != self._session.meter.watermark_at:
            mark = self._session.meter.watermark_at
            yield f"its entries end at {_moment(self._at)}, its watermark is {_moment(mark)}"

    def _pieces(self, begins: datetime, ends: datetime) -> list[Piece]:
        tier = self._session.workload.tier
        return list(pieces(self._session.spans, tier, self._book, begins, ends))

    def _entry(self, entry: Entry, part: Piece) -> Iterator[str]:
        amount = cpu = memory = 0
        for hour in _by_hour(part):
            before = [int(exact) for exact in self._exact]
            held = _exact(hour)
            self._exact = [total + more for total, more in zip(self._exact, held, strict=True)]
            more = [int(now) - was for now, was in zip(self._exact, before, strict=True)]
            self._count(hour, more[0], more[1], more[2])
            amount, cpu, memory = amount + more[0], cpu + more[1], memory + more[2]
        if entry.microcredits != -amount:
            yield (
                f"entry {entry.id} is of {_credits(-entry.microcredits)}, "
                f"{_credits(amount)} are due for its time"
            )
        gpu = 0 if part.span.free_reason else part.microseconds * part.span.gpus
        written = entry.gpu_microseconds, entry.cpu_microseconds, entry.memory_gib_microseconds
        if written != (gpu, cpu, memory):
            yield f"entry {entry.id} has other quantities than were held"
        if (entry.rates or None) != (dict(part.rates) or None):
            yield f"entry {entry.id} names other rates than were valid"

    def _count(self, part: Piece, amount: int, cpu: int, memory: int, sign: int = 1) -> None:
        """Use of a piece within one hour, parted among the models as their numbers are."""
        meter, gpus = self._session.meter, max(1, part.span.gpus)
        hour = part.from_at.replace(minute=0, second=0, microsecond=0)
        models = sorted(part.span.gpu_models.items()) or [("", 0)]
        shares = [amount * count // gpus for _, count in models]
        shares[0] += amount - sum(shares)
        for at, (model, count) in enumerate(models):
            gpu = 0 if part.span.free_reason else part.microseconds * count
            more = (gpu, 0 if at else cpu, 0 if at else memory, shares[at])
            sums = self._hours.setdefault((meter.account, meter.user, model, hour), [0] * 4)
            for place, each in enumerate(more):
                sums[place] += sign * each

    def _until(self, at: datetime) -> tuple[int, int, int]:
        session = self._session
        held = quantity(session.spans, self._began, self._began, at)
        due = cost(session.spans, session.workload.tier, self._book, self._began, at)
        return due, held.cpu_microseconds, held.memory_gib_microseconds

    def _refunded(self, back: Entry) -> Iterator[str]:
        """Charges that were refunded: nothing of them is given back in two ways."""
        refunds = [entry for entry in self._session.entries if entry.refund_of is not None]
        for charge in self._session.entries:
            mine = [entry for entry in refunds if entry.refund_of == charge.id]
            if not mine or charge.from_at is None or charge.until_at is None:
                continue
            part = 0
            if back.from_at is not None and back.from_at < charge.until_at:
                begins = max(back.from_at, charge.from_at)
                part = self._until(charge.until_at)[0] - self._until(begins)[0]
            before = sum(entry.microcredits for entry in mine if entry.id < back.id)
            self.refunded_after += min(before, part)
            given = sum(entry.microcredits for entry in mine) + max(0, part - before)
            if given > -charge.microcredits:
                yield (
                    f"of entry {charge.id} {_credits(given)} were given back, "
                    f"it was {_credits(-charge.microcredits)}"
                )

    def _given_back(self, entry: Entry) -> Iterator[str]:
        if entry.from_at is None or entry.until_at != self._at or entry.from_at >= self._at:
            yield f"entry {entry.id} gives back another time than was charged"
            return
        yield from self._refunded(entry)
        amount, cpu, memory = (
            now - was
            for now, was in zip(self._until(self._at), self._until(entry.from_at), strict=True)
        )
        amount -= self.refunded_after
        if entry.microcredits != amount:
            given = _credits(entry.microcredits)
            yield f"entry {entry.id} gives back {given}, {_credits(amount)} are not due"
        if (entry.cpu_microseconds, entry.memory_gib_microseconds) != (-cpu, -memory):
            yield f"entry {entry.id} gives back other quantities than were held"
        for piece in self._pieces(entry.from_at, self._at):
            for part in _by_hour(piece):
                ends, begins = self._until(part.until_at), self._until(part.from_at)
                more = [now - was for now, was in zip(ends, begins, strict=True)]
                self._count(part, more[0], more[1], more[2], sign=-1)
        self._at = entry.from_at


def _by_hour(part: Piece) -> Iterator[Piece]:
    """A piece cut at full hours."""
    for at, until in by_hour(part.from_at, part.until_at):
        yield Piece(at, until, part.span, part.rates, part.an_hour)


def _exact(part: Piece) -> tuple[Fraction, Fraction, Fraction]:
    """Cost, core and GiB microseconds of one piece, not rounded."""
    span = part.span
    if span.free_reason:
        return Fraction(0), Fraction(0), Fraction(0)
    return (
        part.an_hour * part.microseconds / HOUR_MICROSECONDS,
        Fraction(part.microseconds * span.cpu_millicores, 1000),
        Fraction(part.microseconds * span.memory_bytes, 2**30),
    )


def _compare_hours(connection: Connection, hours: Hours) -> Iterator[str]:
    for key, sums in ledger_rows.use_by_hour(connection):
        due = hours.pop(key, _NOTHING)
        if list(sums) != due:
            yield f"{_hour(key)}: {_use(sums)} are counted, {_use(due)} were used."
    for key, due in hours.items():
        if due != _NOTHING:
            yield f"{_hour(key)}: nothing is counted, {_use(due)} were used."


def _hour(key: HourKey) -> str:
    account, user, model, hour = key
    return f"Use of {user} on account {account} with {model or 'no GPU'} at {hour:%Y-%m-%d %H}:00"


def _use(sums: Sequence[int]) -> str:
    gpu, cpu, memory, amount = sums
    return (
        f"{gpu / MICRO:g} GPU-seconds, {cpu / MICRO:g} core-seconds, {memory / MICRO:g} "
        f"GiB-seconds and {_credits(amount)}"
    )


def _credits(microcredits: int) -> str:
    return f"{microcredits / MICRO:.6f} credits"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S.%f}" if at else "never"


def _gpus(models: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {model}" for model, count in models.items()) or "no GPU"
