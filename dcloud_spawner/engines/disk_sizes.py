"""Sizes on disk that are counted beside everything else: counting may take minutes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

RECOUNT_SECONDS = 120.0
"""Between the end of one count and the beginning of the next."""


class DiskSizes:
    """What ``count`` last said, in bytes by name. Never waits for it: until the first count is
    done nothing is known."""

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count
        self._sizes: Mapping[str, int] = {}
        self._lock = threading.Lock()
        self._due_at = 0.0

    def get(self) -> Mapping[str, int]:
        """The sizes as last counted; begins a new count when that is long ago."""
        if time.monotonic() >= self._due_at and self._lock.acquire(blocking=False):
            threading.Thread(target=self._turn, name="disk-sizes", daemon=True).start()
        return self._sizes

    def _turn(self) -> None:
        try:
            self._sizes = self._count()
        except Exception as error:
            log.debug("Sizes on disk could not be counted: %s", error)
        finally:
            self._due_at = time.monotonic() + RECOUNT_SECONDS
            self._lock.release()
