"""Every operation of the API, in the order of the document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from hub_services.web.api import acts, plans, reads
from hub_services.web.api.dataset_imports import IMPORT_OPERATIONS
from hub_services.web.api.dataset_operations import DATASET_OPERATIONS
from hub_services.web.api.dataset_uploads import UPLOAD_OPERATIONS
from hub_services.web.api.ledger_operations import LEDGER_OPERATIONS, change
from hub_services.web.api.models import (
    AcceleratorView,
    AvailabilityView,
    CancelBody,
    NewReservationBody,
    NodeView,
    Page,
    QueueView,
    ReservationsPage,
    ReservationsView,
    ReservationView,
    WithReason,
    WorkloadsPage,
    WorkloadsView,
    WorkloadView,
)
from hub_services.web.api.operation import Call, Nothing, Operation, View, Wire
from hub_services.web.api.plans import PlanBody, PlanView
from hub_services.web.api.storage_operations import STORAGE_OPERATIONS

_NOT_FOUND = (HTTPStatus.NOT_FOUND,)
_CHANGE = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


def _act(
    path: str,
    summary: str,
    run: Callable[[Call[Nothing, Any]], Awaitable[Any]],
    body: type[Wire],
    answer: type[View],
    *,
    method: str = "POST",
    status: HTTPStatus = HTTPStatus.OK,
) -> Operation[Any, Any, Any]:
    """Something that only administrators do."""
    return change(method, path, summary, run, body, answer, administrators=True, status=status)


def _read(
    path: str,
    run: Callable[[Call[Any, Nothing]], Awaitable[Any]],
    query: type[Wire],
    answer: type[View],
    summary: str,
    refusals: tuple[HTTPStatus, ...] = (),
) -> Operation[Any, Any, Any]:
    """Something that everybody may look at, each as much as is theirs."""
    return Operation("GET", path, summary, run, query, Nothing, answer, refusals=refusals)


OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    _read("availability", reads.availability, Nothing, AvailabilityView, "What is free now"),
    _read("queue", reads.queue, Page, QueueView, "The queue"),
    _read("workloads", reads.list_workloads, WorkloadsPage, WorkloadsView, "Workloads"),
    _read("workloads/{id}", reads.get_workload, Nothing, WorkloadView, "One workload", _NOT_FOUND),
    Operation(
        "POST",
        "workloads/{id}/cancel",
        "Leave the queue",
        acts.cancel_workload,
        Nothing,
        CancelBody,
        WorkloadView,
        refusals=_CHANGE,
    ),
    _act("workloads/{id}/hold", "Put on hold", acts.hold_workload, WithReason, WorkloadView),
    _act("workloads/{id}/release", "Release", acts.release_workload, Nothing, WorkloadView),
    _act("workloads/{id}/move", "Move to the head", acts.move_workload, WithReason, WorkloadView),
    _act("nodes/{name}/drain", "Drain a node", acts.drain_node, WithReason, NodeView),
    _act("nodes/{name}/undrain", "Offer a node again", acts.undrain_node, Nothing, NodeView),
    _act(
        "accelerators/{uuid}/drain",
        "Drain a GPU",
        acts.drain_accelerator,
        WithReason,
        AcceleratorView,
    ),
    _act(
        "accelerators/{uuid}/undrain",
        "Offer a GPU again",
        acts.undrain_accelerator,
        Nothing,
        AcceleratorView,
    ),
    _read(
        "reservations",
        acts.list_reservations,
        ReservationsPage,
        ReservationsView,
        "Advance reservations",
    ),
    _act(
        "reservations",
        "Reserve GPUs",
        acts.create_reservation,
        NewReservationBody,
        ReservationView,
        status=HTTPStatus.CREATED,
    ),
    _act(
        "reservations/{id}",
        "Cancel a reservation",
        acts.cancel_reservation,
        Nothing,
        ReservationView,
        method="DELETE",
    ),
    _act(
        "plan",
        "Ask what if",
        plans.ask_plan,
        PlanBody,
        PlanView,
        status=HTTPStatus.ACCEPTED,
    ),
    Operation(
        "GET",
        "plan/{id}",
        "A what-if and its answer",
        plans.get_plan,
        Nothing,
        Nothing,
        PlanView,
        administrators=True,
        refusals=_NOT_FOUND,
    ),
    *LEDGER_OPERATIONS,
    *DATASET_OPERATIONS,
    *UPLOAD_OPERATIONS,
    *IMPORT_OPERATIONS,
    *STORAGE_OPERATIONS,
)
