"""Rules as people type them: ``slack_cap_hours=30,tier_gold=0.2``, or ``easy``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.scheduler.order import Policy

HOUR = 3600.0

DUE = "due"
"""The order that decides here."""
EASY = "easy"
"""First come, first served, backfilled: every request is due when it is submitted."""
POLICIES = (DUE, EASY)

TIER = "tier_"
HOURS = {
    "slack_cap_hours": "slack_cap_seconds",
    "slack_bend_hours": "slack_bend_seconds",
    "slack_doubling_hours": "slack_doubling_seconds",
    "fair_cap_hours": "fair_cap_seconds",
}
"""Constants that people give in hours, and where the policy has them in seconds."""


def names(policy: Policy) -> Mapping[str, float]:
    """Every constant that may be changed, with its present value."""
    return {
        "slack_gpus": policy.slack_gpus,
        **{name: getattr(policy, field) / HOUR for name, field in HOURS.items()},
        **{f"{TIER}{tier}": factor for tier, factor in sorted(policy.tiers.items())},
    }


def changed(policy: Policy, text: str, order: str = DUE) -> Policy:
    """A policy with other constants; raises InvalidChoice that names the wrong one."""
    if order not in POLICIES:
        raise InvalidChoice(
            f"policy: there is no policy {order[:40]!r}.",
            hint=f"Choose {' or '.join(POLICIES)}.",
            field="policy",
        )
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (each.strip() for each in part.partition("="))
        policy = _with(policy, name, _number(name, value, policy))
    if order == EASY:
        policy = replace(policy, slack_cap_seconds=0.0, fair_cap_seconds=0.0)
    return policy


def _number(name: str, text: str, policy: Policy) -> float:
    known = names(policy)
    if name not in known:
        raise InvalidChoice(
            f"constants: {name[:40]!r} is not one.",
            hint=f"There are {', '.join(known)}.",
            field="constants",
        )
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    positive = name == "slack_gpus" or name.startswith(TIER)
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise InvalidChoice(
            f"constants: {name} cannot be {text[:20]!r}.",
            hint=f"A number {'above 0' if positive else 'from 0'}; now it is {known[name]:g}.",
            field="constants",
        )
    return value


def _with(policy: Policy, name: str, value: float) -> Policy:
    if name.startswith(TIER):
        return replace(policy, tiers={**policy.tiers, name.removeprefix(TIER): value})
    if name == "slack_gpus":
        return replace(policy, slack_gpus=value)
    changes: dict[str, Any] = {HOURS[name]: value * HOUR}
    return replace(policy, **changes)
