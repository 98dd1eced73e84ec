"""What homes and datasets cost: their size, for as long as nobody has measured it anew.

Storage has no start and end of its own, so it is the one thing that is charged by measuring. A
home whose size nobody knows costs nothing. Datasets cost their owner, a person or a project: all
versions, drafts and what lies in the bin. All functions block.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise

from sqlalchemy import Connection

from dcloud_spawner import accounting
from dcloud_spawner.ledger.cost import HOUR_MICROSECONDS
from dcloud_spawner.ledger.rates import GIB, HOURS_IN_MONTH, RateBook, Resource
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, datasets, entries, homes, rates, storage_meters
from dcloud_spawner.store.datasets import Owner
from dcloud_spawner.store.entries import Kind, NewEntry
from dcloud_spawner.store.homes import Home

EVERY = timedelta(days=1)
"""One entry a day for each home."""

LONGEST_NAME = 80
"""Characters of a volume in the key of an entry."""

_MICROSECOND = timedelta(microseconds=1)
_FORMER = re.compile(r" \(deleted, [0-9a-f]{8}\)$")
"""As what a deleted user leaves is called (``deleted_users``)."""


def charge_storage(platform: Platform) -> int:
    """Charge each home and each owner of datasets for whom a day is over since the last time;
    returns how many."""
    return _charge_homes(platform, utc_now()) + _charge_datasets(platform, utc_now())


def _charge_homes(platform: Platform, now: datetime) -> int:
    with platform.database.reading() as connection:
        marks = storage_meters.watermarks(connection)
        due = [
            home
            for home in homes.all_homes(connection)
            if now - marks.get(home.volume, datetime.min.replace(tzinfo=now.tzinfo)) >= EVERY
        ]
    for home in due:
        with platform.database.transaction() as connection:
            _charge(connection, platform, home, now)
    return len(due)


def _charge(connection: Connection, platform: Platform, home: Home, now: datetime) -> None:
    mark = storage_meters.watermarks(connection).get(home.volume)
    if mark is None:  # charges begin now: nobody knows how large it was before
        storage_meters.set_watermark(connection, home.volume, now)
        return
    if now - mark < EVERY:
        return
    storage_meters.set_watermark(connection, home.volume, now)
    if not home.size_bytes or home.user_deleted_at is not None:
        return
    mark = max(mark, home.created_at)  # an earlier home of this name was purged
    amount = int(storage_cost(rates.read_book(connection), home.size_bytes, mark, now))
    if not amount:
        return
    payer = accounting.ensure_personal(connection, platform.settings, home.user, now)
    entry = NewEntry(
        payer.id,
        Kind.CHARGE,
        -amount,
        f"storage:{_short(home.volume)}:{mark.isoformat()}",
        "meter",
        f"Home of {home.size_bytes / GIB:.1f} GiB",
        from_at=mark,
        until_at=now,
    )
    entries.post(connection, entry, now)


def _charge_datasets(platform: Platform, now: datetime) -> int:
    with platform.database.reading() as connection:
        marks = storage_meters.watermarks(connection)
        due = [
            owner
            for owner in datasets.owners(connection)
            if (mark := marks.get(_mark_of(owner))) is None or now - mark >= EVERY
        ]
    for owner in due:
        with platform.database.transaction() as connection:
            _charge_owner(connection, platform, owner, now)
    return len(due)


def _mark_of(owner: Owner) -> str:
    """The name of an owner among the volumes: one that no volume has."""
    return f"datasets/{owner.kind}/{_short(owner.name)}"


def _charge_owner(connection: Connection, platform: Platform, owner: Owner, now: datetime) -> None:
    name = _mark_of(owner)
    mark = storage_meters.watermarks(connection).get(name)
    if mark is not None and now - mark < EVERY:
        return
    storage_meters.set_watermark(connection, name, now)
    size_bytes = datasets.stored_by(connection, owner.kind, owner.name)
    if mark is None or not size_bytes:  # charges begin now, or there was nothing
        return
    amount = int(storage_cost(rates.read_book(connection), size_bytes, mark, now))
    payer = _payer(connection, platform, owner, now) if amount else None
    if payer is None:
        return
    entry = NewEntry(
        payer,
        Kind.CHARGE,
        -amount,
        f"storage:{name}:{mark.isoformat()}",
        "meter",
        f"Datasets of {size_bytes / GIB:.1f} GiB",
        from_at=mark,
        until_at=now,
    )
    entries.post(connection, entry, now)


def _payer(connection: Connection, platform: Platform, owner: Owner, now: datetime) -> str | None:
    """The account that pays; None for what is left of a deleted user or a closed project."""
    if owner.kind == datasets.PROJECT:
        found = accounts.find(connection, owner.name)
        return found.id if found is not None and found.closed_at is None else None
    if _FORMER.search(owner.name):
        return None
    return accounting.ensure_personal(connection, platform.settings, owner.name, now).id


def _short(volume: str) -> str:
    """The name, or for a long one a name of its own: many begin alike."""
    return volume if len(volume) <= LONGEST_NAME else sha256(volume.encode()).hexdigest()


def storage_cost(
    book: RateBook, size_bytes: int, from_at: datetime, until_at: datetime
) -> Fraction:
    """Micro-credits for some bytes over a time; a month has 30 days."""
    times = [from_at, *book.changes(from_at, until_at), until_at]
    total = Fraction(0)
    for at, until in pairwise(times):
        rate = book.of(Resource.STORAGE_GIB_MONTH, "", "", at)
        total += Fraction((until - at) // _MICROSECOND) * rate * size_bytes
    return total / (GIB * HOURS_IN_MONTH * HOUR_MICROSECONDS)
