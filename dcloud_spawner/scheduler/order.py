"""Who is next. The only place that decides it: for now, first come, first served."""

from __future__ import annotations

from collections.abc import Iterable

from dcloud_spawner.scheduler.snapshot import Request


def ordered(queue: Iterable[Request]) -> tuple[Request, ...]:
    """The queue, head first. The key never changes while a request waits, so that a restart
    changes nothing and a place can be explained."""
    return tuple(sorted(queue, key=lambda request: request.sequence))
