"""What may be read by the API."""

from __future__ import annotations

from typing import Any

from dcloud_spawner.errors import InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.live.pool import availability as availability_of
from dcloud_spawner.store import listing
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.web.api.models import (
    AvailabilityView,
    Page,
    QueueView,
    RecordView,
    WorkloadsPage,
    WorkloadsView,
    WorkloadView,
)
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.views import availability_view, queue_row_view, workload_view
from hub_services.web.waiting import waiting_rows


async def availability(call: Call[Nothing, Nothing]) -> AvailabilityView:
    """GPUs by model, memory and cores that are free now, and the length of the queue."""
    platform = call.service.platform
    state = await call.service.pool.fresh()
    return availability_view(
        availability_of(
            state, simulated=platform.settings.simulated_gpus, engine=platform.engine.name
        )
    )


async def list_workloads(call: Call[WorkloadsPage, Nothing]) -> WorkloadsView:
    """One's own workloads, the newest first; administrators see everybody's."""
    query, viewer = call.query, call.viewer
    if query.user and not viewer.may_see(query.user):
        raise NotAllowed("Others' workloads are not shown.", hint="Leave out user.", field="user")
    user = query.user or (None if viewer.administrator else viewer.name)
    if user is not None and not viewer.may_see(user):
        return WorkloadsView(items=(), next_cursor=None)  # a service has none of its own
    before = cursor_number(query.cursor) if query.cursor else None

    def read() -> list[Workload]:
        with call.service.platform.database.reading() as connection:
            return list(
                listing.page(
                    connection,
                    user=user,
                    state=State(query.state) if query.state else None,
                    before=before,
                    limit=query.limit + 1,
                )
            )

    rows = await call.service.platform.in_database_thread(read)
    state = await call.service.pool.fresh()
    shown = rows[: query.limit]
    return WorkloadsView(
        items=tuple(workload_view(row, state) for row in shown),
        next_cursor=str(shown[-1].sequence) if len(rows) > len(shown) else None,
    )


async def get_workload(call: Call[Nothing, Nothing]) -> WorkloadView:
    """One workload of one's own; administrators may see any."""
    workload = await find_workload(call, call.path["id"])
    return workload_view(workload, await call.service.pool.fresh())


async def queue(call: Call[Page, Nothing]) -> QueueView:
    """The queue in its order. One's own requests in full, others' as size, due and state."""
    state = await call.service.pool.fresh()
    record, rows = state.record, waiting_rows(state)
    first = cursor_number(call.query.cursor) if call.query.cursor else 0
    last = first + call.query.limit
    return QueueView(
        at=state.at,
        length=len(rows),
        items=tuple(queue_row_view(*row, state, call.viewer) for row in rows[first:last]),
        next_cursor=str(last) if last < len(rows) else None,
        record=RecordView(count=record.count, inside=record.inside, aim=0.8),
    )


async def find_workload(call: Call[Any, Any], identifier: str) -> Workload:
    """A workload that the caller may see; NotFound for others', so that ids cannot be tried."""

    def read() -> Workload | None:
        with call.service.platform.database.reading() as connection:
            return listing.find(connection, identifier)

    workload = await call.service.platform.in_database_thread(read)
    if workload is None or not call.viewer.may_see(workload.user):
        raise NotFound("You have no workload of that id.", hint="GET workloads lists them.")
    return workload


def cursor_number(text: str) -> int:
    """The number in a cursor of ours."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidChoice(
            "cursor: not one of this API.", hint="Take next_cursor of an answer.", field="cursor"
        )
    return int(text)
