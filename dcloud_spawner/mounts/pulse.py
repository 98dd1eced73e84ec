"""Whether something answers, asked beside the keeper's turns, which wait for nobody."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dcloud_spawner.platform import Platform
from dcloud_spawner.storage.errors import StorageAway

log = logging.getLogger("dcloud.data.mounts")

PROBE_SECONDS = 5.0
"""Between two looks at the storage while a stream depends on it."""

PULSE_SECONDS = 30.0
"""A stream that is silent for so long, though its process lives, is started again."""


class StorageProbe:
    """Whether the storage answers, asked only when somebody wants to know."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._pool = ThreadPoolExecutor(1, "probe")
        self._asked: Future[bool] | None = None
        self._asked_at = 0.0
        self._away = False

    def says_away(self) -> bool:
        """The last answer; a question that is open for long is one."""
        now = time.monotonic()
        if self._asked is not None:
            if self._asked.done():
                self._away, self._asked = self._asked.result(), None
            elif now - self._asked_at > PROBE_SECONDS:
                self._away = True
        elif now - self._asked_at > PROBE_SECONDS:
            self._asked, self._asked_at = self._pool.submit(self._ask), now
        return self._away

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> bool:
        try:
            self._platform.storage.exists("datasets/")
        except StorageAway:
            return True
        except Exception as error:
            log.warning("The storage: %s", error)
        return False


class Pulses:
    """Whether streams answer: ``statvfs`` always reaches the process behind a mount."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._asked: dict[Path, tuple[threading.Thread, float]] = {}

    def is_lost(self, point: Path) -> bool:
        """Whether a question has been open for too long; asks the next one when it is answered."""
        now = time.monotonic()
        thread, since = self._asked.get(point, (None, 0.0))
        if thread is not None and thread.is_alive():
            return now - since > self._patience_seconds
        if now - since > min(PROBE_SECONDS, self._patience_seconds):
            thread = threading.Thread(target=_ask, args=(point,), daemon=True)
            self._asked[point] = thread, now
            thread.start()
        return False

    def forget(self, point: Path) -> None:
        """It is another mount from now on."""
        self._asked.pop(point, None)


def _ask(point: Path) -> None:
    try:
        os.statvfs(point)
    except OSError:
        return  # an answer too: it is dead, which its process shows
