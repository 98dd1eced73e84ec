"""Roles: what the people of a group may have at most.

A role is the name of a hub group. Somebody in several has for each limit the most generous one;
somebody in none has the default role; an administrator of the hub has the role ``admin``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ADMIN, STANDARD, PREMIUM = "admin", "standard", "premium"

ROLE = "role"
"""Beside the names of limits, what may be set for one person."""

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]


class RoleLimits(BaseModel):
    """What somebody may have at most; None: no limit. At once means in all of their servers that
    hold something, those that stop included."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    gpus: int | None = Field(default=None, ge=0, le=100_000, title="GPUs at once")
    gpu_models: tuple[Name, ...] | None = Field(
        default=None, min_length=1, max_length=50, title="GPU models"
    )
    memory_gib: float | None = Field(default=None, gt=0, le=1e9, title="Memory at once, GiB")
    cpus: float | None = Field(default=None, gt=0, le=1e6, title="Cores at once")
    storage_gib: float | None = Field(default=None, gt=0, le=1e9, title="Storage, GiB")
    environments: int | None = Field(default=None, ge=0, le=100_000, title="Environments")
    hours: int | None = Field(default=None, ge=1, le=100_000, title="Hours of a session")
    queued: int | None = Field(default=None, ge=0, le=100_000, title="Requests in the queue")
    gpu_hours_week: float | None = Field(default=None, ge=0, le=1e9, title="GPU-hours in 7 days")
    gpu_hours_month: float | None = Field(default=None, ge=0, le=1e9, title="GPU-hours in 30 days")
    tier: str | None = Field(default=None, title="Priority tier")
    """None: no tier but those of one's groups."""


TITLES: Mapping[str, str] = {
    name: str(field.title) for name, field in RoleLimits.model_fields.items()
}
"""Names of all limits, and how pages call them."""

DEFAULT_ROLES: Mapping[str, RoleLimits] = {
    ADMIN: RoleLimits(),
    STANDARD: RoleLimits(gpus=2, memory_gib=32, storage_gib=100, environments=5),
    PREMIUM: RoleLimits(gpus=4, memory_gib=64, storage_gib=500, environments=10),
}


def with_defaults(given: object) -> object:
    """The roles of the settings beside those that there are anyway; one that is given replaces
    the default of its name as a whole."""
    return {**DEFAULT_ROLES, **given} if isinstance(given, Mapping) else given


def roles_of(
    known: Mapping[str, RoleLimits],
    default: str,
    groups: Collection[str],
    *,
    administrator: bool,
) -> tuple[str, ...]:
    """The roles of somebody, by name."""
    found = {name for name in groups if name in known}
    if administrator and ADMIN in known:
        found.add(ADMIN)
    return tuple(sorted(found)) or (default,)


def most_generous(several: Collection[RoleLimits], tier_factors: Mapping[str, float]) -> RoleLimits:
    """For each limit the one that allows most."""
    values: dict[str, Any] = {}
    for name in RoleLimits.model_fields:
        found = [getattr(each, name) for each in several]
        if name == "tier":
            tiers = [tier for tier in found if tier is not None]
            values[name] = best_tier(tiers, tier_factors)
        elif any(value is None for value in found):
            values[name] = None
        elif name == "gpu_models":
            values[name] = tuple(sorted({model for models in found for model in models}))
        else:
            values[name] = max(found)
    return RoleLimits(**values)


def best_tier(tiers: Collection[str], factors: Mapping[str, float]) -> str | None:
    """The tier with the smallest factor; None of none."""
    return min(tiers, key=lambda tier: (factors.get(tier, 1.0), tier), default=None)
