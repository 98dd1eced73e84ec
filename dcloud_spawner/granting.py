"""Credits given to accounts, once or again and again, and taken back where they expire.

Each act is one transaction with its line in the action log; whether somebody may do it is the
caller's to decide. All functions block; those that take a connection are parts of others'
transactions.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.errors import Conflict, InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.ledger.rates import MICRO
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import accounts, entries, events, grants
from dcloud_spawner.store.accounts import Account
from dcloud_spawner.store.entries import MOST_MICROCREDITS, Kind, NewEntry, Part
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.grants import Every, Grant

LEDGER = Actor("ledger")

LONGEST_REASON = 500


def grant(
    platform: Platform,
    account: str,
    microcredits: int,
    actor: Actor,
    *,
    reason: str,
    every: Every = Every.ONCE,
    carry_over: bool = False,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    key: str | None = None,
) -> Grant:
    """Give an account credits, once or again and again until a time.

    Of a single grant ``ends_at`` is when what is left of it expires. Of a recurring one it is the
    end of the last period; what is left of a period expires with it unless it is carried over.
    ``key`` makes a repeated call do nothing again.
    """
    with platform.database.transaction() as connection:
        return write_grant(
            connection,
            account,
            microcredits,
            actor,
            utc_now(),
            reason=reason,
            every=every,
            carry_over=carry_over,
            starts_at=starts_at,
            ends_at=ends_at,
            key=key,
        )


def write_grant(
    connection: Connection,
    account: str,
    microcredits: int,
    actor: Actor,
    now: datetime,
    *,
    reason: str,
    every: Every = Every.ONCE,
    carry_over: bool = False,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    key: str | None = None,
) -> Grant:
    """:func:`grant` inside a transaction."""
    reason = checked_text(reason, "reason", LONGEST_REASON)
    check_amount(microcredits)
    identifier = hashlib.sha256(key.encode()).hexdigest()[:32] if key is not None else None
    done = grants.find(connection, identifier) if identifier is not None else None
    if done is not None:
        asked = (account, microcredits, every, carry_over, ends_at)
        if asked != (done.account, done.microcredits, done.every, done.carry_over, done.ends_at):
            raise Conflict(
                "This key was used for something else.", hint="Take a new one.", code="key_used"
            )
        return done
    begins = _checked_times(starts_at, ends_at, now)
    refuse_closed(find_account(connection, account))
    made = grants.insert(
        connection,
        account=account,
        microcredits=microcredits,
        every=every,
        carry_over=carry_over,
        starts_at=begins,
        ends_at=ends_at,
        created_by=actor.name,
        reason=reason,
        at=now,
        identifier=identifier,
    )
    detail = {
        "account": account,
        "microcredits": microcredits,
        "every": every.value,
        "carry_over": carry_over,
        "ends_at": ends_at.isoformat() if ends_at else None,
        "reason": reason,
    }
    events.note(connection, actor, "grant.create", made.id, at=now, detail=detail)
    give_due(connection, made, now)
    return grants.get(connection, made.id)


def _checked_times(starts_at: datetime | None, ends_at: datetime | None, now: datetime) -> datetime:
    begins = starts_at or now
    if begins < now - timedelta(minutes=1):
        raise InvalidChoice(
            "starts_at: that is over.", hint="Leave it out to begin now.", field="starts_at"
        )
    if ends_at is not None and ends_at <= max(begins, now):
        raise InvalidChoice(
            "ends_at: that is not after the beginning.",
            hint="Choose a later time.",
            field="ends_at",
        )
    return begins


def cancel_grant(platform: Platform, identifier: str, actor: Actor) -> Grant:
    """No further part of a recurring grant is given; what was given stays."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = grants.find(connection, identifier)
        if found is None:
            raise NotFound("There is no grant of that id.")
        if found.next_at is None:
            raise Conflict("Nothing more is due of this grant.", code="grant_over")
        grants.set_values(connection, identifier, next_at=None, cancelled_at=now)
        events.note(connection, actor, "grant.cancel", identifier, at=now)
        return grants.get(connection, identifier)


def give_due_grants(platform: Platform, *, expire: bool = True) -> int:
    """Give every part of a grant that is due, and take back what has expired; returns how many
    entries that were. Safe to repeat and to run twice at once. Not to ``expire`` leaves that to
    the meter, which charges first what was used in time."""
    now = utc_now()
    with platform.database.reading() as connection:
        due = grants.due(connection, now) or (expire and entries.expired_lots(connection, now))
    if not due:
        return 0
    with platform.database.transaction() as connection:
        # In the order of their times: what expires at a moment is gone before the next comes in.
        given = expire_lots(connection, now) if expire else 0
        for found in grants.due(connection, now):
            try:
                given += give_due(connection, found, now)
            except InvalidChoice as error:  # its account has all that one may have
                _end(connection, found, error.message, now)
        return given + (expire_lots(connection, now) if expire else 0)


def _end(connection: Connection, found: Grant, why: str, now: datetime) -> None:
    """Give no more of a grant that cannot be given: one must not keep all others from theirs."""
    grants.set_values(connection, found.id, next_at=None, cancelled_at=now)
    detail = {"account": found.account, "microcredits": found.microcredits, "reason": why}
    events.note(
        connection, LEDGER, "grant.cancel", found.id, at=now, result="refused", detail=detail
    )


def expire_lots(connection: Connection, now: datetime, *, by: datetime | None = None) -> int:
    """Take what is left of lots whose time is over, or was over ``by`` an earlier time."""
    found = entries.expired_lots(connection, now if by is None else by)
    for lot in found:
        entry = NewEntry(
            lot.account,
            Kind.EXPIRY,
            -lot.left_microcredits,
            f"expiry:{lot.id}",
            LEDGER.name,
            "Not used in time",
            lot=lot.id,
        )
        entries.post(connection, entry, now)
        detail = {"account": lot.account, "microcredits": lot.left_microcredits}
        events.note(connection, LEDGER, "ledger.expiry", str(lot.id), at=now, detail=detail)
    return len(found)


def give_due(connection: Connection, found: Grant, now: datetime) -> int:
    """Give all parts that are due; of periods that are over altogether only what carries over."""
    given, at = found.given, found.next_at
    count = 0
    while at is not None and at <= now:
        following = next_period(found.starts_at, found.every, given + 1)
        expires = _expires(found, following)
        if expires is None or expires > now:
            entry = NewEntry(
                found.account,
                Kind.GRANT,
                found.microcredits,
                f"grant:{found.id}:{given}",
                found.created_by,
                found.reason,
                parts=(Part(found.microcredits, expires),),
                grant=found.id,
            )
            try:
                count += entries.post(connection, entry, now).new
            except InvalidChoice:  # what was given before it stays
                grants.set_values(connection, found.id, given=given, next_at=at)
                raise
            detail = {"account": found.account, "microcredits": found.microcredits}
            events.note(connection, LEDGER, "ledger.grant", found.id, at=now, detail=detail)
        given += 1
        at = None if _was_last(found, following) else following
    grants.set_values(connection, found.id, given=given, next_at=at)
    return count


def to_come(found: Grant, before: datetime) -> Iterator[tuple[datetime, Part]]:
    """What a grant brings until a time, part by part, and when each expires."""
    given, at = found.given, found.next_at
    while at is not None and at <= before:
        following = next_period(found.starts_at, found.every, given + 1)
        yield at, Part(found.microcredits, _expires(found, following))
        given += 1
        at = None if _was_last(found, following) else following


def _expires(found: Grant, following: datetime) -> datetime | None:
    """When a part expires before which period."""
    if found.every is Every.ONCE or found.carry_over:
        return found.ends_at
    return min(following, found.ends_at) if found.ends_at else following


def _was_last(found: Grant, following: datetime) -> bool:
    """Whether nothing comes with the following period."""
    ended = found.ends_at is not None and following >= found.ends_at
    return found.every is Every.ONCE or ended


def next_period(starts_at: datetime, every: Every, number: int) -> datetime:
    """Beginning of a period; number 0 is the first. Months keep the day, or end with the month."""
    if every is Every.WEEK:
        return starts_at + timedelta(weeks=number)
    months = starts_at.year * 12 + starts_at.month - 1 + number
    year, month = divmod(months, 12)
    day = min(starts_at.day, calendar.monthrange(year, month + 1)[1])
    return starts_at.replace(year=year, month=month + 1, day=day)


# ---------------------------------------------------------------------------- checks


def find_account(connection: Connection, identifier: str) -> Account:
    found = accounts.find(connection, identifier)
    if found is None:
        raise NotFound("There is no account of that id.")
    return found


def find_project(connection: Connection, identifier: str) -> Account:
    found = find_account(connection, identifier)
    if found.kind != accounts.PROJECT:
        raise NotAllowed("A person's own account has no members and cannot be closed.")
    return found


def refuse_closed(found: Account) -> None:
    if found.closed_at is not None:
        raise Conflict(f"{found.shown_name} is closed.", code="account_closed")


def check_amount(microcredits: int) -> None:
    if not 0 < microcredits <= MOST_MICROCREDITS:
        raise InvalidChoice(
            "microcredits: that is no amount.",
            hint=f"1 to {MOST_MICROCREDITS} micro-credits; a credit is {MICRO}.",
            field="microcredits",
        )


def checked_text(text: str, field: str, most: int, least: int = 3) -> str:
    text = text.strip()
    if not least <= len(text) <= most or "\x00" in text:
        raise InvalidChoice(
            f"{field}: {least} to {most} characters are needed.",
            hint="Say it in words.",
            field=field,
        )
    return text
