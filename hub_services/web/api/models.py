"""What the API takes and gives, in its own words and units: GiB, cores, hours, UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from hub_services.web.api.operation import View, Wire

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=500, pattern=r"^[^\x00]*$"),
]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=r"^[^\x00]*$"),
]


class Problem(View):
    """Why something was refused."""

    code: str = Field(description="Stable, for scripts.")
    message: str = Field(description="What was wrong and where.")
    hint: str = Field(description="What to do next; may be empty.")
    field: str | None = Field(None, description="The field of the request that was wrong.")


class Refusal(View):
    """Every answer that is not a success."""

    error: Problem


# ---------------------------------------------------------------------------- taken


class WithReason(Wire):
    """An act that others see has a reason, which they see too."""

    reason: Reason


class CancelBody(Wire):
    """Why; administrators have to say it when the request is somebody else's."""

    reason: Reason | None = None


class Page(Wire):
    """A part of a list."""

    limit: int = Field(100, ge=1, le=500, description="Most items of one answer.")
    cursor: str = Field("", max_length=64, description="next_cursor of the answer before.")


class WorkloadsPage(Page):
    """Which workloads."""

    state: Literal["", "queued", "admitted", "starting", "running", "stopping", "ended"] = Field(
        "", description="Only those in this state."
    )
    user: str = Field(
        "", max_length=255, description="Only those of this user; administrators may name any."
    )


class ReservationsPage(Page):
    """Which reservations."""

    past: bool = Field(False, description="Also those that are over or cancelled.")


class NewReservationBody(Wire):
    """GPUs for some people at a time."""

    title: Name = Field(max_length=120)
    starts_at: AwareDatetime = Field(description="With a time zone.")
    ends_at: AwareDatetime
    gpus: int = Field(ge=1, le=100_000)
    gpu_model: str | None = Field(None, max_length=128, description="None: any model.")
    memory_gib_per_gpu: float = Field(8, ge=0, le=65_536, allow_inf_nan=False)
    cpus_per_gpu: float = Field(2, ge=0, le=4096, allow_inf_nan=False)
    users: tuple[Name, ...] = Field((), max_length=500, description="Who may use it.")
    groups: tuple[Name, ...] = Field((), max_length=100, description="Whose members may use it.")
    ahead: bool = Field(
        False,
        description="Also for names that nobody has yet. Only where people sign in elsewhere; "
        "without it those are refused with the code `nobody_yet`.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.ends_at <= self.starts_at:
            raise ValueError("ends_at: it has to end after it starts")
        if not self.users and not self.groups:
            raise ValueError("users: name at least one user or group")
        return self


# ---------------------------------------------------------------------------- given


class ModelView(View):
    """All GPUs of one model."""

    model: str
    label: str
    memory_gib: float
    total: int
    free: int
    out_of_service: int
    free_on_one_node: int = Field(description="The most that one request can get now.")
    most_on_one_node: int = Field(description="The most that one request could ever get.")


class AvailabilityView(View):
    """What is free now."""

    at: datetime
    models: tuple[ModelView, ...]
    memory_free_gib: float = Field(description="On the node that has most of it free.")
    memory_total_gib: float = Field(description="Of the largest node.")
    cpus_free: float
    cpus_total: float
    queue_length: int
    simulated: bool


class SizeView(View):
    """What a request asks for."""

    gpus: int
    gpu_model: str | None
    memory_gib: float
    cpus: float
    hours: float


class MountView(View):
    """One dataset of a workload."""

    name: str = Field(description="Its folder under ~/datasets.")
    dataset: str = Field(description="owner/name")
    version: int | None
    mode: Literal["cached", "stream"]
    state: Literal["waiting", "preparing", "ready", "away", "failed", "revoked", "gone"]
    message: str
    done_bytes: int = Field(description="Of its copy on the host.")
    total_bytes: int


class WorkloadView(View):
    """One workload in full."""

    id: str
    kind: str
    user: str
    server: str
    profile: str
    image: str
    size: SizeView
    state: str
    tier: str
    place: int | None = Field(description="In the queue; none when it does not wait or is held.")
    reasons: tuple[str, ...]
    alternatives: tuple[str, ...] = Field(description="What would start at once instead.")
    submitted_at: datetime
    due_at: datetime
    expected_from: datetime | None
    expected_to: datetime | None
    latest_start_at: datetime | None
    account: str | None = Field(description="Id of the account that pays.")
    blocked: str = Field(
        description="What a limit or a budget has against its start: limit:NAME or budget. Empty: "
        "nothing. It has no place then and starts by itself once nothing is against it."
    )
    blocked_reason: str
    on_hold: bool
    hold_reason: str
    moved_reason: str
    datasets: tuple[MountView, ...] = Field(description="While it has not ended.")
    node: str | None
    admitted_at: datetime | None
    ready_at: datetime | None
    ends_at: datetime | None = Field(description="At the latest, by its own limit.")
    notice_at: datetime | None = Field(description="When it will be stopped before that.")
    notice_detail: str
    ended_at: datetime | None
    end_reason: str
    end_detail: str


class WorkloadsView(View):
    """Workloads, the newest first."""

    items: tuple[WorkloadView, ...]
    next_cursor: str | None


class QueueRowView(View):
    """One request that waits. Others' have neither name nor id."""

    place: int | None = Field(description="None while it is on hold or blocked.")
    size: SizeView
    due_at: datetime
    state: Literal["waiting", "on hold", "blocked"]
    mine: bool
    workload: WorkloadView | None = Field(description="In full, where the reader may see it.")


class RecordView(View):
    """How often the shown range was right."""

    count: int = Field(description="Latest starts that a range was shown for.")
    inside: int
    aim: float = Field(0.8, description="The share that should be inside.")


class QueueView(View):
    """The queue in its order, head first, those on hold at the end."""

    at: datetime
    length: int
    items: tuple[QueueRowView, ...]
    next_cursor: str | None
    record: RecordView


class NodeView(View):
    """A node after an act on it."""

    name: str
    drained: bool
    drained_by: str
    drained_reason: str


class AcceleratorView(View):
    """A GPU after an act on it."""

    uuid: str
    node: str
    index: int
    model: str
    health: str
    drained: bool
    drained_by: str
    drained_reason: str


class ReservationView(View):
    """One advance reservation."""

    id: str
    title: str
    starts_at: datetime
    ends_at: datetime
    gpus: int
    gpu_model: str | None
    memory_gib_per_gpu: float
    cpus_per_gpu: float
    users: tuple[str, ...] = Field(description="Only for administrators and those it is for.")
    groups: tuple[str, ...]
    state: str
    created_by: str
    detail: str


class ReservationsView(View):
    """Reservations by their start."""

    items: tuple[ReservationView, ...]
    next_cursor: str | None
