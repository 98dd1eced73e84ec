"""What a load test saw while it ran. Filled on one event loop; the report is made from it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class Doing(StrEnum):
    """What a simulated person does now."""

    THINKING = "thinking"
    ASKING = "asking"
    WAITING = "waiting"
    WORKING = "working"
    STOPPING = "stopping"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Call:
    """One answer of the hub; ``at`` in seconds since the start of the run."""

    at: float
    kind: str
    seconds: float
    status: int
    """0 when there was no answer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that a person did not get."""

    at: float
    user: str
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class PoolSample:
    """The platform's own rows at one moment."""

    at: float
    queued: int
    starting: int
    running: int
    stopping: int
    gpus_used: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Machine:
    """How busy the machine was before the run and at its end, its own part included."""

    cores: int
    load_before: float
    """Programs that wanted a core, over the last minute."""
    load_after: float


@dataclass
class Journal:
    """Everything, in the order in which it happened."""

    began: float = field(default_factory=time.monotonic)
    doing: dict[str, Doing] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    pool: list[PoolSample] = field(default_factory=list)
    asked: int = 0
    served: int = 0
    """Servers that became ready and answered through the proxy."""
    cancelled: int = 0
    container_checks: int = 0
    used_twice: list[str] = field(default_factory=list)
    """A sentence for each GPU that was found in two hands; empty is what is promised."""

    def now(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.began

    def restart(self) -> None:
        """Count the time from now on, and forget the calls that made the users."""
        self.began = time.monotonic()
        self.calls.clear()

    def note(self, user: str, doing: Doing) -> None:
        """A person does something else now."""
        self.doing[user] = doing

    def call(self, kind: str, began: float, status: int) -> None:
        """An answer to a question that was asked at ``began``."""
        self.calls.append(Call(began, kind, self.now() - began, status))

    def fail(self, user: str, step: str, reason: str) -> None:
        """A person did not get what they asked for."""
        self.failures.append(Failure(self.now(), user, step, " ".join(reason.split())[:300]))

    def counts(self) -> Counter[Doing]:
        """How many people do what now."""
        return Counter(self.doing.values())
