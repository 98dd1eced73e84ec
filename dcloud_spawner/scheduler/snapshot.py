"""What a scheduling pass looks at: plain values, no database, no clock, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One accelerator that exists; ``offered`` is False while it is unhealthy or drained."""

    uuid: str
    node: str
    index: int
    model: str
    offered: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """One node as the scheduler may use it: after the platform's reserve and overcommit."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    drained: bool = False
    """It takes no new work: an administrator said so, or its engine no longer lists it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One queued workload's wish."""

    id: str
    sequence: int
    user: str
    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: int
    submitted_at: datetime

    @property
    def shape(self) -> tuple[int, str | None, int, int]:
        """What decides where it fits: equal shapes fit in equal places."""
        return (self.gpus, self.gpu_model, self.memory_bytes, self.cpu_millicores)


@dataclass(frozen=True, slots=True)
class Holding:
    """One workload that holds something, and the latest time its limit lets it hold it."""

    id: str
    user: str
    node: str
    accelerators: tuple[str, ...]
    memory_bytes: int
    cpu_millicores: int
    ends_at: datetime | None
    """None when no limit is known: it may hold for ever."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent picture of the pool."""

    at: datetime
    nodes: Mapping[str, Node]
    accelerators: Mapping[str, Accelerator]
    holdings: tuple[Holding, ...]
    queue: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes: a node and exactly these accelerators."""

    node: str
    accelerators: tuple[str, ...]
