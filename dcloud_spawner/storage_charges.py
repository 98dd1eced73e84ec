"""What homes and datasets cost: their size, for as long as nobody has measured it anew.

Storage has no start and end of its own, so it is the one thing that is charged by measuring. A
home whose size nobody knows costs nothing. Datasets cost their owner, a person or a project: all
versions, drafts and what lies in the bin. All functions block.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from hashlib import sha256

from sqlalchemy import Connection

from dcloud_spawner import accounting
from dcloud_spawner.ledger.cost import storage_cost
from dcloud_spawner.ledger.rates import GIB
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, datasets, entries, homes, rates, storage_meters
from dcloud_spawner.store.datasets import Owner
from dcloud_spawner.store.entries import Kind, NewEntry
from dcloud_spawner.store.homes import Home
from dcloud_spawner.store.storage_meters import StorageCharge

EVERY = timedelta(days=1)
"""One entry a day for each home."""

LONGEST_NAME = 80
"""Characters of a volume in the key of an entry."""

LONGEST_OWNER = 64
"""Of the owner of datasets, beside whom more stands in it."""

_DATASETS = "datasets/"

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
    if mark >= now:  # the clock was set back since this one was made
        return
    amount = int(storage_cost(rates.read_book(connection), home.size_bytes, mark, now))
    if not amount:
        return
    payer = accounting.ensure_personal(connection, platform.settings, home.user, now)
    charge = StorageCharge(
        f"storage:{subject_of(home.volume)}:{mark.isoformat()}",
        subject_of(home.volume),
        payer.id,
        mark,
        now,
        home.size_bytes,
        home.measured_at,
    )
    _post(connection, charge, amount, f"Home of {home.size_bytes / GIB:.1f} GiB")


def _post(connection: Connection, charge: StorageCharge, amount: int, reason: str) -> None:
    """The entry of a charge, and what it was made from."""
    entry = NewEntry(
        charge.account,
        Kind.CHARGE,
        -amount,
        charge.key,
        "meter",
        reason,
        from_at=charge.from_at,
        until_at=charge.until_at,
    )
    if entries.post(connection, entry, charge.until_at).new:
        storage_meters.keep(connection, charge)


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
    return f"{_DATASETS}{owner.kind}/{_short(owner.name, LONGEST_OWNER)}"


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
    key = f"storage:{name}:{mark.isoformat()}"
    charge = StorageCharge(key, name, payer, mark, now, size_bytes, None)
    _post(connection, charge, amount, f"Datasets of {size_bytes / GIB:.1f} GiB")


def _payer(connection: Connection, platform: Platform, owner: Owner, now: datetime) -> str | None:
    """The account that pays; None for what is left of a deleted user or a closed project."""
    if owner.kind == datasets.PROJECT:
        found = accounts.find(connection, owner.name)
        return found.id if found is not None and found.closed_at is None else None
    if _FORMER.search(owner.name):
        return None
    return accounting.ensure_personal(connection, platform.settings, owner.name, now).id


def subject_of(mark: str) -> str:
    """What has a watermark of this name, as it is called in keys of entries."""
    return mark if mark.startswith(_DATASETS) else _short(mark, LONGEST_NAME)


def _short(name: str, longest: int) -> str:
    """The name, or for a long one a name of its own: many begin alike."""
    return name if len(name) <= longest else sha256(name.encode()).hexdigest()
