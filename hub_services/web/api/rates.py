"""Rates: what an hour of something costs, now, before and to come."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner import accounting
from dcloud_spawner.ledger.rates import DEFAULTS, Rate, RateBook, Resource
from dcloud_spawner.store import rates
from hub_services.web.api.access import read
from hub_services.web.api.ledger_models import RateBody, RatesPage, RatesView, RateView
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.reads import cursor_number
from hub_services.web.api.wire_types import amount


async def list_rates(call: Call[RatesPage, Nothing]) -> RatesView:
    """Every rate that was ever set, the last to become valid first, and what holds where none
    is; or those alone that hold at a time. The most special one counts: model and tier, then
    model, then tier, then neither."""
    query = call.query
    first = cursor_number(query.cursor) if query.cursor else 0
    book = await read(call, rates.read_book)
    found = _holding(book, query.at) if query.at else [*reversed(book.rates)]
    views = [rate_view(each) for each in found]
    views += [_default_view(each) for each in Resource if not query.at or _unset(found, each)]
    wanted = [each for each in views if query.resource in ("", each.resource)]
    last = first + query.limit
    return RatesView(
        items=tuple(wanted[first:last]), next_cursor=str(last) if last < len(wanted) else None
    )


async def create_rate(call: Call[Nothing, RateBody]) -> RateView:
    """Set a rate from now or a later time on. What is charged already stays as it is."""
    platform, body = call.service.platform, call.body
    identifier = await platform.in_database_thread(
        accounting.change_rate,
        platform,
        Resource(body.resource),
        body.microcredits,
        call.actor,
        gpu_model=body.gpu_model,
        tier=body.tier,
        valid_from=body.valid_from,
    )

    def reading(connection: Connection) -> Rate:
        return next(each for each in rates.read_book(connection).rates if each.id == identifier)

    return rate_view(await read(call, reading))


def rate_view(rate: Rate) -> RateView:
    """One rate that somebody has set."""
    return RateView(
        id=rate.id,
        resource=rate.resource.value,
        gpu_model=rate.gpu_model,
        tier=rate.tier,
        price=amount(rate.microcredits),
        valid_from=rate.valid_from,
        created_by=rate.created_by,
        created_at=rate.created_at,
    )


def _default_view(resource: Resource) -> RateView:
    return RateView(
        id=None,
        resource=resource.value,
        gpu_model="",
        tier="",
        price=amount(DEFAULTS[resource]),
        valid_from=None,
        created_by="",
        created_at=None,
    )


def _holding(book: RateBook, at: datetime) -> list[Rate]:
    """Of each kind the last that became valid until a time."""
    found = {
        (each.resource, each.gpu_model, each.tier): each
        for each in book.rates
        if each.valid_from <= at
    }
    return list(found.values())


def _unset(found: list[Rate], resource: Resource) -> bool:
    return not any(
        each.resource is resource and not each.gpu_model and not each.tier for each in found
    )
