"""How long tests wait for real programs.

A wait guards against hanging and is no claim about speed: how fast something was is read from
the action log, and benches compare with a peer (`make bench`). In CI several runs share two
cores, and what takes a second alone may take ten there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

PATIENCE = 6 if os.environ.get("CI") else 2
"""What the time that a quiet machine needs is multiplied by."""


def patient(seconds: float) -> float:
    """How long to wait, in seconds, for what a quiet machine does in ``seconds``."""
    return seconds * PATIENCE


def patient_ms(seconds: float) -> float:
    """The same in milliseconds, as Playwright counts."""
    return 1000 * patient(seconds)


def until(condition: Callable[[], object], seconds: float, what: str = "it") -> float:
    """Wait for a condition; returns the seconds it took, fails when it does not come true.

    ``seconds`` is what a quiet machine needs at most.
    """
    seconds = patient(seconds)
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{what} did not happen in {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - start
