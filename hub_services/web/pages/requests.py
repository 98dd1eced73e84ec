"""Requests for more: one's own with the form, and for administrators everybody's to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from dcloud_spawner import limits
from dcloud_spawner.form.words import credits_figure, listed
from dcloud_spawner.roles import ADMIN
from dcloud_spawner.scheduler.reasons import server_words
from dcloud_spawner.store import accounts, asks
from dcloud_spawner.store import limits as limit_rows
from dcloud_spawner.store.accounts import Account
from dcloud_spawner.store.asks import Ask, AskState, What
from hub_services.web.api.access import scope_of
from hub_services.web.api.wire_types import credits_text
from hub_services.web.pages.figures import balance_figure
from hub_services.web.pages.limit_words import (
    NUMBERS,
    asked_words,
    given_words,
    limit_choices,
    model_choices,
    title,
    value_words,
)
from hub_services.web.pages.limits import LimitRow, limit_row
from hub_services.web.pages.standing import Standing, standings
from hub_services.web.pages.views import Call

HISTORY = 50

STATES = {
    AskState.OPEN: ("clock", "is-wait", "Open"),
    AskState.GRANTED: ("check", "is-ok", "Granted"),
    AskState.DECLINED: ("no", "is-off", "Declined"),
    AskState.WITHDRAWN: ("x", "is-off", "Withdrawn"),
}


@dataclass(frozen=True)
class AskRow:
    """One request in words."""

    ask: Ask
    words: str
    given: str
    """What was given, where it is something else than what was asked for."""
    icon: str
    look: str
    state: str
    mine: bool


@dataclass(frozen=True)
class OpenAsk:
    """One that waits for an answer, with what the asker has."""

    row: AskRow
    facts: Sequence[tuple[str, str]]
    value: str
    """As a field of a form has it."""
    late: bool
    """Whether the time for which it was asked is over."""


@dataclass(frozen=True)
class Chosen:
    """What the address says that the form should begin with."""

    what: str
    limit: str
    value: str
    account: str


@dataclass(frozen=True)
class RequestsPage:
    """Everything on it."""

    administrator: bool
    person: bool
    open: Sequence[OpenAsk]
    """Of everybody, the oldest first; for administrators."""
    history: Sequence[AskRow]
    older: str
    newer: bool
    everybody: bool
    """Whether the history is of everybody."""
    mine: Sequence[LimitRow]
    """One's own limits."""
    roles: str
    accounts: Sequence[tuple[str, str]]
    limits: Sequence[tuple[str, str]]
    numbers: str
    models: Sequence[tuple[str, str]]
    tiers: Sequence[tuple[str, str]]
    role_choices: Sequence[tuple[str, str]]
    chosen: Chosen


def requests_page(call: Call) -> RequestsPage:
    """The page for one viewer. Blocks."""
    viewer, settings = call.viewer, call.platform.settings
    everybody = viewer.administrator
    before = call.text("before") or None
    with call.platform.database.reading() as connection:
        waiting = asks.open_asks(connection) if everybody else ()
        # One's own, and what was asked for projects that one owns.
        scope = scope_of(connection, viewer)
        found = asks.page(connection, scope=scope, before=before, limit=HISTORY + 1)
        own = accounts.of_user(connection, viewer.name) if viewer.person else []
        wanted = {each.account for each in (*waiting, *found) if each.account}
        known = accounts.get_all(connection, wanted)
        names = {key: account.shown_name for key, account in known.items()}
        # The hub has just said the groups; where it says none, those of the last request count.
        said = viewer.groups if viewer.groups or viewer.administrator else None
        of_hub: dict[str, Any] = {"groups": said, "administrator": viewer.administrator}
        standing = limits.standing(connection, settings, viewer.name, call.now, **of_hub)
        mine = limits.limits_of(connection, settings, viewer.name, call.now, **of_hub)
        return RequestsPage(
            administrator=everybody,
            person=viewer.person,
            open=_open(connection, call, waiting, known, names),
            history=[
                _row(each, names, viewer.name)
                for each in found[:HISTORY]
                if not (everybody and each.state is AskState.OPEN)
            ],
            older=found[HISTORY - 1].id if len(found) > HISTORY else "",
            newer=before is not None,
            everybody=everybody,
            mine=[limit_row(each) for each in mine],
            roles=listed(standing.roles),
            accounts=_accounts([account for account, _ in own]),
            limits=limit_choices(),
            numbers=NUMBERS,
            models=model_choices(limit_rows.gpu_models(connection)),
            tiers=[(each, each) for each in settings.tiers],
            role_choices=sorted(
                ((each, each) for each in settings.roles if each not in standing.roles),
                key=lambda choice: choice[0] == ADMIN,
            ),
            chosen=Chosen(
                call.one_of("what", ("credits", "limit", "role")),
                call.text("limit", "gpus"),
                call.text("value"),
                call.text("account"),
            ),
        )


def _accounts(found: Sequence[Account]) -> list[tuple[str, str]]:
    """For a select; an empty id is one's own account, which is made where there is none yet."""
    own = [("", "your own account")]
    shared = [
        (each.id, each.shown_name)
        for each in found
        if each.kind == accounts.PROJECT and each.closed_at is None
    ]
    return own + shared


def _row(found: Ask, names: dict[str, str], viewer: str) -> AskRow:
    icon, look, state = STATES[found.state]
    given = ""
    if found.in_part and found.given is not None:
        given = given_words(found, found.given, names)
        state = "Granted in part"
        if found.given == found.value:
            state = "Granted, other end"
    return AskRow(found, asked_words(found, names), given, icon, look, state, found.user == viewer)


def _open(
    connection: Connection,
    call: Call,
    waiting: Sequence[Ask],
    known: dict[str, Account],
    names: dict[str, str],
) -> list[OpenAsk]:
    running = call.service.pool.state.ledger
    state = {
        each.account.id: each
        for each in standings(connection, list(known.values()), running, call.now)
    }
    rows = []
    for each in waiting:
        rows.append(
            OpenAsk(
                _row(each, names, call.viewer.name),
                _facts(connection, call, each, state.get(each.account or "")),
                _field(each),
                each.until is not None and each.until <= call.now,
            )
        )
    return rows


def _facts(
    connection: Connection, call: Call, found: Ask, standing: Standing | None
) -> list[tuple[str, str]]:
    """What the asker has and uses of what they ask for."""
    settings = call.platform.settings
    if found.what is What.CREDITS:
        if standing is None:
            return []
        account = standing.account
        return [
            ("Has", f"{balance_figure(account.balance_microcredits)} credits"),
            ("Set aside", credits_figure(standing.held)),
            ("Uses now", f"{credits_figure(standing.an_hour)} an hour"),
            ("Budget", account.budget.value),
        ]
    has = limits.standing(connection, settings, found.user, call.now)
    if found.what is What.ROLE:
        return [("Has", listed([f"role {name}" for name in has.roles]))]
    all_limits = limits.limits_of(connection, settings, found.user, call.now)
    limit = next((each for each in all_limits if each.name == found.limit), None)
    if limit is None:
        return []
    facts = [(f"{title(found.limit)} now", value_words(found.limit, limit.value))]
    if limit.used is not None:
        by = listed([f"{amount:,.4g} by {server_words(name)}" for name, amount in limit.by])
        facts.append(("Uses", f"{limit.used:,.4g}" + (f": {by}" if by else "")))
    facts.append(
        (
            "From",
            "set for this person" if limit.source == limits.OVERRIDE else f"role {limit.source}",
        )
    )
    return facts


def _field(found: Ask) -> str:
    if found.what is What.CREDITS and isinstance(found.value, int):
        return credits_text(found.value)
    if isinstance(found.value, tuple):
        return ", ".join(found.value)
    return str(found.value)
