"""Entries of the ledger, and giving back what was charged."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner import transfers
from dcloud_spawner.errors import NotFound
from dcloud_spawner.store import accounts, bookkeeping, entries
from dcloud_spawner.store.entries import Entry, Kind
from hub_services.web.api.access import (
    Seen,
    find_session,
    have_own_account,
    own_account,
    read,
    see_account,
)
from hub_services.web.api.idempotency import key_of
from hub_services.web.api.ledger_models import EntriesView, EntryView, LedgerPage, RefundBody
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.reads import cursor_number
from hub_services.web.api.wire_types import amount
from hub_services.web.viewer import Viewer


async def list_entries(call: Call[LedgerPage, Nothing]) -> EntriesView:
    """Entries of an account, the newest first: of one's own, or of another that one may see; or
    those of one session. Of a project its members see their own sessions, its owners everything."""
    query, viewer = call.query, call.viewer
    before = cursor_number(query.cursor) if query.cursor else None
    if not query.account and not query.workload:
        await have_own_account(call)

    def reading(connection: Connection) -> list[Entry]:
        seen = _account_of(connection, query, viewer)
        since, until = _bounds(connection, seen.account.id, query)
        if until == 0:
            return []
        # One's own session is one's own part, so nothing more is to be checked about it.
        part = None if seen.full or query.workload else viewer.name
        return entries.page(
            connection,
            seen.account.id,
            user=part,
            workload=query.workload or None,
            above=since,
            before=min((each for each in (before, until) if each is not None), default=None),
            limit=query.limit + 1,
            kinds=(Kind(query.kind),) if query.kind else (),
            since=query.since,
            until=query.until,
        )

    found = await read(call, reading)
    shown = found[: query.limit]
    return EntriesView(
        items=tuple(entry_view(each) for each in shown),
        next_cursor=str(shown[-1].id) if len(found) > len(shown) else None,
    )


def _account_of(connection: Connection, query: LedgerPage, viewer: Viewer) -> Seen:
    """The account whose entries are asked for."""
    if query.workload:
        session = find_session(connection, viewer, query.workload)
        account = accounts.get(connection, session.meter.account)
        if query.account not in ("", account.id):
            raise NotFound("The account has no session of that id.", field="workload")
        return Seen(account, None, viewer.administrator)
    if query.account:
        return see_account(connection, viewer, query.account)
    return own_account(connection, viewer)


def _bounds(connection: Connection, account: str, query: LedgerPage) -> tuple[int, int | None]:
    """Between which ids the entries of a time are, so that no others have to be read; an upper
    one of 0: there are none."""
    since, until = 0, None
    if query.since is not None:
        found = bookkeeping.last_entry_before(connection, account, query.since)
        since = found.id if found else 0
    if query.until is not None:
        found = bookkeeping.last_entry_before(connection, account, query.until)
        until = found.id + 1 if found else 0
    return since, until


def entry_view(entry: Entry) -> EntryView:
    """One line. Its key stays inside: it names what happened, for the platform."""
    return EntryView(
        id=entry.id,
        account=entry.account,
        at=entry.at,
        kind=entry.kind.value,
        amount=amount(entry.microcredits),
        balance_after=amount(entry.balance_after),
        workload=entry.workload,
        from_at=entry.from_at,
        until_at=entry.until_at,
        gpu_microseconds=entry.gpu_microseconds,
        cpu_microseconds=entry.cpu_microseconds,
        memory_gib_microseconds=entry.memory_gib_microseconds,
        rates=dict(entry.rates) if entry.rates else None,
        actor=entry.actor,
        reason=entry.reason,
        other_account=entry.other_account,
        refund_of=entry.refund_of,
    )


async def refund_entry(call: Call[Nothing, RefundBody]) -> EntryView:
    """Give a charge back, or a part of it. All refunds of a charge together never exceed it."""
    platform = call.service.platform
    made = await platform.in_database_thread(
        transfers.refund,
        platform,
        _entry_id(call.path["id"]),
        call.actor,
        reason=call.body.reason,
        microcredits=call.body.microcredits,
        key=key_of(call, "refund"),
    )
    return entry_view(made)


def _entry_id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise NotFound("There is no entry of that id.")
    return int(text)
