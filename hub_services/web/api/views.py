"""Rows of the store in the words of the API."""

from __future__ import annotations

from typing import Literal

from dcloud_spawner.live.availability import Availability, ModelAvailability
from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.scheduler.schedule import GIB, ends_at
from dcloud_spawner.store.dataset_choices import Mounted
from dcloud_spawner.store.datasets import Mode
from dcloud_spawner.store.nodes import AcceleratorRow, NodeRow
from dcloud_spawner.store.reservations import Reservation
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.web.api.models import (
    AcceleratorView,
    AvailabilityView,
    ModelView,
    MountView,
    NodeView,
    QueueRowView,
    ReservationView,
    SizeView,
    WorkloadView,
)
from hub_services.web.viewer import Viewer
from hub_services.web.waiting import reasons_of


def availability_view(found: Availability) -> AvailabilityView:
    """What is free now."""
    return AvailabilityView(
        at=found.at,
        models=tuple(_model(model) for model in found.models),
        memory_free_gib=round(found.memory_free_gib, 3),
        memory_total_gib=round(found.memory_total_gib, 3),
        cpus_free=found.cpus_free,
        cpus_total=found.cpus_total,
        queue_length=found.queue_length,
        simulated=found.simulated,
    )


def _model(found: ModelAvailability) -> ModelView:
    return ModelView(
        model=found.model,
        label=found.label,
        memory_gib=round(found.memory_bytes / GIB, 3),
        total=found.total,
        free=found.free,
        out_of_service=found.unhealthy,
        free_on_one_node=found.largest_free_on_one_node,
        most_on_one_node=found.most,
    )


def size_view(workload: Workload) -> SizeView:
    """What it asks for."""
    return SizeView(
        gpus=workload.gpus,
        gpu_model=workload.gpu_model,
        memory_gib=workload.memory_bytes / GIB,
        cpus=workload.cpu_millicores / 1000,
        hours=workload.limit_seconds / 3600,
    )


def workload_view(workload: Workload, state: PoolState) -> WorkloadView:
    """One workload in full, with its place now."""
    place = state.place_of(workload.id)
    waiting = workload.state is State.QUEUED
    return WorkloadView(
        id=workload.id,
        kind=workload.kind,
        user=workload.user,
        server=workload.server_name,
        profile=workload.profile,
        image=workload.image,
        size=size_view(workload),
        state=workload.state.value,
        tier=workload.tier,
        place=place.place if place and waiting else None,
        reasons=reasons_of(workload, state) if waiting else (),
        alternatives=tuple(workload.alternatives) if waiting else (),
        submitted_at=workload.submitted_at,
        due_at=workload.due_at,
        expected_from=workload.expected_from if waiting else None,
        expected_to=workload.expected_to if waiting else None,
        latest_start_at=workload.latest_start_at if waiting else None,
        account=workload.account,
        blocked=workload.blocked if waiting else "",
        blocked_reason=workload.blocked_reason if waiting else "",
        on_hold=waiting and workload.held_at is not None,
        hold_reason=workload.held_reason if workload.held_at is not None else "",
        moved_reason=workload.moved_reason if workload.moved_at is not None else "",
        datasets=tuple(mount_view(one) for one in state.mounts.get(workload.id, ())),
        node=workload.node,
        admitted_at=workload.admitted_at,
        ready_at=workload.ready_at,
        ends_at=ends_at(workload, state.at) if workload.state is State.RUNNING else None,
        notice_at=workload.notice_at,
        notice_detail=workload.notice_detail,
        ended_at=workload.ended_at,
        end_reason=workload.end_reason,
        end_detail=workload.end_detail,
    )


def mount_view(mount: Mounted) -> MountView:
    """One dataset of a workload."""
    return MountView(
        name=mount.name,
        dataset=mount.reference,
        version=mount.version,
        mode="stream" if mount.mode == Mode.STREAM else "cached",
        state=mount.state.value,
        message=mount.message,
        done_bytes=mount.done_bytes,
        total_bytes=mount.total_bytes,
    )


def queue_row_view(
    place: int | None, workload: Workload, state: PoolState, viewer: Viewer
) -> QueueRowView:
    """One row of the queue: others' only as size, due and state."""
    return QueueRowView(
        place=place,
        size=size_view(workload),
        due_at=workload.due_at,
        state=_queue_state(place, workload),
        mine=viewer.owns(workload.user),
        workload=workload_view(workload, state) if viewer.may_see(workload.user) else None,
    )


def _queue_state(place: int | None, workload: Workload) -> Literal["waiting", "on hold", "blocked"]:
    if place is not None:
        return "waiting"
    return "blocked" if workload.blocked and workload.held_at is None else "on hold"


def node_view(row: NodeRow) -> NodeView:
    """A node."""
    return NodeView(
        name=row.name,
        drained=row.drained,
        drained_by=row.drained_by,
        drained_reason=row.drained_reason,
    )


def accelerator_view(row: AcceleratorRow) -> AcceleratorView:
    """A GPU."""
    return AcceleratorView(
        uuid=row.uuid,
        node=row.node,
        index=row.index,
        model=row.model,
        health=row.health.value,
        drained=row.drained,
        drained_by=row.drained_by,
        drained_reason=row.drained_reason,
    )


def reservation_view(found: Reservation, viewer: Viewer) -> ReservationView:
    """A reservation; whose it is only for those whom it concerns."""
    named = viewer.administrator or (viewer.person and found.is_for(viewer.name, viewer.groups))
    return ReservationView(
        id=found.id,
        title=found.title if named else "",
        starts_at=found.starts_at,
        ends_at=found.ends_at,
        gpus=found.gpus,
        gpu_model=found.gpu_model,
        memory_gib_per_gpu=found.memory_bytes / GIB,
        cpus_per_gpu=found.cpu_millicores / 1000,
        users=tuple(found.users) if named else (),
        groups=tuple(found.groups) if named else (),
        state=found.state.value,
        created_by=found.created_by if named else "",
        detail=found.detail if named else "",
    )
