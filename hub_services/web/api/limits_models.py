"""What the API takes and gives of limits and of requests for more."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr, StringConstraints

from hub_services.web.api.models import Page
from hub_services.web.api.operation import View, Wire
from hub_services.web.api.wire_types import Filter, Identifier, Moment, Name, Reason

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Word = Annotated[StrictStr, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")]
Names = Annotated[tuple[Name, ...], Field(max_length=50)]

Value = StrictInt | Number | Word | Names
"""A number, the name of a role or tier, or names of GPU models."""

_VALUE = (
    "A number; of gpu_models a list of names; of tier and role a name. None: no limit. GPUs, "
    "cores, GiB, hours."
)


class UsedByView(View):
    """What one server has of a limit."""

    server: str = Field(description="Empty: the default one.")
    amount: float


class LimitView(View):
    """One limit of somebody."""

    name: str
    title: str
    value: int | float | str | tuple[str, ...] | None = Field(description=_VALUE)
    used: float | None = Field(description="What counts against it now; none: not measured.")
    left: float | None
    used_by: tuple[UsedByView, ...]
    source: str = Field(description="override, or the roles that give it.")
    ends_at: datetime | None = Field(description="When an override ends; none: never.")
    reason: str = Field(description="Why there is an override.")


class OverrideView(View):
    """What was set for one person, now or once."""

    limit: str = Field(description="The name of a limit, or role.")
    value: int | float | str | tuple[str, ...] | None
    reason: str
    set_by: str
    set_at: datetime
    ends_at: datetime | None
    removed_at: datetime | None = Field(description="When it was taken back or replaced.")


class LimitsView(View):
    """All limits of somebody, and what was ever set for them alone, the last first."""

    user: str
    roles: tuple[str, ...]
    items: tuple[LimitView, ...]
    overrides: tuple[OverrideView, ...]


class OverrideBody(Wire):
    """One limit, or the role, for one person."""

    value: Value | None = Field(description=_VALUE)
    reason: Reason
    ends_at: Moment | None = Field(None, description="None: until it is taken back.")


# ---------------------------------------------------------------------------- requests


class RequestsPage(Page):
    """Which requests for more."""

    state: Literal["", "open", "granted", "declined", "withdrawn"] = Field(
        "", description="Only those in this state."
    )
    user: Filter = Field("", description="Only this user's.")


class NewRequestBody(Wire):
    """What somebody asks for, for themselves or a project that they are in."""

    what: Literal["credits", "limit", "role"]
    value: Value = Field(description="Micro-credits; the value of the limit; the role's name.")
    limit: Annotated[str, StringConstraints(pattern=r"^[a-z_]{0,32}$")] = Field(
        "", description="The name of the limit, if it is one."
    )
    account: Identifier = Field("", description="Which account gets credits; empty: one's own.")
    reason: Reason
    until: Moment = Field(description="Until when it is needed.")


class GrantRequestBody(Wire):
    """What is given: all of it, or what is named."""

    value: Value | None = Field(None, description="None: as much as was asked for.")
    until: Moment | None = Field(None, description="None: as long as was asked for.")
    endless: bool = Field(False, description="Without an end; until is then not looked at.")
    words: Reason | None = Field(None, description="For who asked.")


class DeclineRequestBody(Wire):
    """Why not."""

    words: Reason


class RequestView(View):
    """One request for more, and what became of it."""

    id: str
    user: str
    what: Literal["credits", "limit", "role"]
    account: str | None
    limit: str
    value: int | float | str | tuple[str, ...]
    reason: str
    until: datetime | None
    asked_at: datetime | None
    state: Literal["open", "granted", "declined", "withdrawn"]
    in_part: bool = Field(description="Whether something else was given than was asked for.")
    given: int | float | str | tuple[str, ...] | None
    given_until: datetime | None = Field(description="Of what was given; none: without an end.")
    answer: str
    answered_by: str
    answered_at: datetime | None


class RequestsView(View):
    """Requests for more, the newest first."""

    items: tuple[RequestView, ...]
    next_cursor: str | None
