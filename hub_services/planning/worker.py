"""A replay in a process of its own: it may take minutes, and a web service must go on answering.

The question comes by standard input, the answer by standard output, both from and to the process
that started this one: lines with how much is done, then one with the answer. It runs with low
priority, for the hub is on the same machine.
"""

from __future__ import annotations

import base64
import os
import pickle
import sys
from collections.abc import Callable

from hub_services.planning.whatif import Comparison, History, World, compare

NICE = 10
STEP = 0.01
"""Parts of the whole after which it says how far it is."""

DONE = "done "
ANSWER = "answer "


def encode(history: History, today: World, changed: World) -> bytes:
    """The question as the process reads it."""
    return pickle.dumps((history, today, changed))


def read_line(line: str) -> float | Comparison | None:
    """What a line of the process says; None for anything else."""
    if line.startswith(DONE):
        return float(line.removeprefix(DONE))
    if line.startswith(ANSWER):
        found = pickle.loads(base64.b64decode(line.removeprefix(ANSWER)))
        assert isinstance(found, Comparison)
        return found
    return None


def main() -> None:
    """Entry point of ``python -m hub_services.planning.worker``."""
    os.nice(NICE)
    history, today, changed = pickle.loads(sys.stdin.buffer.read())
    found = compare(history, today, changed, _in_steps(_say))
    sys.stdout.write(f"{ANSWER}{base64.b64encode(pickle.dumps(found)).decode()}\n")


def _say(done: float) -> None:
    sys.stdout.write(f"{DONE}{done:.3f}\n")
    sys.stdout.flush()


def _in_steps(tell: Callable[[float], None]) -> Callable[[float], None]:
    told = -1.0

    def progress(done: float) -> None:
        nonlocal told
        if done - told >= STEP or done >= 1:
            told = done
            tell(done)

    return progress


if __name__ == "__main__":
    main()
