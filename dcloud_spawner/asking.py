"""Asking for more: credits, a higher limit or a role, with a reason and an end.

Granting gives what was asked for, or something else, in the same transaction in which the request
is closed. Whether somebody may answer is the caller's to decide; who asks for an account is checked
here. Each act has its line in the action log. All functions block.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner import accounting, granting, limits
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound
from dcloud_spawner.limits import Standing
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.roles import ROLE
from dcloud_spawner.store import accounts, asks, events
from dcloud_spawner.store.asks import Ask, AskState, NewAsk, Value, What
from dcloud_spawner.store.events import Actor

CREDIT = 1_000_000
"""Micro-credits in one credit."""

LARGEST_MICROCREDITS = 1_000_000 * CREDIT
"""More than that at once is a slip of the hand."""

SHORTEST_REASON, LONGEST_REASON = 3, 500

FURTHEST = timedelta(days=5 * 366)
"""Whoever needs it for longer asks again."""

MOST_OPEN = 10
"""Requests of one person that nobody has answered."""


def ask(
    platform: Platform,
    new: NewAsk,
    actor: Actor,
    *,
    groups: Collection[str] | None = None,
    administrator: bool = False,
) -> Ask:
    """Ask for more, for oneself; ``groups`` are those of the hub, by which one has roles.

    ``new.account`` None means one's own account where ``new.what`` is credits. Raises InvalidChoice
    with the field for what makes no sense, NotFound for an account that is not one's own and of
    which one is no member, Conflict for what one has already or has asked for already.
    """
    now = utc_now()
    new = replace(new, reason=_words("reason", new.reason))
    if new.until is None:
        raise InvalidChoice("until: say until when you need it.", field="until")
    _check_until(new.until, now)
    with platform.database.transaction() as connection:
        new = _checked(connection, platform, new, actor.name, now)
        if new.what is not What.CREDITS:
            mine = limits.standing(
                connection,
                platform.settings,
                actor.name,
                now,
                groups=groups,
                administrator=administrator,
            )
            _refuse_owned(new, mine)
        waiting = asks.open_asks(connection, user=actor.name)
        if any(_same(new, other) for other in waiting):
            raise Conflict(
                "You have asked for that already, and nobody has answered yet.",
                hint="Withdraw that request to ask for something else.",
                code="asked_already",
            )
        if len(waiting) >= MOST_OPEN:
            hint = "Withdraw one, or wait for an answer."
            raise Conflict(
                f"You have {len(waiting)} open requests.", hint=hint, code="too_many_open"
            )
        made = asks.insert(connection, new, actor.name, now)
        detail = {**_detail(made, made.value, made.until), "reason": made.reason}
        events.note(connection, actor, "ask.create", made.id, at=now, detail=detail)
    return made


def withdraw(platform: Platform, identifier: str, actor: Actor) -> Ask:
    """Take one's own request back. Raises NotFound for another's, Conflict when it is closed."""
    with platform.database.transaction() as connection:
        found = _open(connection, identifier)
        if found.user != actor.name:
            raise NotFound("You have no such request.")
        return _close(connection, found, AskState.WITHDRAWN, "", actor, utc_now())


def decline(platform: Platform, identifier: str, words: str, actor: Actor) -> Ask:
    """Say no, and why. Raises NotFound, Conflict when it is closed."""
    words = _words("words", words)
    with platform.database.transaction() as connection:
        found = _open(connection, identifier)
        return _close(connection, found, AskState.DECLINED, words, actor, utc_now())


def grant(
    platform: Platform,
    identifier: str,
    actor: Actor,
    *,
    value: Value | None = None,
    until: datetime | None = None,
    endless: bool = False,
    words: str = "",
) -> Ask:
    """Give what was asked for, or in part.

    ``value`` None gives as much as was asked for; ``until`` None until then, ``endless`` without an
    end. ``words`` are for who asked. Raises NotFound, Conflict when it is closed, InvalidChoice.
    """
    words = _words("words", words) if words.strip() else ""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = _open(connection, identifier)
        given = replace(found, value=found.value if value is None else value)
        given = replace(given, until=None if endless else until or found.until)
        if given.until is not None:
            _check_until(given.until, now)
        value = _checked_value(platform, given)
        given = replace(given, value=value)
        _give(connection, platform, given, actor, now)
        closed = _close(connection, found, AskState.GRANTED, words, actor, now, given)
    platform.run_pass()  # who was blocked may be blocked no more
    return closed


def _give(
    connection: Connection, platform: Platform, given: Ask, actor: Actor, now: datetime
) -> None:
    """What a grant means, in the caller's transaction."""
    because = f"Asked for: {given.reason}"[:LONGEST_REASON]
    if given.what is What.CREDITS:
        assert given.account is not None and isinstance(given.value, int)
        granting.refuse_closed(granting.find_account(connection, given.account))
        granting.write_grant(
            connection, given.account, given.value, actor, now, reason=because, ends_at=given.until
        )
        return
    name = ROLE if given.what is What.ROLE else given.limit
    limits.override(
        connection,
        platform.settings,
        given.user,
        name,
        given.value,
        actor=actor,
        reason=because,
        ends_at=given.until,
        at=now,
    )


# ---------------------------------------------------------------------------- what is refused


def _open(connection: Connection, identifier: str) -> Ask:
    found = asks.find(connection, identifier)
    if found is None:
        raise NotFound("There is no such request.")
    _refuse_closed(found)
    return found


def _refuse_closed(found: Ask) -> None:
    if found.state is not AskState.OPEN:
        by = f" by {found.answered_by}" if found.answered_by else ""
        raise Conflict(
            f"This request was {found.state.value}{by} already.",
            hint="Load the page again.",
            code="answered_already",
        )


def _close(
    connection: Connection,
    found: Ask,
    to: AskState,
    words: str,
    actor: Actor,
    now: datetime,
    given: Ask | None = None,
) -> Ask:
    closed = asks.answer(
        connection,
        found.id,
        to,
        by=actor.name,
        words=words,
        at=now,
        given=given.value if given else None,
        given_until=given.until if given else None,
    )
    if closed is None:  # writers are one after the other, so nobody can have come between
        raise Conflict("This request was answered already.", code="answered_already")
    shown = given or found
    detail = {**_detail(found, shown.value, shown.until), "user": found.user, "words": words}
    action = {AskState.GRANTED: "grant", AskState.DECLINED: "decline"}.get(to, "withdraw")
    events.note(connection, actor, f"ask.{action}", found.id, at=now, detail=detail)
    return closed


def _checked(
    connection: Connection, platform: Platform, new: NewAsk, user: str, now: datetime
) -> NewAsk:
    """The request with its account named and its value in range."""
    if new.what is What.CREDITS:
        if new.account is None:
            account = accounting.ensure_personal(connection, platform.settings, user, now)
        else:
            found = accounts.find(connection, new.account)
            if found is None or accounts.role_in(connection, found, user) is None:
                raise NotFound("You belong to no such account.", field="account")
            account = found
        if account.closed_at is not None:
            raise Conflict("This account is closed.", code="account_closed")
        new = replace(new, account=account.id, limit="")
    elif new.what is What.ROLE:
        new = replace(new, account=None, limit="")
    else:
        new = replace(new, account=None)
    return replace(new, value=_checked_value(platform, new))


def _checked_value(platform: Platform, new: NewAsk) -> Value:
    if new.what is What.CREDITS:
        if not isinstance(new.value, int) or isinstance(new.value, bool):
            raise InvalidChoice("value: not a whole number of micro-credits.", field="value")
        if not 0 < new.value <= LARGEST_MICROCREDITS:
            most = LARGEST_MICROCREDITS // CREDIT
            hint = f"More than 0, at most {most:,} credits."
            raise InvalidChoice("value: so many credits cannot be given.", hint=hint, field="value")
        return new.value
    name = ROLE if new.what is What.ROLE else new.limit
    asked: object = new.value
    if asked is None or (new.what is What.LIMIT and name == ROLE):
        raise InvalidChoice("value: say how much.", field="value")
    value: Value = limits.check_value(platform.settings, name, asked)
    return value


def _refuse_owned(new: NewAsk, mine: Standing) -> None:
    """Raise Conflict for what somebody has without asking."""
    if new.what is What.ROLE:
        has = new.value in mine.roles
    else:
        value = getattr(mine.limits, new.limit)
        if isinstance(new.value, tuple):
            has = value is None or set(new.value) <= set(value)
        elif isinstance(new.value, str):
            has = new.value == value
        else:
            has = value is None or new.value <= value
    if has:
        hint = "The page of requests says what you have."
        raise Conflict("You have that already.", hint=hint, code="have_already")


def _check_until(until: datetime, now: datetime) -> None:
    if until.tzinfo is None:
        raise InvalidChoice("until: it has no time zone.", field="until")
    if until <= now:
        raise InvalidChoice("until: this time is over.", hint="Say a later one.", field="until")
    if until - now > FURTHEST:
        hint = f"At most {FURTHEST.days // 366} years."
        raise InvalidChoice("until: too far away.", hint=hint, field="until")


def _words(field: str, text: str) -> str:
    text = text.strip()
    if not SHORTEST_REASON <= len(text) <= LONGEST_REASON:
        hint = f"Between {SHORTEST_REASON} and {LONGEST_REASON} characters."
        raise InvalidChoice(f"{field}: too short or too long.", hint=hint, field=field)
    return text


def _same(new: NewAsk, other: Ask) -> bool:
    return (new.what, new.account, new.limit) == (other.what, other.account, other.limit)


def _detail(found: Ask, value: Value, until: datetime | None) -> dict[str, object]:
    return {
        "what": found.what.value,
        "account": found.account,
        "limit": found.limit,
        "value": value,
        "until": until.isoformat() if until else None,
    }
