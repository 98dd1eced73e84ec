"""What a scheduling pass looks at: plain values, no database, no clock, no engine.

Times are seconds since the epoch (UTC) as floats: a pass does arithmetic on a hundred thousand of
them. Only ``schedule`` and the pages turn them into dates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

WHOLE = 1000
"""Thousandths of one GPU; a share of a GPU is a smaller number of them."""

NEVER = math.inf
"""The end of something that no known limit ends."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One accelerator that exists; ``offered`` is False while it is unhealthy or drained."""

    uuid: str
    node: str
    index: int
    model: str
    offered: bool = True
    link_domain: str = ""
    """GPUs of one domain reach each other without the host's memory; empty means unknown."""
    parent: str = ""
    """The GPU that this slot of a shared GPU lies on; empty for a whole GPU or a MIG instance."""
    milli: int = WHOLE
    """Thousandths of the parent that this slot is."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node as the scheduler may use it: after the platform's reserve and overcommit."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    drained: bool = False
    """It takes no new work: an administrator said so, or its engine no longer lists it."""
    labels: frozenset[str] = frozenset()
    """``key=value`` each."""


class Shape(NamedTuple):
    """What decides where a request fits: equal shapes fit in equal places."""

    gpus: int
    """On each node that it spans."""
    milli: int
    """Of each GPU; below 1000 it is one share of one GPU."""
    model: str | None
    memory_bytes: int
    cpu_millicores: int
    parts: int
    """Nodes that it spans, with the same on each."""
    labels: frozenset[str]


@dataclass(slots=True, eq=False)
class Request:
    """One queued workload's wish. Memory and cores are for each node that it spans."""

    id: str
    sequence: int
    user: str
    gpus: int
    """In all; a multiple of ``parts``."""
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: float
    submitted_at: float
    due_at: float = 0.0
    """When it is its turn, see ``order``; decided once, when it was submitted."""
    tier: str = ""
    held: bool = False
    """An administrator keeps it from starting; it keeps its due time."""
    moved_at: float | None = None
    """When an administrator moved it to the head."""
    gpu_milli: int = WHOLE
    parts: int = 1
    labels: frozenset[str] = frozenset()
    shape: Shape = field(init=False)

    def __post_init__(self) -> None:
        if self.gpus % self.parts or (self.gpu_milli < WHOLE and self.gpus > self.parts):
            raise ValueError(f"{self.id}: nodes get equal numbers of GPUs, or one share each")
        self.shape = Shape(
            self.gpus // self.parts,
            self.gpu_milli,
            self.gpu_model,
            self.memory_bytes,
            self.cpu_millicores,
            self.parts,
            self.labels,
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes on one node: the node and exactly these accelerators."""

    node: str
    accelerators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """One workload that holds something, and the latest time its limit lets it hold it."""

    id: str
    user: str
    node: str
    accelerators: tuple[str, ...]
    memory_bytes: int
    cpu_millicores: int
    ends_at: float = NEVER
    tier: str = ""
    reservation: str = ""
    """The advance reservation that it was admitted on."""
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """GPUs kept for some people from a time to a time, wherever they are free."""

    id: str
    starts_at: float
    ends_at: float
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    """For each GPU, as the cores."""
    cpu_millicores: int
    users: frozenset[str]
    """Everybody who may use it; groups are already resolved."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent picture of the pool."""

    at: float
    nodes: Mapping[str, Node]
    accelerators: Mapping[str, Accelerator]
    holdings: tuple[Holding, ...]
    queue: tuple[Request, ...]
    reservations: tuple[Reservation, ...] = ()
