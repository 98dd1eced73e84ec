"""Whether a container gets the cores that it was given, also on a machine that is at its limit.

More than its share it never gets. Less can be a busy neighbour, so the lower bound is that of the
kernel's own periods in which it was held back: then it had used all of its share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

BURN = """
import json, os, resource, time
def read(*names):
    for name in names:
        try:
            with open("/sys/fs/cgroup/" + name) as file:
                return file.read().split()
        except OSError:
            pass
def used_seconds():
    found = read("cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage")
    if found:
        return int(found[0]) / 1e9
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)
def now():
    found = read("cpu/cpu.stat", "cpu,cpuacct/cpu.stat", "cpu.stat")
    counts = dict(zip(found[::2], map(int, found[1::2])))
    return time.monotonic(), used_seconds(), counts["nr_periods"], counts["nr_throttled"]
before, end = now(), time.monotonic() + 3.5
child = os.fork()
while time.monotonic() < end:
    pass
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
seconds, used, periods, throttled = (b - a for a, b in zip(before, now()))
print(json.dumps([used / seconds, periods, throttled]))
"""
"""A program that keeps two cores busy; prints the cores it got, and of how many of the kernel's
periods it was held back in how many."""

TRIES = 8


def check_share(burn: Callable[[], Sequence[float]], wanted: float) -> None:
    """Fail unless ``BURN`` gets this many cores wherever nobody else is in its way."""
    for _ in range(TRIES):
        cores, periods, throttled = burn()
        assert cores <= wanted * 1.05
        if throttled >= periods / 2:
            assert cores * periods / throttled >= wanted * 0.95
            return
    pytest.fail(f"held back in {throttled} of {periods} periods at {cores:.3f} of {wanted} cores")
