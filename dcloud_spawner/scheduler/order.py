"""Who is next. The only place that decides it.

One key, the due time, that is decided when a request is submitted and never changes while it
waits, so that a place can be explained and a restart changes nothing:

    due = submit + slack + fair part
    size = asked seconds x GPUs / 6
    slack = min(cap, size, or above 20 h: 20 h + an hour for each doubling) x factor of the tier
    fair part = cap x clamp((share - fair) / fair, 0, 1)

Small work is due soon, so it passes large work that came a little earlier; but the slack is
capped, so that nothing waits for a stream of small work for ever: whatever is submitted
``Policy.overtaking_seconds`` after a request can never sort before it. Among large work the
smaller still goes first, by the hours of the doublings; with a slack that ends at once at its
cap (min(24 h, asked seconds x GPUs / 8)) large work waits as long and all other work longer.
Why this key, with the figures that it was chosen by: docs/queue.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dcloud_spawner.scheduler.snapshot import Request

DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The constants of the order; each is a setting."""

    slack_cap_seconds: float = 28 * 3600.0
    slack_gpus: float = 6.0
    """So many GPUs for an hour give an hour of slack."""
    slack_bend_seconds: float = 20 * 3600.0
    """Above this, size adds only ``slack_doubling_seconds`` each time it doubles."""
    slack_doubling_seconds: float = 3600.0
    fair_cap_seconds: float = DAY_SECONDS
    tiers: Mapping[str, float] = field(
        default_factory=lambda: {"gold": 0.25, "silver": 0.5, "bronze": 1.0}
    )
    """Factor of the slack by tier; a tier without one counts as 1."""

    def slack_seconds(self, gpus: float, limit_seconds: float, tier: str = "") -> float:
        """How much later than its submission a request is due because of its size."""
        slack, bend = limit_seconds * gpus / self.slack_gpus, max(1.0, self.slack_bend_seconds)
        if slack > bend:
            slack = bend + self.slack_doubling_seconds * math.log2(slack / bend)
        return min(self.slack_cap_seconds, slack) * self.tiers.get(tier, 1.0)

    def fair_seconds(self, share: float, fair: float) -> float:
        """How much later a request is due because its user had more than a fair share lately.

        ``share`` is the part of the pool that the user had, ``fair`` the part that would be
        fair (both 0 to 1): at twice the fair share and above it is the whole cap.
        """
        if fair <= 0:
            return 0.0
        return self.fair_cap_seconds * min(1.0, max(0.0, share / fair - 1.0))

    def due_at(
        self,
        submitted_at: float,
        gpus: float,
        limit_seconds: float,
        tier: str = "",
        *,
        share: float = 0.0,
        fair: float = 1.0,
    ) -> float:
        """The due time of a request, in seconds since the epoch."""
        slack = self.slack_seconds(gpus, limit_seconds, tier)
        return submitted_at + slack + self.fair_seconds(share, fair)

    @property
    def overtaking_seconds(self) -> float:
        """Nothing submitted this long after a request can sort before it."""
        most = max((*self.tiers.values(), 1.0))
        return self.slack_cap_seconds * most + self.fair_cap_seconds


def ordered(queue: Iterable[Request]) -> list[Request]:
    """The queue, head first: what an administrator moved to the head (the last one moved first),
    then by due time, then by submission. Requests on hold are left out."""
    return sorted((request for request in queue if not request.held), key=sort_key)


def sort_key(request: Request) -> tuple[float, float, int]:
    """What the queue is sorted by; it never changes while a request waits, but by an
    administrator's hand."""
    moved = request.moved_at
    return (math.inf if moved is None else -moved, request.due_at, request.sequence)
