"""What was used, and what each session has cost: reads."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.platform import utc_now
from dcloud_spawner.scheduler.schedule import GIB
from dcloud_spawner.store import accounts, bookkeeping, measures, meters
from dcloud_spawner.store import usage as store
from dcloud_spawner.store.bookkeeping import Lines
from dcloud_spawner.store.measures import SessionMeasures
from dcloud_spawner.store.usage import By, Group, Session, Use, Wanted
from hub_services.web.api.access import find_session, read, scope_of, see_account
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.reads import cursor_number
from hub_services.web.api.usage_models import (
    LinesView,
    SessionDetailView,
    SessionsPage,
    SessionsView,
    SessionView,
    SpanView,
    UsagePage,
    UsageView,
    UseGroupView,
    UseView,
)
from hub_services.web.api.wire_types import amount

HOUR_MICROSECONDS = 3_600_000_000
KWH_MILLIJOULES = 3_600_000_000
DEFAULT_PERIOD = timedelta(days=30)


async def usage(call: Call[UsagePage, Nothing]) -> UsageView:
    """Use and its cost, summed for whatever is asked: one's own and that of projects that one
    owns; administrators see everybody's."""
    query = call.query
    until = query.until or utc_now()
    since = query.since or until - DEFAULT_PERIOD
    wanted = Wanted(since, until, query.user, query.account, query.gpu_model)
    first = cursor_number(query.cursor) if query.cursor else 0
    by = [By(name) for name in query.groups]

    def reading(connection: Connection) -> UsageView:
        if query.account:
            see_account(connection, call.viewer, query.account)
        scope = scope_of(connection, call.viewer)
        found = store.sums(connection, scope, wanted, by, limit=query.limit + 1, offset=first)
        shown = found[: query.limit]
        names = accounts.names_of(connection, {each.account for each in shown if each.account})
        return UsageView(
            since=since,
            until=until,
            items=tuple(_group_view(each, names.get(each.account or "")) for each in shown),
            next_cursor=str(first + len(shown)) if len(found) > len(shown) else None,
            total=use_view(store.total(connection, scope, wanted)),
        )

    return await read(call, reading)


async def list_sessions(call: Call[SessionsPage, Nothing]) -> SessionsView:
    """Sessions with their cost so far, the last that was asked for first: one's own and those
    that projects of one's own pay for; administrators see everybody's."""
    query = call.query
    wanted = Wanted(query.since, query.until, query.user, query.account, query.gpu_model)
    before = cursor_number(query.cursor) if query.cursor else None
    running = {"open": True, "over": False}.get(query.state)

    def reading(connection: Connection) -> SessionsView:
        if query.account:
            see_account(connection, call.viewer, query.account)
        found = store.sessions(
            connection,
            scope_of(connection, call.viewer),
            wanted,
            running=running,
            before=before,
            limit=query.limit + 1,
        )
        shown = found[: query.limit]
        names = accounts.names_of(connection, {each.meter.account for each in shown})
        measured = measures.of_sessions(connection, [each.workload.id for each in shown])
        return SessionsView(
            items=tuple(
                session_view(each, names[each.meter.account], measured.get(each.workload.id))
                for each in shown
            ),
            next_cursor=str(shown[-1].workload.sequence) if len(found) > len(shown) else None,
        )

    return await read(call, reading)


async def get_session(call: Call[Nothing, Nothing]) -> SessionDetailView:
    """One session with what it held, when, and what was charged for it."""

    def reading(connection: Connection) -> SessionDetailView:
        found = find_session(connection, call.viewer, call.path["id"])
        name = accounts.get(connection, found.meter.account).shown_name
        measured = measures.of_session(connection, found.workload.id)
        return SessionDetailView(
            **session_view(found, name, measured).model_dump(),
            spans=tuple(
                SpanView(
                    begins_at=span.begins_at,
                    gpu_models=dict(span.gpu_models),
                    cpus=span.cpu_millicores / 1000,
                    memory_gib=span.memory_bytes / GIB,
                    free_reason=span.free_reason,
                )
                for span in meters.spans_of(connection, found.workload.id)
            ),
            lines=tuple(
                _line_view(each) for each in bookkeeping.lines_of(connection, found.workload.id)
            ),
        )

    return await read(call, reading)


def _line_view(lines: Lines) -> LinesView:
    return LinesView(
        kind=lines.kind.value,
        reason=lines.reason,
        actor=lines.actor,
        count=lines.count,
        amount=amount(lines.microcredits),
        from_at=lines.from_at,
        until_at=lines.until_at,
        gpu_microseconds=lines.gpu_microseconds,
        rates=json.loads(lines.rates) if lines.rates else None,
    )


def use_view(use: Use) -> UseView:
    """A sum."""
    measured, busy = use.measured_microseconds, use.busy_microseconds
    return UseView(
        gpu_microseconds=use.gpu_microseconds,
        gpu_hours=round(use.gpu_microseconds / HOUR_MICROSECONDS, 4),
        cpu_microseconds=use.cpu_microseconds,
        memory_gib_microseconds=use.memory_gib_microseconds,
        cost=amount(use.microcredits),
        measured_microseconds=measured,
        busy_microseconds=busy,
        utilisation=round(busy / measured, 4) if measured else None,
        energy_kwh=round(use.energy_millijoules / KWH_MILLIJOULES, 6),
    )


def _group_view(group: Group, account_name: str | None) -> UseGroupView:
    return UseGroupView(
        period=group.period,
        user=group.user,
        account=group.account,
        account_name=account_name,
        gpu_model=group.gpu_model,
        use=use_view(group.use),
    )


def session_view(
    found: Session, account_name: str, measured: SessionMeasures | None
) -> SessionView:
    """One session."""
    workload, meter = found.workload, found.meter
    held = max(0, meter.held_microcredits - meter.charged_microcredits)
    return SessionView(
        id=workload.id,
        user=meter.user,
        account=meter.account,
        account_name=account_name,
        kind=workload.kind,
        server=workload.server_name,
        profile=workload.profile,
        gpus=workload.gpus,
        gpu_model=workload.gpu_model,
        memory_gib=workload.memory_bytes / GIB,
        cpus=workload.cpu_millicores / 1000,
        tier=workload.tier,
        state=workload.state.value,
        admitted_at=workload.admitted_at,
        began_at=meter.began_at,
        charged_until=meter.watermark_at,
        ended_at=_ended(found),
        end_reason=workload.end_reason,
        cost=amount(meter.charged_microcredits),
        held=amount(held if meter.settled_at is None else 0),
        gpu_microseconds=meter.gpu_microseconds,
        gpu_hours=round(meter.gpu_microseconds / HOUR_MICROSECONDS, 4),
        cpu_microseconds=meter.cpu_microseconds,
        memory_gib_microseconds=meter.memory_gib_microseconds,
        free_microseconds=meter.free_microseconds,
        gpu_utilisation_percent=measured.gpu_utilisation_percent if measured else None,
        energy_kwh=measured.energy_kwh if measured else None,
    )


def _ended(found: Session) -> datetime | None:
    return found.workload.engine_finished_at or found.workload.ended_at
