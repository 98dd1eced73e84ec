"""Credits moved between accounts, given back and set right.

Each act is one transaction with its line in the action log; whether somebody may do it is the
caller's to decide. A ``key`` makes a repeated call do nothing again. All functions block.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner import charging
from dcloud_spawner.budget_funds import available
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.granting import (
    LONGEST_REASON,
    check_amount,
    checked_text,
    find_account,
    refuse_closed,
)
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import entries, events
from dcloud_spawner.store.entries import Entry, Kind, NewEntry
from dcloud_spawner.store.events import Actor


def transfer(
    platform: Platform,
    source: str,
    target: str,
    microcredits: int,
    actor: Actor,
    *,
    reason: str,
    key: str | None = None,
) -> tuple[Entry, Entry]:
    """Move credits; what expires keeps its time. Raises Conflict when the source has not that
    much that nothing is set aside for. ``key`` makes a repeated call do nothing again."""
    reason, now = checked_text(reason, "reason", LONGEST_REASON), utc_now()
    check_amount(microcredits)
    if source == target:
        raise InvalidChoice(
            "target: that is the same account.", hint="Choose another one.", field="target"
        )
    name = f"transfer:{key or uuid.uuid4().hex}"
    with platform.database.transaction() as connection:
        done = entries.find_by_key(connection, f"{name}:out")
        if done is not None:
            received = entries.find_by_key(connection, f"{name}:in")
            assert received is not None
            _refuse_other_use(done, source, -microcredits, target)
            return done, received
        giver, taker = find_account(connection, source), find_account(connection, target)
        refuse_closed(taker)
        left = max(0, available(connection, giver, now))
        if microcredits > left:
            raise Conflict(
                f"{giver.shown_name} has {left / MICRO:.2f} credits to give.",
                hint="What servers have set aside or used already cannot be moved.",
                code="not_enough_credits",
            )
        moved = _move(connection, name, source, target, microcredits, actor, reason, now)
        detail = {"from": source, "to": target, "microcredits": microcredits, "reason": reason}
        events.note(connection, actor, "ledger.transfer", source, at=now, detail=detail)
    return moved


def _move(
    connection: Connection,
    name: str,
    source: str,
    target: str,
    microcredits: int,
    actor: Actor,
    reason: str,
    now: datetime,
) -> tuple[Entry, Entry]:
    out = NewEntry(
        source,
        Kind.TRANSFER,
        -microcredits,
        f"{name}:out",
        actor.name,
        reason,
        other_account=target,
    )
    gone = entries.post(connection, out, now)
    back = NewEntry(
        target,
        Kind.TRANSFER,
        microcredits,
        f"{name}:in",
        actor.name,
        reason,
        other_account=source,
        parts=gone.taken,
    )
    return gone.entry, entries.post(connection, back, now).entry


def refund(
    platform: Platform,
    entry: int,
    actor: Actor,
    *,
    reason: str,
    microcredits: int | None = None,
    key: str | None = None,
) -> Entry:
    """Give back a charge, or a part of it. Never more than was charged, together with all that
    was given back of it before in whatever way."""
    reason, now = checked_text(reason, "reason", LONGEST_REASON), utc_now()
    name = f"refund:{key or uuid.uuid4().hex}"
    with platform.database.transaction() as connection:
        charged = entries.find(connection, entry)
        if charged is None:
            raise NotFound("There is no entry of that id.")
        if charged.kind is not Kind.CHARGE:
            raise Conflict("Only a charge can be refunded.", code="not_a_charge")
        done = entries.find_by_key(connection, name)
        if done is not None:
            _refuse_other_use(done, charged.account, microcredits, None)
            return done
        left = -charged.microcredits - entries.refunded_microcredits(connection, entry)
        left -= charging.given_back(connection, charged)
        amount = left if microcredits is None else microcredits
        if microcredits is not None:
            check_amount(microcredits)
        if amount > left or left <= 0:
            raise Conflict(
                f"Of this charge {left / MICRO:.6f} credits are left to refund.",
                hint="Refunds never exceed the charge.",
                code="refunded_already",
            )
        new = NewEntry(
            charged.account,
            Kind.REFUND,
            amount,
            name,
            actor.name,
            reason,
            workload=charged.workload,
            refund_of=entry,
        )
        made = entries.post(connection, new, now).entry
        detail = {"entry": entry, "microcredits": amount, "reason": reason}
        events.note(connection, actor, "ledger.refund", charged.account, at=now, detail=detail)
    return made


def adjust(
    platform: Platform,
    account: str,
    microcredits: int,
    actor: Actor,
    *,
    reason: str,
    key: str | None = None,
) -> Entry:
    """Set a balance right, upwards or downwards, with a reason that its people see."""
    reason, now = checked_text(reason, "reason", LONGEST_REASON), utc_now()
    check_amount(abs(microcredits))
    name = f"adjust:{key or uuid.uuid4().hex}"
    with platform.database.transaction() as connection:
        find_account(connection, account)
        done = entries.find_by_key(connection, name)
        if done is not None:
            _refuse_other_use(done, account, microcredits, None)
            return done
        new = NewEntry(account, Kind.ADJUSTMENT, microcredits, name, actor.name, reason)
        made = entries.post(connection, new, now).entry
        detail = {"microcredits": microcredits, "reason": reason}
        events.note(connection, actor, "ledger.adjust", account, at=now, detail=detail)
    return made


def _refuse_other_use(
    done: Entry, account: str, microcredits: int | None, other: str | None
) -> None:
    """Raise Conflict when a key names something else that was done before."""
    same = done.account == account and done.other_account == other
    if not same or (microcredits is not None and done.microcredits != microcredits):
        raise Conflict(
            "This key was used for something else.", hint="Take a new one.", code="key_used"
        )
