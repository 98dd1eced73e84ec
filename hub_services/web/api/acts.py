"""What may be done by the API. Who may is decided here; what it means, in the functions below."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dcloud_spawner import drains, lifecycle, queueing
from dcloud_spawner import reservations as reservation_acts
from dcloud_spawner.errors import InvalidChoice, NotFound
from dcloud_spawner.scheduler.schedule import GIB
from dcloud_spawner.store import reservations
from dcloud_spawner.store.reservations import NewReservation, Reservation
from dcloud_spawner.store.workloads import Workload
from hub_services.web.api.models import (
    AcceleratorView,
    CancelBody,
    NewReservationBody,
    NodeView,
    ReservationsPage,
    ReservationsView,
    ReservationView,
    WithReason,
    WorkloadView,
)
from hub_services.web.api.operation import Call, Nothing
from hub_services.web.api.reads import cursor_number, find_workload
from hub_services.web.api.views import (
    accelerator_view,
    node_view,
    reservation_view,
    workload_view,
)
from hub_services.web.known_names import refuse_unknown

_EVER = datetime(1970, 1, 1, tzinfo=UTC)

LEFT = "cancelled"
"""``end_reason`` of a request that somebody took out of the queue."""


async def hold_workload(call: Call[Nothing, WithReason]) -> WorkloadView:
    """Keep a waiting request from starting. It keeps its due time; its owner sees the reason."""
    return await _change(call, queueing.hold, call.path["id"], call.body.reason)


async def release_workload(call: Call[Nothing, Nothing]) -> WorkloadView:
    """Let a request that is on hold wait again, at the place of its due time."""
    return await _change(call, queueing.release_hold, call.path["id"])


async def move_workload(call: Call[Nothing, WithReason]) -> WorkloadView:
    """Put a waiting request before all others. Its owner sees the reason."""
    return await _change(call, queueing.move_to_head, call.path["id"], call.body.reason)


async def cancel_workload(call: Call[Nothing, CancelBody]) -> WorkloadView:
    """Take a request out of the queue: one's own, or as an administrator anybody's."""
    service, viewer = call.service, call.viewer
    workload = await find_workload(call, call.path["id"])
    if not viewer.owns(workload.user) and call.body.reason is None:
        raise InvalidChoice(
            "reason: it is somebody else's request.", hint="Say why.", field="reason"
        )
    detail = call.body.reason or ""
    await service.platform.in_database_thread(
        lifecycle.cancel, service.platform, workload.id, LEFT, call.actor, detail
    )
    return workload_view(await find_workload(call, workload.id), await service.pool.refresh())


async def drain_node(call: Call[Nothing, WithReason]) -> NodeView:
    """Let a node take no new work. What runs there goes on."""
    row = await _act(call, drains.drain_node, call.path["name"], call.body.reason)
    return node_view(row)


async def undrain_node(call: Call[Nothing, Nothing]) -> NodeView:
    """Let a drained node take work again."""
    return node_view(await _act(call, drains.undrain_node, call.path["name"]))


async def drain_accelerator(call: Call[Nothing, WithReason]) -> AcceleratorView:
    """Offer one GPU to nobody new. Who is on it goes on."""
    row = await _act(call, drains.drain_accelerator, call.path["uuid"], call.body.reason)
    return accelerator_view(row)


async def undrain_accelerator(call: Call[Nothing, Nothing]) -> AcceleratorView:
    """Offer a drained GPU again."""
    return accelerator_view(await _act(call, drains.undrain_accelerator, call.path["uuid"]))


async def list_reservations(call: Call[ReservationsPage, Nothing]) -> ReservationsView:
    """Advance reservations by their start. Title and people only for those whom it is for and
    for administrators."""
    query = call.query

    def read() -> list[Reservation]:
        with call.service.platform.database.reading() as connection:
            if query.past:
                return list(reservations.ending_since(connection, _EVER))
            return list(reservations.open_reservations(connection))

    found = await call.service.platform.in_database_thread(read)
    first = cursor_number(query.cursor) if query.cursor else 0
    last = first + query.limit
    return ReservationsView(
        items=tuple(reservation_view(each, call.viewer) for each in found[first:last]),
        next_cursor=str(last) if last < len(found) else None,
    )


async def create_reservation(call: Call[Nothing, NewReservationBody]) -> ReservationView:
    """Keep GPUs for some people from a time to a time. It expires when nobody uses it. Names
    that nobody has are refused with those that may have been meant."""
    body = call.body
    await refuse_unknown(call.service, "user", body.users, field="users", ahead=body.ahead)
    await refuse_unknown(call.service, "group", body.groups, field="groups", ahead=body.ahead)
    new = NewReservation(
        title=body.title,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        gpus=body.gpus,
        gpu_model=body.gpu_model,
        memory_bytes=int(body.memory_gib_per_gpu * GIB),
        cpu_millicores=int(body.cpus_per_gpu * 1000),
        users=body.users,
        groups=body.groups,
    )
    made = await _act(call, reservation_acts.reserve, new)
    return reservation_view(made, call.viewer)


async def cancel_reservation(call: Call[Nothing, Nothing]) -> ReservationView:
    """Give a reservation back; what runs on it goes on."""
    identifier = call.path["id"]
    await _act(call, reservation_acts.cancel_reservation, identifier)

    def read() -> Reservation | None:
        with call.service.platform.database.reading() as connection:
            return reservations.find(connection, identifier)

    found = await call.service.platform.in_database_thread(read)
    if found is None:
        raise NotFound("There is no such reservation.")
    return reservation_view(found, call.viewer)


async def _change(
    call: Call[Any, Any], act: Callable[..., Workload], *arguments: object
) -> WorkloadView:
    workload = await _act(call, act, *arguments)
    return workload_view(workload, await call.service.pool.refresh())


async def _act(call: Call[Any, Any], act: Callable[..., Any], *arguments: object) -> Any:
    """Run one act in a thread, in the name of whoever calls; a pass may follow inside it."""
    platform = call.service.platform
    return await platform.in_database_thread(act, platform, *arguments, call.actor)
