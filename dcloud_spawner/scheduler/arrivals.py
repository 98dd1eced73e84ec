"""Who else will come: as often, and asking for the like, as lately.

Small work passes larger work that waits, so a forecast that knows only those who wait now is too
early.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.replay import Job
from dcloud_spawner.scheduler.runtimes import RunTimes
from dcloud_spawner.scheduler.snapshot import WHOLE, Request

MOST = 1000
"""So many are drawn for one forecast at most; it looks no farther ahead."""

AFTER_ALL = 1 << 60
"""Sequence of the first of them: nobody who waits has a larger one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for lately."""

    gpus: int
    gpu_model: str | None
    memory_bytes: int
    cpu_millicores: int
    limit_seconds: float
    tier: str = ""
    parts: int = 1
    gpu_milli: int = WHOLE
    labels: frozenset[str] = frozenset()


class Mix:
    """What came in a span of time, drawn from again with the same frequency."""

    def __init__(self, asked: Sequence[Asked] = (), span_seconds: float = 86400.0) -> None:
        self._asked = asked
        self._gap_seconds = span_seconds / len(asked) if asked else 0.0

    def arrivals(
        self, now: float, times: RunTimes, policy: Policy, seed: int
    ) -> Iterator[Job] | None:
        """One course of who comes from now on, in order; None when nobody came lately."""
        return self._draw(now, times, policy, random.Random(seed)) if self._asked else None

    def _draw(
        self, now: float, times: RunTimes, policy: Policy, draw: random.Random
    ) -> Iterator[Job]:
        at = now
        for number in range(MOST):
            at += draw.expovariate(1.0 / self._gap_seconds)
            asked = draw.choice(self._asked)
            request = Request(
                f"to come {number}",
                AFTER_ALL + number,
                "",
                asked.gpus,
                asked.gpu_model,
                asked.memory_bytes,
                asked.cpu_millicores,
                asked.limit_seconds,
                at,
                policy.due_at(at, asked.gpus, asked.limit_seconds, asked.tier),
                asked.tier,
                gpu_milli=asked.gpu_milli,
                parts=asked.parts,
                labels=asked.labels,
            )
            length = times.runtime_seconds(asked.gpus, asked.limit_seconds, at=draw.random())
            yield Job(request, length)
