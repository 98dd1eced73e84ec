"""What the API gives of use: sums, sessions, series of measures."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from hub_services.web.api.ledger_models import KindName
from hub_services.web.api.models import Page
from hub_services.web.api.operation import View, Wire
from hub_services.web.api.wire_types import Amount, Filter, Identifier, Moment

_GROUPS = ("hour", "day", "month", "user", "account", "gpu_model")
_PERIODS = frozenset({"hour", "day", "month"})


class UsagePage(Page):
    """Which use, and what it is summed for."""

    since: Moment | None = Field(None, description="None: 30 days ago. Its hour counts whole.")
    until: Moment | None = Field(None, description="None: now. Its hour counts whole.")
    group_by: str = Field(
        "day",
        max_length=64,
        description="One or more of hour, day, month, user, account and gpu_model, with commas. "
        "Hours, days and months are those of UTC.",
    )
    account: Identifier = Field("", description="Only what this account pays for.")
    user: Filter = Field("", description="Only this user's.")
    gpu_model: Filter | None = Field(None, description="Only this model; empty: without a GPU.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = self.groups
        if len(set(names)) < len(names) or not set(names) <= set(_GROUPS):
            raise ValueError(f"group_by: one or more of {', '.join(_GROUPS)}, each once")
        if len(_PERIODS & set(names)) > 1:
            raise ValueError("group_by: only one of hour, day and month")
        _in_order(self.since, self.until)
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """What it is summed for, in the order that was asked for."""
        return tuple(name.strip() for name in self.group_by.split(","))


def _in_order(since: datetime | None, until: datetime | None) -> None:
    if since is not None and until is not None and until <= since:
        raise ValueError("until: it has to be after since")


class UseView(View):
    """One sum. Microseconds are those of one GPU, core or GiB."""

    gpu_microseconds: int
    gpu_hours: float = Field(description="The same as gpu_microseconds, to be read.")
    cpu_microseconds: int
    memory_gib_microseconds: int
    cost: Amount = Field(description="What was charged.")
    measured_microseconds: int = Field(description="GPU time that samples cover.")
    busy_microseconds: int = Field(description="Of the measured time, what the GPUs worked.")
    utilisation: float | None = Field(description="busy by measured, 0 to 1; none: not measured.")
    energy_kwh: float


class UseGroupView(View):
    """The sum for one value of each thing that group_by names; the others are none."""

    period: str | None = Field(description="2026-11, 2026-11-21 or 2026-11-21T19, in UTC.")
    user: str | None
    account: str | None = Field(description="Its id.")
    account_name: str | None
    gpu_model: str | None = Field(description="Empty: without a GPU.")
    use: UseView


class UsageView(View):
    """Sums in the order of what they are for, and of all that was asked for."""

    since: datetime
    until: datetime
    items: tuple[UseGroupView, ...]
    next_cursor: str | None
    total: UseView


class SessionsPage(Page):
    """Which sessions."""

    since: Moment | None = Field(None, description="Admitted then or later.")
    until: Moment | None = Field(None, description="Admitted before.")
    account: Identifier = Field("", description="Only what this account pays for.")
    user: Filter = Field("", description="Only this user's.")
    gpu_model: Filter | None = Field(None, description="Only those that asked for this model.")
    state: Literal["", "open", "over"] = Field("", description="open: not settled for good.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _in_order(self.since, self.until)
        return self


class SessionView(View):
    """One workload's run and what it has cost so far."""

    id: str = Field(description="The workload's.")
    user: str
    account: str = Field(description="Id of the account that pays.")
    account_name: str
    kind: str
    server: str
    profile: str
    gpus: int
    gpu_model: str | None
    memory_gib: float
    cpus: float
    tier: str
    state: str
    admitted_at: datetime | None
    began_at: datetime | None = Field(description="By the engine; none: it was never ready.")
    charged_until: datetime | None = Field(description="Everything until here is on the ledger.")
    ended_at: datetime | None
    end_reason: str
    cost: Amount
    held: Amount = Field(description="What is still set aside for it.")
    gpu_microseconds: int
    gpu_hours: float
    cpu_microseconds: int
    memory_gib_microseconds: int
    free_microseconds: int = Field(description="Time that cost nothing: a fault of the platform.")
    gpu_utilisation_percent: float | None = Field(description="Mean; none: not measured.")
    energy_kwh: float | None = Field(description="Of its GPUs; none: not measured.")


class SessionsView(View):
    """Sessions, the last that was asked for first."""

    items: tuple[SessionView, ...]
    next_cursor: str | None


class SpanView(View):
    """What a session held from a time on, until the next."""

    begins_at: datetime
    gpu_models: dict[str, int]
    cpus: float
    memory_gib: float
    free_reason: str = Field(description="Why this time costs nothing; empty: it costs.")


class LinesView(View):
    """Entries of a session that are alike, as one; ``GET ledger?workload=ID`` lists each."""

    kind: KindName
    reason: str
    actor: str
    count: int = Field(description="How many entries.")
    amount: Amount = Field(description="Of all of them; above 0 where the account got something.")
    from_at: datetime | None = Field(description="The time that they are for.")
    until_at: datetime | None
    gpu_microseconds: int
    rates: dict[str, int] | None = Field(description="Micro-credits an hour of one, as used.")


class SessionDetailView(SessionView):
    """One session with all that its cost is made of."""

    spans: tuple[SpanView, ...]
    lines: tuple[LinesView, ...] = Field(description="The newest first.")


class MeasuresQuery(Wire):
    """Which part of a session's measures, and how fine."""

    since: Moment | None = Field(None, description="None: from its beginning.")
    until: Moment | None = Field(None, description="None: until its end, or now.")
    seconds: Literal["", "10", "60", "3600"] = Field(
        "", description="Length of each point; empty: the finest that gives some 500 at most."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _in_order(self.since, self.until)
        return self


class MeasureView(View):
    """What was measured in one piece of time: means, where nothing else is said. None: nobody
    could read it, which is not zero. GPU figures are those of all its GPUs together, but for the
    utilisation, which is their mean."""

    at: datetime = Field(description="Its beginning.")
    gpus: int = Field(description="The most that it held.")
    gpu_utilisation_percent: float | None
    gpu_memory_bytes: int | None
    gpu_power_milliwatts: int | None
    gpu_temperature_celsius_max: int | None
    energy_millijoules: int | None = Field(description="Used in this piece.")
    cpu_millicores: int | None
    memory_bytes: int | None
    memory_bytes_max: int | None
    disk_bytes_max: int | None
    network_received_bytes_per_second: int | None
    network_sent_bytes_per_second: int | None


class MeasuresView(View):
    """A session's measures over time. A piece in which nothing was measured is missing. They are
    never billed from."""

    workload: str
    seconds: int | None = Field(description="Length of each piece; none: there are none.")
    items: tuple[MeasureView, ...]
