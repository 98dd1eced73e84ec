"""How much of the pool somebody had lately, and how much would be fair. Plain arithmetic.

What was held at a rate r (GPUs, cores or GiB) from s0 to s1 counts at a later time t with

    r x integral over s from s0 to s1 of 2^(-(t - s) / h) ds
  = r x h / ln 2 x (2^(-(t - s1) / h) - 2^(-(t - s0) / h))

where h is the half-life. A whole pool that was held for ever counts h / ln 2 seconds: that is
the length of the window, and what a share is a part of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amount:
    """GPUs, cores and memory; or each of them times seconds."""

    gpus: float = 0.0
    cpu_cores: float = 0.0
    memory_gib: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.gpus + other.gpus,
            self.cpu_cores + other.cpu_cores,
            self.memory_gib + other.memory_gib,
        )

    def __mul__(self, factor: float) -> Amount:
        return Amount(self.gpus * factor, self.cpu_cores * factor, self.memory_gib * factor)


def faded(amount: Amount, seconds: float, half_life_seconds: float) -> Amount:
    """What an amount still counts some seconds later; a clock that was set back changes nothing."""
    return amount * math.exp2(-max(0.0, seconds) / half_life_seconds)


def held(rate: Amount, since: float, until: float, at: float, half_life_seconds: float) -> Amount:
    """What a rate that was held between two times counts at a time not before them (all in
    seconds); the formula of this module."""
    if until <= since:
        return Amount()
    late = math.exp2(-max(0.0, at - until) / half_life_seconds)
    early = math.exp2(-max(0.0, at - since) / half_life_seconds)
    return rate * (window_seconds(half_life_seconds) * (late - early))


def window_seconds(half_life_seconds: float) -> float:
    """Length of the window that the decay makes."""
    return half_life_seconds / math.log(2)


def dominant_share(had: Amount, total: Amount, half_life_seconds: float) -> float:
    """The largest part, over the kinds of resource, that amounts times seconds are of what the
    whole pool is in the window. 1 is all of it; what was asked for in advance may be more.
    Source: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011."""
    window = window_seconds(half_life_seconds)
    pairs = (
        (had.gpus, total.gpus),
        (had.cpu_cores, total.cpu_cores),
        (had.memory_gib, total.memory_gib),
    )
    return max((part / (whole * window) for part, whole in pairs if whole > 0), default=0.0)


def fair_share(user: str, weights: Mapping[str, float]) -> float:
    """The part that a user would have if everybody active had theirs; 1 for the only one."""
    total = sum(weights.values())
    return weights[user] / total if total > 0 else 1.0
