"""Passes for many who ask at once: each gets one that began after it asked, and all who ask while
one runs share the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from dcloud_spawner.scheduler.plan import Plan


class Passes:
    """Runs one pass at a time, on a thread of its own."""

    def __init__(self, run: Callable[[], Plan]) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(1, "pass")
        self._lock = threading.Lock()
        self._next: Future[Plan] | None = None
        self._runs = False

    def ask(self) -> Future[Plan]:
        """A pass that sees whatever was committed before this call. It raises what the pass did,
        for all who share it. Raises RuntimeError after :meth:`close`."""
        with self._lock:
            if self._next is None:
                found: Future[Plan] = Future()
                found.set_running_or_notify_cancel()  # no one of those who share it can cancel it
                if not self._runs:
                    self._thread.submit(self._go_on)
                    self._runs = True
                self._next = found
            return self._next

    def close(self) -> None:
        """No more passes; the one that runs goes on."""
        self._thread.shutdown(wait=False)

    def _go_on(self) -> None:
        while True:
            with self._lock:
                asked, self._next = self._next, None
                if asked is None:
                    self._runs = False
                    return
            try:
                plan = self._run()
            except BaseException as error:
                asked.set_exception(error)
            else:
                asked.set_result(plan)
