"""How full a cluster of shared GPUs gets before its fragments stop everything.

The published method (Weng et al., "Beware of Fragmentation", USENIX ATC 2023; the authors'
simulator hkust-adsl/kubernetes-scheduler-simulator, experiments of 2023-05-11, workload
openb_pod_list_default), as it is done here:

- Pool: the 1,213 GPU nodes of the trace (6,212 GPUs). A GPU may be given out whole or in shares;
  a request for 2, 4 or 8 GPUs gets whole ones on one node. GPU thousandths, cores and memory are
  limits. Nobody asks for a model in this workload.
- Arrivals: all 8,152 requests of the trace once (98.0 % of the GPUs, and requests without GPUs),
  shuffled; then requests drawn from the trace with replacement are appended, until one more would
  ask for over 130 % of all GPUs in sum (the simulator compares with the share of one GPU of the
  drawn request; so does this).
- They come one by one. What fits nowhere is lost, later ones are still tried; nothing ever ends.
- Usual requests for the measure of fragmentation: the combinations of cores, GPUs and thousandths
  by frequency among the 8,152, from the most frequent on, until they are 95 % of all; frequencies
  made to sum to 1. Requests without GPUs are among them.
- The nodes stand in an order that is drawn anew for each seed; equal scores go to the first.
- Measure: thousandths of GPU given out over all thousandths, when the last request has come
  (the authors' column "130"; their mean over ten seeds is 95.39 % for FGD, 93.08 % for Best Fit,
  87.47 % at random; where nothing ends this is the peak).
- Seeds 42-51, as there. Their generator is Go's, ours is Python's: same method, other draws.

Ours is the hub's ``Placer`` on the hub's ``Pool``. The peer, Best Fit, runs on the same pool with
the same arrivals in the same run: the node that has least left, half by cores (of 128) and half
by GPUs (of 8), in whole per cent as there; a share goes to the fullest GPU that holds it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import numpy as np

from bench.result import Result, averaged
from bench.trace_files import GpuNode, Pod, gpu_nodes, pods
from dcloud_spawner.scheduler.placement import Placer
from dcloud_spawner.scheduler.pool import Grant, Group, Layout, Pool
from dcloud_spawner.scheduler.snapshot import WHOLE, Node, Shape
from dcloud_spawner.scheduler.usual import Usual

SEEDS = range(42, 52)
ARRIVING = 1.3
USUAL_PART = 0.95
BEST_FIT_CORES = 128_000
BEST_FIT_GPUS = 8 * WHOLE

Place = Callable[[Shape], "tuple[Grant, ...] | None"]


def arrivals(seed: int, gpus: int) -> list[Pod]:
    """Who comes, in order, for so many GPUs in the pool."""
    rng = random.Random(seed)
    trace = pods()
    coming = rng.sample(trace, len(trace))
    asked = sum(pod.gpus * pod.gpu_milli for pod in trace)
    while True:
        pod = rng.choice(trace)
        if asked + pod.gpu_milli > ARRIVING * gpus * WHOLE:
            return coming
        asked += pod.gpus * pod.gpu_milli
        coming.append(pod)


def empty_pool(nodes: Sequence[GpuNode]) -> Pool:
    """The nodes of the trace, free, in the order given."""
    found = [Node(node.name, node.cpu_millicores, node.memory_bytes) for node in nodes]
    groups = [
        Group(position, node.model, False, tuple(f"{node.name}/{gpu}" for gpu in range(node.gpus)))
        for position, node in enumerate(nodes)
    ]
    return Pool(Layout(found, groups, whole_may_share=True))


def shape_of(pod: Pod) -> Shape:
    """A request as the placement sees it."""
    milli = pod.gpu_milli if pod.gpus else WHOLE
    return Shape(pod.gpus, milli, None, pod.memory_bytes, pod.cpu_millicores, 1, frozenset())


def usual_requests() -> Usual:
    """The typical requests of the method."""
    counted = Counter(shape_of(pod)._replace(memory_bytes=0) for pod in pods())
    classes: list[tuple[Shape, float]] = []
    covered = 0
    for shape, count in counted.most_common():
        if covered >= USUAL_PART * len(pods()):
            break
        classes.append((shape, float(count)))
        covered += count
    return Usual(classes)


def best_fit(pool: Pool) -> Place:
    """The peer's choice: the node with least left, the fullest GPU that holds a share."""

    def place(shape: Shape) -> tuple[Grant, ...] | None:
        fits = pool.fits(shape)
        if not fits.any():
            return None
        left = 0.5 * (pool.cpu - shape.cpu_millicores) / BEST_FIT_CORES
        left += 0.5 * (pool.free.sum(axis=1) - shape.gpus * shape.milli) / BEST_FIT_GPUS
        row = int(np.where(fits, np.floor(100 * (1 - left)), -np.inf).argmax())
        free = pool.free[row]
        holds = np.flatnonzero(free >= shape.milli)
        gpus = tuple(holds[np.argsort(free[holds], kind="stable")][: shape.gpus].tolist())
        return (Grant(row, gpus, shape.milli, shape.memory_bytes, shape.cpu_millicores),)

    return place


def fill(pool: Pool, place: Place, coming: Sequence[Pod]) -> float:
    """Place everybody who comes; the per cent of the pool's GPUs that is given out then."""
    for pod in coming:
        for grant in place(shape_of(pod)) or ():
            pool.take(grant)
    whole = int(pool.layout.gpu_count.sum()) * WHOLE
    return 100 * (whole - int(pool.free.sum())) / whole


def run(method: str, seed: int) -> float:
    """Peak allocation in per cent by ``ours`` or ``best fit``."""
    nodes = list(gpu_nodes())
    coming = arrivals(seed, sum(node.gpus for node in nodes))
    random.Random(seed).shuffle(nodes)
    pool = empty_pool(nodes)
    place = best_fit(pool) if method == "best fit" else Placer(pool, usual_requests()).place
    return fill(pool, place, coming)


def measure() -> dict[str, Result]:
    """``openb_peak_allocation``."""
    todo = list(product(("ours", "best fit"), SEEDS))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as workers:
        done = list(workers.map(run, *zip(*todo, strict=True)))
    peaks = {
        method: [peak for (by, _), peak in zip(todo, done, strict=True) if by == method]
        for method in ("ours", "best fit")
    }
    return {
        "openb_peak_allocation": averaged(
            peaks["ours"],
            peaks["best fit"],
            "% of GPUs",
            "Best Fit on the same arrivals (published: FGD 95.4, Best Fit 93.1)",
            3,
        )
    }
