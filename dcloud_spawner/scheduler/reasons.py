"""More reasons why a request waits, in words for its owner; ``admission`` has the first ones."""

from __future__ import annotations

from collections.abc import Mapping


def on_hold(reason: str) -> str:
    """An administrator keeps it from starting."""
    said = f": {reason.strip().rstrip('.')}" if reason.strip() else ""
    return f"An administrator holds this request back{said}. It keeps its time in the queue."


def of_somebody(reason: str) -> str:
    """A reason as one reads it who is not the one that waits."""
    return reason.replace("You asked for", "Asked for").replace("ahead of you", "ahead")


KEPT = "What is free is kept for an advance reservation."
"""A reservation that has begun holds it."""

BOOKED = "It could still run when an advance reservation begins that needs what is free now."
"""Said to the head of the queue; whoever is behind it waits for it anyway."""


def own_limit(limit: int, used: Mapping[str, int], asked: int) -> str:
    """The user's own limit of GPUs; ``used`` are their servers and the GPUs that each has.
    Empty when what is asked for is within the limit."""
    busy = {server: gpus for server, gpus in used.items() if gpus}
    if sum(busy.values()) + asked <= limit:
        return ""
    noun = "GPU" if limit == 1 else "GPUs"
    if not busy:
        return f"Your limit is {limit} {noun}, and you asked for {asked}."
    servers = " and ".join(f"{_server(name)} uses {gpus}" for name, gpus in sorted(busy.items()))
    return f"Your limit is {limit} {noun}, and {servers}. It starts when that is given back."


def _server(name: str) -> str:
    return f"“{name}”" if name else "your default server"
