"""Waits on a public trace: the due time beside first come, first served, both backfilled (EASY).

Method. The jobs of elasticflow-cluster04 (15,802 jobs, two months) are submitted at their times
and run for their real durations; the policy sees only the asked limits, drawn anew for each of
the seeds 1-10 (``trace_files.asked_limits``). A pass follows every submission and every end, at
one time ends first. Two pools of 576 GPUs:

- ``bag``: one node, every GPU like the others; what only the order can do.
- ``nodes``: 72 nodes of 8; a job of up to 8 GPUs gets them on one node, a larger one whole nodes.

Everything is decided by the hub's own code: ``Policy.due_at``, ``make_plan``, the placement. The
peer is the same code in the same run with every slack 0, which is EASY in the order of submission
(ties by row). Wait is start - submission, JCT (job completion time) end - submission; p99 is the
linear percentile. Each figure is the mean over the seeds, in hours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context

import numpy as np

from bench.result import Result, averaged
from bench.trace_files import HOUR, Job, asked_limits, jobs
from dcloud_spawner.scheduler import replay
from dcloud_spawner.scheduler.occupancy import Occupancy
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.pool import Group, Layout, Pool
from dcloud_spawner.scheduler.snapshot import Node, Request

SEEDS = range(1, 11)
GPUS = 576
GPUS_PER_NODE = 8
VARIANTS = {"bag": GPUS, "nodes": GPUS_PER_NODE}
"""GPUs of each node."""
FIRST_COME = Policy(slack_cap_seconds=0)
PEER = "EASY, first come first served, in the same run"


@dataclass(frozen=True, slots=True)
class Waits:
    """What one run came to, in hours."""

    mean_jct: float
    mean_wait: float
    p99_wait: float
    max_wait: float


def empty_pool(gpus_per_node: int) -> Pool:
    """All GPUs of the bench, free."""
    nodes = [
        Node(f"node-{number:02}", cpu_millicores=0, memory_bytes=0)
        for number in range(GPUS // gpus_per_node)
    ]
    groups = [
        Group(number, "", False, tuple(f"{node.name}/{gpu}" for gpu in range(gpus_per_node)))
        for number, node in enumerate(nodes)
    ]
    return Pool(Layout(nodes, groups))


def submission(job: Job, limit_seconds: float, policy: Policy, gpus_per_node: int) -> replay.Job:
    """A job of the trace as the hub would queue it."""
    request = Request(
        id=str(job.row),
        sequence=job.row,
        user="",
        gpus=job.gpus,
        gpu_model=None,
        memory_bytes=0,
        cpu_millicores=0,
        limit_seconds=limit_seconds,
        submitted_at=job.submitted_seconds,
        due_at=policy.due_at(job.submitted_seconds, job.gpus, limit_seconds),
        parts=max(1, job.gpus // gpus_per_node),
    )
    return replay.Job(request, job.duration_seconds)


def starts(
    trace: Sequence[Job], limits: Sequence[float], policy: Policy, gpus_per_node: int
) -> list[float]:
    """When each job starts, in the order of the trace."""
    begun = replay.Replay(Occupancy(empty_pool(gpus_per_node)), 0.0).play(
        submission(job, limit, policy, gpus_per_node)
        for job, limit in zip(trace, limits, strict=True)
    )
    return [begun[str(job.row)] for job in trace]


def waits(trace: Sequence[Job], begun: Sequence[float]) -> Waits:
    """The figures of one run."""
    wait = np.array(begun) - np.array([job.submitted_seconds for job in trace])
    runtime = np.array([job.duration_seconds for job in trace])
    return Waits(
        float((wait + runtime).mean()) / HOUR,
        float(wait.mean()) / HOUR,
        float(np.percentile(wait, 99)) / HOUR,
        float(wait.max()) / HOUR,
    )


def run(variant: str, seed: int, policy: Policy, prefix: int | None = None) -> Waits:
    """One replay of the trace (or of its first jobs) with the limits of one seed."""
    trace = jobs()[:prefix]
    return waits(trace, starts(trace, asked_limits(trace, seed), policy, VARIANTS[variant]))


def compare(
    policy: Policy, seeds: Sequence[int] = SEEDS, prefix: int | None = None
) -> dict[str, tuple[list[Waits], list[Waits]]]:
    """For each variant the runs of a policy and those of its peer, seed by seed."""
    todo = list(product(VARIANTS, seeds, (policy, FIRST_COME)))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as workers:
        done = list(workers.map(_run, todo, [prefix] * len(todo)))
    return {
        variant: (
            [found for (name, _, by), found in pairs if name == variant and by is policy],
            [found for (name, _, by), found in pairs if name == variant and by is FIRST_COME],
        )
        for variant in VARIANTS
        for pairs in [list(zip(todo, done, strict=True))]
    }


def _run(todo: tuple[str, int, Policy], prefix: int | None) -> Waits:
    return run(*todo, prefix)


def measure() -> dict[str, Result]:
    """``trace_bag_*`` and ``trace_nodes_*``."""
    results = {}
    for variant, (ours, peers) in compare(Policy()).items():
        for name in Waits.__dataclass_fields__:
            results[f"trace_{variant}_{name}"] = averaged(
                [getattr(found, name) for found in ours],
                [getattr(found, name) for found in peers],
                "h",
                PEER,
            )
    return results
