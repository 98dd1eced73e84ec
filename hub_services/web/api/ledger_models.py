"""What the API takes and gives of accounts, entries, grants and rates."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from hub_services.web.api.models import Page
from hub_services.web.api.operation import View, Wire
from hub_services.web.api.wire_types import (
    Amount,
    Filter,
    Identifier,
    Microcredits,
    Moment,
    Name,
    Reason,
    SignedMicrocredits,
)

BudgetName = Literal["none", "soft", "hard"]
RoleName = Literal["member", "owner"]
ResourceName = Literal["gpu", "cpu_core", "memory_gib", "storage_gib_month"]
KindName = Literal["charge", "grant", "transfer", "refund", "adjustment", "expiry"]
Every = Literal["once", "week", "month"]

ProjectName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"),
]
Title = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=120, pattern=r"^[^\x00-\x1f]*$")
]

_BUDGET = "none: use is only counted. soft: at zero its servers go on last in line. hard: they end."


# ---------------------------------------------------------------------------- accounts


class AccountsPage(Page):
    """Which accounts."""

    kind: Literal["", "user", "project"] = Field("", description="Only those of this kind.")
    name: Filter = Field("", description="Only those with this in their name or title.")
    mine: bool = Field(False, description="Only those that one is in; also as an administrator.")


class AccountView(View):
    """One account, as much of it as is the reader's."""

    id: str
    kind: Literal["user", "project"]
    name: str
    title: str
    balance: Amount
    available: Amount = Field(description="The balance without what is set aside for sessions.")
    held: Amount = Field(description="What is set aside for sessions that run or begin.")
    budget: BudgetName = Field(description=_BUDGET)
    role: RoleName | None = Field(description="Of the reader; none: an administrator looks at it.")
    created_at: datetime
    closed_at: datetime | None


class AccountsView(View):
    """Accounts: one's own, then projects by name."""

    items: tuple[AccountView, ...]
    next_cursor: str | None


class MemberView(View):
    """Somebody in a project."""

    user: str
    role: RoleName
    added_at: datetime


class AccountDetailView(AccountView):
    """One account with its people."""

    members: tuple[MemberView, ...] = Field(
        description="Owners first. A member sees the owners and themselves."
    )


_AHEAD = (
    "Also for a name that nobody has yet. Only where people sign in elsewhere; without it such a "
    "name is refused with the code `nobody_yet`."
)


class NewProjectBody(Wire):
    """A project. Money comes onto it by a grant or a transfer."""

    name: ProjectName = Field(description="Lower-case letters, digits and hyphens; for good.")
    title: Title = ""
    budget: BudgetName = Field("hard", description=_BUDGET)
    owners: tuple[Name, ...] = Field((), max_length=100)
    ahead: bool = Field(False, description=_AHEAD)


class ChangeAccountBody(Wire):
    """What is not named stays. Owners may change the title, administrators the rest too."""

    title: Title | None = None
    budget: BudgetName | None = Field(None, description=_BUDGET)
    closed: Annotated[bool, Field(strict=True)] | None = Field(
        None, description="A closed project keeps its entries and pays for nothing new."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.title is None and self.budget is None and self.closed is None:
            raise ValueError("title: name what to change: title, budget or closed")
        return self


class MemberBody(Wire):
    """What somebody is to be."""

    role: RoleName = "member"
    ahead: bool = Field(False, description=_AHEAD)


# ---------------------------------------------------------------------------- entries


class LedgerPage(Page):
    """Which entries."""

    account: Identifier = Field("", description="Id of the account; empty: one's own.")
    workload: Identifier = Field("", description="Only those of this session.")
    kind: Literal["", KindName] = Field("", description="Only this kind.")
    since: Moment | None = Field(None, description="Written then or later.")
    until: Moment | None = Field(None, description="Written before.")


class EntryView(View):
    """One line of the ledger. It is never changed."""

    id: int
    account: str
    at: datetime
    kind: KindName
    amount: Amount = Field(description="Above 0 where the account gets something.")
    balance_after: Amount
    workload: str | None = Field(description="The session that was charged.")
    from_at: datetime | None = Field(description="The time that a charge is for.")
    until_at: datetime | None
    gpu_microseconds: int = Field(description="Of one GPU; two for a second are 2,000,000.")
    cpu_microseconds: int
    memory_gib_microseconds: int
    rates: dict[str, int] | None = Field(
        description="Micro-credits an hour of one, as they were used: gpu:MODEL, cpu_core, "
        "memory_gib."
    )
    actor: str = Field(description="Who did it: a person, or a part of the platform.")
    reason: str
    other_account: str | None = Field(description="The other side of a transfer.")
    refund_of: int | None = Field(description="The entry that a refund is for.")


class EntriesView(View):
    """Entries, the newest first."""

    items: tuple[EntryView, ...]
    next_cursor: str | None


class RefundBody(Wire):
    """Why, and how much of it."""

    reason: Reason
    microcredits: Microcredits | None = Field(
        None, description="None: all of the charge that was not given back yet."
    )


class TransferBody(Wire):
    """To whom: an account's id, or the name of a user or project."""

    microcredits: Microcredits
    reason: Reason
    to_account: Identifier = ""
    to_user: Filter = ""
    to_project: Filter = ""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if sum(map(bool, (self.to_account, self.to_user, self.to_project))) != 1:
            raise ValueError("to_account: name one of to_account, to_user and to_project")
        return self


class AdjustBody(Wire):
    """Set a balance right."""

    microcredits: SignedMicrocredits
    reason: Reason

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.microcredits:
            raise ValueError("microcredits: 0 changes nothing")
        return self


# ---------------------------------------------------------------------------- grants


class GrantBody(Wire):
    """Money for an account, once or again and again."""

    microcredits: Microcredits
    every: Every = Field("once", description="week, month: as much again with each.")
    carry_over: bool = Field(
        False, description="Whether what is left of a week or month stays for the next."
    )
    starts_at: Moment | None = Field(None, description="None: now.")
    ends_at: Moment | None = Field(
        None, description="once: what is left expires then. week, month: no more begins then."
    )
    reason: Reason


class GrantView(View):
    """One grant."""

    id: str
    account: str
    amount: Amount = Field(description="Of one part.")
    every: Every
    carry_over: bool
    starts_at: datetime
    ends_at: datetime | None
    next_at: datetime | None = Field(description="When the next part comes; none: no more.")
    given: int = Field(description="Parts so far.")
    created_by: str
    created_at: datetime
    reason: str
    cancelled_at: datetime | None


class GrantsView(View):
    """Grants of an account, the newest first."""

    items: tuple[GrantView, ...]
    next_cursor: str | None


# ---------------------------------------------------------------------------- rates


class RatesPage(Page):
    """Which rates."""

    at: Moment | None = Field(None, description="Only those that hold then.")
    resource: Literal["", ResourceName] = ""


class RateBody(Wire):
    """A new rate. It never changes what is over."""

    resource: ResourceName
    gpu_model: Filter = Field("", description="Empty: every model.")
    tier: Filter = Field("", description="Empty: every tier.")
    microcredits: Annotated[int, Field(strict=True, ge=0, le=10**15)] = Field(
        description="For an hour of one; storage: for 30 days of one GiB."
    )
    valid_from: Moment | None = Field(None, description="None: from now on.")


class RateView(View):
    """One rate."""

    id: int | None = Field(description="None: what holds while nobody has set one.")
    resource: ResourceName
    gpu_model: str
    tier: str
    price: Amount = Field(description="For an hour of one; storage: for 30 days of one GiB.")
    valid_from: datetime | None
    created_by: str
    created_at: datetime | None


class RatesView(View):
    """Rates, the last to become valid first."""

    items: tuple[RateView, ...]
    next_cursor: str | None
