"""One pass of the policy over 10,000 GPUs and 100,000 who wait, without the store.

Everything that a pass decides is counted: the order, the arrays from the names, what runs, who
starts. Once all GPUs are free, so that 10,000 start; once none is, the common case of a large
site. The peer does the least that admits anybody: in the order of submission, onto the first
node that fits, in plain Python; it packs nothing, guards nobody and remembers which shapes did
not fit. Seconds of one core, so that a busy machine does not count.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from bench.result import Result, paired
from dcloud_spawner.scheduler.names import PoolNames
from dcloud_spawner.scheduler.occupancy import occupancy_of
from dcloud_spawner.scheduler.order import Policy, ordered
from dcloud_spawner.scheduler.plan import make_plan
from dcloud_spawner.scheduler.snapshot import (
    Accelerator,
    Holding,
    Node,
    Request,
    Shape,
    Snapshot,
)

GIB = 2**30
NODES, GPUS_PER_NODE, QUEUED = 1250, 8, 100_000
MODELS = ("A100", "H100", "L40S", "A5000")
NOW = 200_000.0
ROUNDS = 5
PEER = "first fit in the order of submission, in plain Python"


def hardware() -> tuple[dict[str, Node], dict[str, Accelerator]]:
    """Nodes of four models."""
    nodes = {
        name: Node(name, 256_000, 2048 * GIB)
        for name in (f"node-{number:04}" for number in range(NODES))
    }
    accelerators = {
        f"{name}/{gpu}": Accelerator(f"{name}/{gpu}", name, gpu, MODELS[number % len(MODELS)])
        for number, name in enumerate(nodes)
        for gpu in range(GPUS_PER_NODE)
    }
    return nodes, accelerators


def waiting() -> tuple[Request, ...]:
    """Requests for one GPU each (the most starts that there can be) of 240 shapes."""
    rng, policy = random.Random(1), Policy()
    found = []
    for number in range(QUEUED):
        limit = rng.choice((1, 2, 4, 8, 24)) * 3600.0
        found.append(
            Request(
                str(number),
                number,
                f"user-{number % 200}",
                1,
                rng.choice((None, *MODELS)),
                rng.choice((4, 8, 16, 24, 32, 48, 64, 96)) * GIB,
                rng.choice((1, 2, 4, 6, 8, 12)) * 1000,
                limit,
                float(number),
                policy.due_at(float(number), 1, limit),
            )
        )
    return tuple(found)


def one_pass(snapshot: Snapshot) -> list[Holding]:
    """What starts, as it will hold its GPUs."""
    names = PoolNames(snapshot.nodes, snapshot.accelerators.values())
    plan = make_plan(occupancy_of(snapshot, names), ordered(snapshot.queue), snapshot.at)
    found = []
    for start in plan.starts:
        placement = names.placement(start.grants[0])
        request = start.request
        found.append(
            Holding(
                request.id,
                request.user,
                placement.node,
                placement.accelerators,
                request.memory_bytes,
                request.cpu_millicores,
                start.running.ends_at,
            )
        )
    return found


def first_fit(snapshot: Snapshot) -> int:
    """The peer: how many start."""
    free: dict[str, list[int]] = {
        node.name: [0, node.memory_bytes, node.cpu_millicores] for node in snapshot.nodes.values()
    }
    models: dict[str, str] = {}
    taken = {uuid for holding in snapshot.holdings for uuid in holding.accelerators}
    for found in snapshot.accelerators.values():
        free[found.node][0] += found.uuid not in taken
        models[found.node] = found.model
    for holding in snapshot.holdings:
        free[holding.node][1] -= holding.memory_bytes
        free[holding.node][2] -= holding.cpu_millicores
    unfit: set[Shape] = set()
    started = 0
    for request in snapshot.queue:
        if request.shape in unfit:
            continue
        for name, node in free.items():
            if (
                node[0] >= request.gpus
                and node[1] >= request.memory_bytes
                and node[2] >= request.cpu_millicores
                and request.gpu_model in (None, models[name])
            ):
                node[0] -= request.gpus
                node[1] -= request.memory_bytes
                node[2] -= request.cpu_millicores
                started += 1
                break
        else:
            unfit.add(request.shape)
    return started


def _seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin


def _measured(snapshot: Snapshot) -> Result:
    ours, peers = [], []
    for _ in range(ROUNDS):
        ours.append(_seconds(lambda: one_pass(snapshot)))
        peers.append(_seconds(lambda: first_fit(snapshot)))
    return paired(ours, peers, "s", PEER)


def measure() -> dict[str, Result]:
    """A pass that starts 10,000, and one after which nobody more can start."""
    nodes, accelerators = hardware()
    queue = waiting()
    free = Snapshot(NOW, nodes, accelerators, (), queue)
    running: Sequence[Holding] = one_pass(free)
    assert len(running) == NODES * GPUS_PER_NODE == first_fit(free)
    begun = {holding.id for holding in running}
    left = tuple(request for request in queue if request.id not in begun)
    full = Snapshot(NOW, nodes, accelerators, tuple(running), left)
    return {
        "pass_10000_gpus_100000_queued": _measured(free),
        "pass_10000_gpus_90000_queued_none_free": _measured(full),
    }
