"""Recomputes what storage was charged, for ``ledger_verify``: each entry from the size that it was
made from, its time and the rates, and that no time of a home or of datasets is charged twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.ledger.cost import storage_cost
from dcloud_spawner.ledger.rates import MICRO, RateBook
from dcloud_spawner.storage_charges import subject_of
from dcloud_spawner.store import rates, storage_meters
from dcloud_spawner.store.entries import Entry
from dcloud_spawner.store.storage_meters import StorageCharge


def verify_storage(connection: Connection) -> Iterator[str]:
    """Sentences about charges for storage that differ from what they were made of."""
    book = rates.read_book(connection)
    ends: dict[str, datetime] = {}
    for charge, entry in storage_meters.charges(connection):
        name = f"Storage {charge.subject} from {_moment(charge.from_at)}"
        last = ends.get(charge.subject)
        if last is not None and charge.from_at < last:
            yield f"{name}: it is charged until {_moment(last)} already."
        ends[charge.subject] = max(charge.until_at, last or charge.until_at)
        for sentence in _differences(charge, entry, book):
            yield f"{name}: {sentence}."
    marks = {subject_of(name): at for name, at in storage_meters.watermarks(connection).items()}
    for subject, end in ends.items():
        mark = marks.get(subject)
        if mark is None or mark < end:
            says = _moment(mark) if mark else "nothing"
            yield f"Storage {subject}: it is charged until {_moment(end)}, its meter says {says}."
    for identifier in storage_meters.unexplained(connection):
        yield f"Entry {identifier} is a charge of no session and of no measured storage."


def _differences(charge: StorageCharge, entry: Entry | None, book: RateBook) -> Iterator[str]:
    if entry is None:
        yield "it was measured, and no entry charges it"
        return
    if entry.account != charge.account:
        yield f"entry {entry.id} is on another account than its owner's"
    if (entry.from_at, entry.until_at) != (charge.from_at, charge.until_at):
        yield f"entry {entry.id} is for another time"
    if charge.from_at >= charge.until_at:
        yield f"entry {entry.id} is for no time"
    elif charge.size_bytes is not None:
        due = int(storage_cost(book, charge.size_bytes, charge.from_at, charge.until_at))
        if entry.microcredits != -due:
            yield (
                f"entry {entry.id} is of {_credits(-entry.microcredits)}, {_credits(due)} are due "
                f"for {charge.size_bytes} bytes until {_moment(charge.until_at)}"
            )


def _credits(microcredits: int) -> str:
    return f"{microcredits / MICRO:.6f} credits"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S.%f}"
