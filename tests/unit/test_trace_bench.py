"""The trace benches, on beginnings of the traces. The simulator in this file is another one on
purpose: plain lists, one bag of GPUs, nothing of the scheduler."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import pytest

from bench import openb, traces
from bench.trace_files import HOUR, Job, asked_limits, gpu_nodes, jobs, pods
from dcloud_spawner.scheduler.order import Policy
from dcloud_spawner.scheduler.placement import Placer

Key = Callable[[Job, float], float]


def submission(job: Job, limit: float) -> float:
    return job.submitted_seconds


def production_due(job: Job, limit: float) -> float:
    return Policy().due_at(job.submitted_seconds, job.gpus, limit)


def simulated(
    trace: Sequence[Job], limits: Sequence[float], gpus: int, key: Key, *, backfill: bool
) -> list[float]:
    """When each job starts in one bag of GPUs; without backfilling the head blocks the others."""
    order = {job.row: (key(job, limits[job.row]), job.row) for job in trace}
    waiting: list[Job] = []
    running: dict[int, Job] = {}
    started: dict[int, float] = {}
    ends: list[tuple[float, int]] = []
    times = {float(job.submitted_seconds) for job in trace}
    coming = list(trace)
    while times or ends:
        now = min([*([min(times)] if times else []), *([ends[0][0]] if ends else [])])
        times.discard(now)
        while ends and ends[0][0] == now:
            del running[heapq.heappop(ends)[1]]
        while coming and coming[0].submitted_seconds == now:
            waiting.append(coming.pop(0))
        waiting.sort(key=lambda job: order[job.row])
        free = gpus - sum(job.gpus for job in running.values())
        until = spare = None
        for job in list(waiting):
            if until is None and job.gpus > free:
                if not backfill:
                    break
                spare = free
                for end, row in sorted((started[row] + limits[row], row) for row in running):
                    if until is not None and end > until:
                        break
                    spare += running[row].gpus
                    if spare >= job.gpus:
                        until = end
                spare -= job.gpus
                continue
            if job.gpus > free:
                continue
            if until is not None and now + limits[job.row] > until:
                if job.gpus > spare:
                    continue
                spare -= job.gpus
            waiting.remove(job)
            started[job.row] = now
            running[job.row] = job
            free -= job.gpus
            heapq.heappush(ends, (now + job.duration_seconds, job.row))
    return [started[job.row] for job in trace]


def test_the_trace_and_its_measures_are_those_of_the_known_figures() -> None:
    """First in, first out needs no limits, so its figures are known exactly."""
    trace = jobs()
    begun: list[float] = []
    free, ends = traces.GPUS, []
    now = 0.0
    for job in trace:
        now = max(now, job.submitted_seconds)
        while (ends and ends[0][0] <= now) or free < job.gpus:
            end, gpus = heapq.heappop(ends)
            free, now = free + gpus, max(now, end)
        begun.append(now)
        free -= job.gpus
        heapq.heappush(ends, (now + job.duration_seconds, job.gpus))
    found = traces.waits(trace, begun)
    assert (round(found.mean_jct, 2), round(found.mean_wait, 2)) == (9.83, 4.28)
    assert (round(found.p99_wait, 1), round(found.max_wait, 1)) == (21.8, 34.2)


@pytest.mark.parametrize(
    ("policy", "key"), [(Policy(), production_due), (traces.FIRST_COME, submission)]
)
def test_a_bag_of_gpus_starts_work_when_a_plain_simulator_does(policy: Policy, key: Key) -> None:
    trace = jobs()[:500]
    limits = asked_limits(trace, 3)
    ours = traces.starts(trace, limits, policy, traces.GPUS)
    assert ours == simulated(trace, limits, traces.GPUS, key, backfill=True)
    assert ours != simulated(trace, limits, traces.GPUS, key, backfill=False)


def test_nodes_are_never_given_more_than_they_have_and_everybody_starts() -> None:
    trace = jobs()[:300]
    begun = traces.starts(trace, asked_limits(trace, 1), Policy(), traces.GPUS_PER_NODE)
    changes = sorted(
        [(at, job.gpus) for at, job in zip(begun, trace, strict=True)]
        + [(at + job.duration_seconds, -job.gpus) for at, job in zip(begun, trace, strict=True)]
    )
    used = 0
    for _, change in changes:
        used += change
        assert used <= traces.GPUS
    assert all(at >= job.submitted_seconds for at, job in zip(begun, trace, strict=True))


def test_both_variants_are_measured_with_their_peer_over_the_same_seeds() -> None:
    found = traces.compare(Policy(), seeds=(1, 2), prefix=60)
    assert {name: tuple(map(len, runs)) for name, runs in found.items()} == {
        "bag": (2, 2),
        "nodes": (2, 2),
    }


def test_limits_are_drawn_alike_for_a_prefix_and_cover_what_runs() -> None:
    limits = asked_limits(jobs(), 7)
    assert asked_limits(jobs()[:100], 7) == limits[:100]
    assert asked_limits(jobs(), 8) != limits
    offered = {int(HOUR * 0.5), *(HOUR * hours for hours in (1, 2, 4, 8, 12))}
    for job, limit in zip(jobs(), limits, strict=True):
        assert limit >= job.duration_seconds
        assert limit in offered or (limit // HOUR % 24 == 0 and (limit // HOUR // 24).bit_count())


def test_requests_of_the_openb_method_ask_for_130_per_cent() -> None:
    gpus = sum(node.gpus for node in gpu_nodes())
    coming = openb.arrivals(42, gpus)
    asked = sum(pod.gpus * pod.gpu_milli for pod in coming)
    assert gpus == 6212
    assert sorted(pod.name for pod in coming[:8152]) == sorted(pod.name for pod in pods())
    assert 1.299 < asked / (gpus * 1000) <= 1.3 + 0.008
    assert coming != openb.arrivals(43, gpus)


def test_the_placement_wastes_less_of_shared_gpus_than_best_fit() -> None:
    nodes = random.Random(5).sample(gpu_nodes(), 60)
    coming = openb.arrivals(5, sum(node.gpus for node in nodes))
    coming = random.Random(5).sample(coming, 600)
    pool, peer = openb.empty_pool(nodes), openb.empty_pool(nodes)
    ours = openb.fill(pool, Placer(pool, openb.usual_requests()).place, coming)
    assert ours > openb.fill(peer, openb.best_fit(peer), coming) > 80
    for taken in (pool, peer):
        assert (taken.free >= 0).all() and (taken.cpu >= 0).all() and (taken.memory >= 0).all()
