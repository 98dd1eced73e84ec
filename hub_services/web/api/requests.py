"""Requests for more: asked, answered, withdrawn. Both sides see what became of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from dcloud_spawner import asking
from dcloud_spawner.errors import InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.store import asks
from dcloud_spawner.store.asks import Ask, AskState, NewAsk, What
from dcloud_spawner.store.usage import Scope
from hub_services.web.api.access import read, scope_of
from hub_services.web.api.limits_models import (
    DeclineRequestBody,
    GrantRequestBody,
    NewRequestBody,
    RequestsPage,
    RequestsView,
    RequestView,
)
from hub_services.web.api.operation import Call, Nothing

_MISSING = NotFound("You have no request of that id.", hint="GET requests lists them.")


async def list_requests(call: Call[RequestsPage, Nothing]) -> RequestsView:
    """One's own requests for more and those for projects that one owns, the newest first;
    administrators see everybody's."""
    query = call.query

    def reading(connection: Connection) -> list[Ask]:
        scope = scope_of(connection, call.viewer)
        last = asks.find(connection, query.cursor) if query.cursor else None
        if query.cursor and (last is None or not _is_in(last, scope)):
            hint = "Take next_cursor of an answer."
            raise InvalidChoice("cursor: not one of this API.", hint=hint, field="cursor")
        return list(
            asks.page(
                connection,
                scope=scope,
                user=query.user or None,
                state=AskState(query.state) if query.state else None,
                before=query.cursor or None,
                limit=query.limit + 1,
            )
        )

    found = await read(call, reading)
    shown = found[: query.limit]
    return RequestsView(
        items=tuple(request_view(each) for each in shown),
        next_cursor=shown[-1].id if len(found) > len(shown) else None,
    )


async def get_request(call: Call[Nothing, Nothing]) -> RequestView:
    """One request of one's own, or for a project that one owns; administrators may see any."""
    return request_view(await _find(call))


async def create_request(call: Call[Nothing, NewRequestBody]) -> RequestView:
    """Ask for credits, a higher limit or a role."""
    body, viewer = call.body, call.viewer
    if not viewer.person:
        raise NotAllowed("A service cannot ask for more.", hint="Ask as a person.")
    new = NewAsk(
        what=What(body.what),
        value=body.value,
        reason=body.reason,
        until=body.until,
        account=body.account or None,
        limit=body.limit,
    )
    known: dict[str, Any] = {}
    if viewer.groups or viewer.administrator:
        known = {"groups": viewer.groups, "administrator": viewer.administrator}
    return request_view(await _act(call, asking.ask, new, call.actor, **known))


async def grant_request(call: Call[Nothing, GrantRequestBody]) -> RequestView:
    """Give what was asked for, or a part of it, and close the request."""
    body = call.body
    closed = await _act(
        call,
        asking.grant,
        call.path["id"],
        call.actor,
        value=body.value,
        until=body.until,
        endless=body.endless,
        words=body.words or "",
    )
    return request_view(closed)


async def decline_request(call: Call[Nothing, DeclineRequestBody]) -> RequestView:
    """Say no, and why."""
    return request_view(
        await _act(call, asking.decline, call.path["id"], call.body.words, call.actor)
    )


async def withdraw_request(call: Call[Nothing, Nothing]) -> RequestView:
    """Take one's own request back while nobody has answered."""
    found = await _find(call)
    if not call.viewer.owns(found.user):
        raise NotAllowed("Only who asked may withdraw it.")
    return request_view(await _act(call, asking.withdraw, found.id, call.actor))


async def _find(call: Call[Any, Any]) -> Ask:
    """A request that the caller may see; NotFound for others'."""

    def reading(connection: Connection) -> Ask | None:
        found = asks.find(connection, call.path["id"])
        seen = found is not None and _is_in(found, scope_of(connection, call.viewer))
        return found if seen else None

    found = await read(call, reading)
    if found is None:
        raise _MISSING
    return found


def _is_in(ask: Ask, scope: Scope) -> bool:
    return scope.everything or ask.user == scope.user or ask.account in scope.accounts


async def _act(
    call: Call[Any, Any], act: Callable[..., Ask], *arguments: object, **named: object
) -> Ask:
    platform = call.service.platform
    return await platform.in_database_thread(act, platform, *arguments, **named)


def request_view(ask: Ask) -> RequestView:
    """One request."""
    return RequestView(
        id=ask.id,
        user=ask.user,
        what=ask.what.value,
        account=ask.account,
        limit=ask.limit,
        value=ask.value,
        reason=ask.reason,
        until=ask.until,
        asked_at=ask.asked_at,
        state=ask.state.value,
        in_part=ask.in_part,
        given=ask.given,
        given_until=ask.given_until,
        answer=ask.answer,
        answered_by=ask.answered_by,
        answered_at=ask.answered_at,
    )
