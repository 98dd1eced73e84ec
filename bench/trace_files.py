"""The public traces in ``bench/data``, and the limits people would have asked for.

Times are seconds since the trace begins, as in the files.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
HOUR = 3600
FIRST_STEPS_HOURS = (0.5, 1, 2, 4, 8, 12, 24)
"""What a form offers; above the last one each step is twice the one before."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the elasticflow trace; ``row`` (from 0) breaks ties of submission."""

    row: int
    submitted_seconds: int
    duration_seconds: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Pod:
    """One request of the openb trace: ``gpus`` accelerators, ``gpu_milli`` thousandths of each."""

    name: str
    gpus: int
    gpu_milli: int
    cpu_millicores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class GpuNode:
    """One node of the openb cluster."""

    name: str
    gpus: int
    model: str
    cpu_millicores: int
    memory_bytes: int


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (DATA / name).open(newline="") as file:
        yield from csv.DictReader(file)


@cache
def jobs() -> tuple[Job, ...]:
    """elasticflow-cluster04 in file order."""
    return tuple(
        Job(row, int(line["submission_time"]), int(line["duration"]), int(line["num_gpu"]))
        for row, line in enumerate(_rows("elasticflow-cluster04.csv"))
    )


@cache
def pods() -> tuple[Pod, ...]:
    """The openb requests in file order."""
    return tuple(
        Pod(
            line["name"],
            int(line["num_gpu"]),
            int(line["gpu_milli"]) if int(line["num_gpu"]) else 0,
            int(line["cpu_milli"]),
            int(line["memory_mib"]) * 2**20,
        )
        for line in _rows("openb_pods.csv")
    )


@cache
def gpu_nodes() -> tuple[GpuNode, ...]:
    """The openb nodes in file order."""
    return tuple(
        GpuNode(
            line["sn"],
            int(line["gpu"]),
            line["model"],
            int(line["cpu_milli"]),
            int(line["memory_mib"]) * 2**20,
        )
        for line in _rows("openb_nodes.csv")
    )


def asked_limits(trace: Sequence[Job], seed: int) -> list[int]:
    """Seconds that each job's owner asked for, in file order.

    The real duration times a factor: 10 in one of ten cases (nobody knew), else even in 1-5;
    rounded up to what a form offers. Both numbers are drawn for every row, so that a prefix of
    the trace has the limits that it has in the whole.
    """
    rng = random.Random(seed)
    limits = []
    for job in trace:
        careless, factor = rng.random(), 1 + 4 * rng.random()
        limits.append(_rounded_up(job.duration_seconds * (10 if careless < 0.1 else factor)))
    return limits


def _rounded_up(seconds: float) -> int:
    for step in FIRST_STEPS_HOURS:
        if seconds <= step * HOUR:
            return int(step * HOUR)
    hours = FIRST_STEPS_HOURS[-1]
    while seconds > hours * HOUR:
        hours *= 2
    return int(hours * HOUR)
