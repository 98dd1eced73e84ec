"""Every operation of the API, in the order of the document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from hub_services.web.api import reads
from hub_services.web.api.models import (
    AvailabilityView,
    Page,
    QueueView,
    WorkloadsPage,
    WorkloadsView,
    WorkloadView,
)
from hub_services.web.api.operation import Nothing, Operation

_NOT_FOUND = (HTTPStatus.NOT_FOUND,)

OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    Operation(
        "GET", "availability", "What is free now", reads.availability, Nothing, Nothing,
        AvailabilityView,
    ),
    Operation(
        "GET", "workloads", "Workloads", reads.list_workloads, WorkloadsPage, Nothing,
        WorkloadsView,
    ),
    Operation(
        "GET", "workloads/{id}", "One workload", reads.get_workload, Nothing, Nothing,
        WorkloadView, refusals=_NOT_FOUND,
    ),
    Operation("GET", "queue", "The queue", reads.queue, Page, Nothing, QueueView),
)  # fmt: skip
