"""More reasons why a request waits, in words for its owner; ``admission`` has the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


def on_hold(reason: str) -> str:
    """An administrator keeps it from starting."""
    said = f": {reason.strip().rstrip('.')}" if reason.strip() else ""
    return f"An administrator holds this request back{said}. It keeps its time in the queue."


def of_somebody(reason: str) -> str:
    """A reason as one reads it who is not the one that waits."""
    for mine, theirs in _THEIRS:
        reason = reason.replace(mine, theirs)
    return reason


def without_ask(reason: str) -> str:
    """A reason beside which there is a link to ask for more."""
    return reason.removesuffix(" Ask for more.")


_THEIRS = (
    ("You asked for", "Asked for"),
    ("you asked for", "this asks for"),
    ("ahead of you", "ahead"),
    ("Your ", "Their "),
    ("your ", "their "),
)


KEPT = "What is free is kept for an advance reservation."
"""A reservation that has begun holds it."""

BOOKED = "It could still run when an advance reservation begins that needs what is free now."
"""Said to the head of the queue; whoever is behind it waits for it anyway."""


class Unit(NamedTuple):
    """What a limit counts."""

    one: str
    many: str


GPUS = Unit("GPU", "GPUs")
MEMORY = Unit("GiB of memory", "GiB of memory")
CORES = Unit("core", "cores")


def own_limit(limit: float, used: Mapping[str, float], asked: float, unit: Unit = GPUS) -> str:
    """The user's own limit; ``used`` are their servers and what each has of it. Empty when what is
    asked for is within the limit."""
    busy = {server: amount for server, amount in used.items() if amount}
    if sum(busy.values()) + asked <= limit:
        return ""
    yours = f"Your limit is {limit:g} {unit.one if limit == 1 else unit.many}, and"
    if not busy or asked > limit:
        return f"{yours} you asked for {asked:g}."
    servers = " and ".join(f"{server_words(name)} uses {n:g}" for name, n in sorted(busy.items()))
    return f"{yours} {servers}. It starts when that is given back."


def server_words(name: str) -> str:
    """A server of the one who reads it."""
    return f"“{name}”" if name else "your default server"
