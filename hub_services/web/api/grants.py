"""Grants: credits that an account gets once, or again and again."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner import granting
from dcloud_spawner.errors import NotFound
from dcloud_spawner.store import grants
from dcloud_spawner.store.grants import Every, Grant
from hub_services.web.api.access import manage_account, read, see_account
from hub_services.web.api.idempotency import key_of
from hub_services.web.api.ledger_models import GrantBody, GrantsView, GrantView
from hub_services.web.api.models import Page
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.reads import cursor_number
from hub_services.web.api.wire_types import amount


async def list_grants(call: Call[Page, Nothing]) -> GrantsView:
    """Grants of an account, the newest first, for its owners."""
    query, identifier = call.query, call.path["id"]
    first = cursor_number(query.cursor) if query.cursor else 0

    def reading(connection: Connection) -> list[Grant]:
        manage_account(connection, call.viewer, identifier)
        return grants.of_account(connection, identifier)

    found = await read(call, reading)
    last = first + query.limit
    return GrantsView(
        items=tuple(grant_view(each) for each in found[first:last]),
        next_cursor=str(last) if last < len(found) else None,
    )


async def create_grant(call: Call[Nothing, GrantBody]) -> GrantView:
    """Give an account credits, at once or from a time on."""
    platform, body = call.service.platform, call.body
    made = await platform.in_database_thread(
        granting.grant,
        platform,
        call.path["id"],
        body.microcredits,
        call.actor,
        reason=body.reason,
        every=Every(body.every),
        carry_over=body.carry_over,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        key=key_of(call, "grant"),
    )
    return grant_view(made)


async def cancel_grant(call: Call[Nothing, Nothing]) -> GrantView:
    """Give no further part of a grant. What was given stays."""
    platform, account, identifier = call.service.platform, call.path["id"], call.path["grant"]

    def check(connection: Connection) -> None:
        see_account(connection, call.viewer, account)
        found = grants.find(connection, identifier)
        if found is None or found.account != account:
            raise NotFound("The account has no grant of that id.")

    await read(call, check)
    made = await platform.in_database_thread(
        granting.cancel_grant, platform, identifier, call.actor
    )
    return grant_view(made)


def grant_view(grant: Grant) -> GrantView:
    """One grant."""
    return GrantView(
        id=grant.id,
        account=grant.account,
        amount=amount(grant.microcredits),
        every=grant.every.value,
        carry_over=grant.carry_over,
        starts_at=grant.starts_at,
        ends_at=grant.ends_at,
        next_at=grant.next_at,
        given=grant.given,
        created_by=grant.created_by,
        created_at=grant.created_at,
        reason=grant.reason,
        cancelled_at=grant.cancelled_at,
    )
