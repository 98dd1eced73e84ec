"""How often somebody may do something within a minute, counted in this process."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from dcloud_spawner.errors import TooManyAttempts


class Throttle:
    """One kind of act. Each minute counts for itself, from any moment on."""

    def __init__(self, per_minute: int, acts: str) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._acts = acts

    def count(self, who: str) -> None:
        """Count one act of somebody; raises TooManyAttempts that says when the next one counts."""
        if self._limiter.hit(self._item, who):
            return
        reset_at, _ = self._limiter.get_window_stats(self._item, who)
        seconds = max(1, math.ceil(reset_at - time.time()))
        raise TooManyAttempts(
            f"More than {self._item.amount} {self._acts} within a minute.",
            hint=f"Try again in {seconds} {'second' if seconds == 1 else 'seconds'}.",
            code="too_often",
            retry_after_seconds=seconds,
        )
