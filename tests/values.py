"""Small values for tests of the pure core: pools, requests, and hypothesis strategies for both.

Memory is counted in GiB and time in minutes from ``AT``, so that numbers stay small and ties
(two ends at the same moment, a pool that is exactly full) are common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import strategies as st

from dcloud_spawner.scheduler.snapshot import NEVER, Accelerator, Holding, Node, Request, Snapshot

GIB = 2**30
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
MODELS = ("A100", "H100")


def minutes(count: float) -> float:
    """That many minutes in seconds."""
    return 60.0 * count


def gpus(node: str, count: int, model: str = "A100", *, first: int = 0) -> list[Accelerator]:
    """GPUs of one model on a node, with consecutive indices."""
    return [
        Accelerator(f"GPU-{node}-{index}", node, index, model)
        for index in range(first, first + count)
    ]


def request(
    name: str,
    gpus: int = 1,
    *,
    model: str | None = None,
    gib: float = 1,
    cores: float = 1,
    limit_minutes: float = 60,
    sequence: int | None = None,
) -> Request:
    """A queued request; its sequence is the number in its name unless given."""
    number = int("".join(filter(str.isdigit, name)) or 0) if sequence is None else sequence
    return Request(
        name,
        number,
        f"user-{name}",
        gpus,
        model,
        int(gib * GIB),
        int(cores * 1000),
        int(limit_minutes * 60),
        AT,
    )


def holding(
    name: str,
    accelerators: Sequence[str] = (),
    *,
    node: str = "n1",
    gib: float = 1,
    cores: float = 1,
    ends_in_minutes: float | None = 60,
) -> Holding:
    """A workload that holds something until its limit."""
    ends_at = NEVER if ends_in_minutes is None else AT + minutes(ends_in_minutes)
    return Holding(
        name, f"user-{name}", node, tuple(accelerators), int(gib * GIB), int(cores * 1000), ends_at
    )


def snapshot(
    accelerators: Sequence[Accelerator],
    holdings: Sequence[Holding] = (),
    queue: Sequence[Request] = (),
    *,
    nodes: Sequence[Node] = (),
    gib: float = 64,
    cores: float = 64,
) -> Snapshot:
    """A pool; nodes that are only named by accelerators get ``gib`` and ``cores``."""
    named = {node.name: node for node in nodes}
    for found in (*(each.node for each in accelerators), "n1"):
        if not nodes:
            named.setdefault(found, Node(found, int(cores * 1000), int(gib * GIB)))
    return Snapshot(
        AT, named, {each.uuid: each for each in accelerators}, tuple(holdings), tuple(queue)
    )


# ---------------------------------------------------------------------------- any pool

_amount = st.sampled_from((64,) * 12 + (12, 8, 6, 3, 0))
_drained = st.sampled_from((False,) * 9 + (True,))
_well = st.sampled_from((True,) * 12 + (False,))
_ends = st.sampled_from((5, 10, 10, 20, 60, 1, 0, -1, -600, None))


@st.composite
def requests(draw: st.DrawFn, number: int) -> Request:
    """Any request that is not absurdly large."""
    return request(
        f"q{number:02}",
        draw(st.sampled_from((1, 1, 2, 2, 3, 4, 0))),
        model=draw(st.sampled_from((None, None, None, *MODELS))),
        gib=draw(st.sampled_from((1, 1, 1, 2, 4, 6))),
        cores=draw(st.sampled_from((1, 1, 1, 2, 4, 6))),
        limit_minutes=draw(st.sampled_from((1, 5, 6, 10, 11, 20, 1000, 1000))),
    )


@st.composite
def pools(draw: st.DrawFn, longest_queue: int = 6) -> Snapshot:
    """Any consistent picture of a small pool: full, empty, sick, drained, over its limits."""
    nodes: dict[str, Node] = {}
    accelerators: dict[str, Accelerator] = {}
    holdings: list[Holding] = []
    for name in ("n1", "n2", "n3")[: draw(st.sampled_from((1, 1, 2, 3)))]:
        nodes[name] = Node(name, draw(_amount) * 1000, draw(_amount) * GIB, drained=draw(_drained))
        mixed = draw(st.booleans())
        shared_index = draw(st.booleans())
        model = draw(st.sampled_from(MODELS))
        mine = []
        for number in range(draw(st.sampled_from((4, 4, 3, 2, 1, 0)))):
            # Named against the order of the indices, so that one does not stand for the other.
            uuid = f"GPU-{name}-{9 - number}"
            accelerators[uuid] = Accelerator(
                uuid,
                name,
                0 if shared_index else number,
                draw(st.sampled_from(MODELS)) if mixed else model,
                offered=draw(_well) and not nodes[name].drained,
            )
            mine.append(uuid)
        for number in range(draw(st.sampled_from((1, 2, 2, 3, 0)))):
            count = min(draw(st.sampled_from((1, 1, 2, 2, 3, 0))), len(mine))
            held, mine = mine[:count], mine[count:]
            gib, cores = draw(st.sampled_from(((1, 1), (1, 4), (4, 1))))
            holdings.append(
                holding(
                    f"h-{name}-{number}",
                    held,
                    node=name,
                    gib=gib,
                    cores=cores,
                    ends_in_minutes=draw(_ends),
                )
            )
    length = min(draw(st.sampled_from((2, 3, 3, 4, 4, 5, 6, 1, 0))), longest_queue)
    queue = tuple(draw(requests(number)) for number in range(1, length + 1))
    return Snapshot(AT, nodes, accelerators, tuple(holdings), queue)


def shuffled(draw: st.DataObject, pool: Snapshot) -> Snapshot:
    """The same picture, read from the database in another order."""

    def mix(values: Mapping[str, object]) -> dict[str, object]:
        return {key: values[key] for key in draw.draw(st.permutations(list(values)))}

    return replace(
        pool,
        nodes=mix(pool.nodes),
        accelerators=mix(pool.accelerators),
        holdings=tuple(draw.draw(st.permutations(list(pool.holdings)))),
        queue=tuple(draw.draw(st.permutations(list(pool.queue)))),
    )


def fits(pool: Snapshot, wish: Request, running: Sequence[Holding], node: str) -> bool:
    """Whether a node holds a request beside what runs: a second opinion, by counting."""
    found = pool.nodes[node]
    here = [held for held in running if held.node == node]
    taken = {uuid for held in running for uuid in held.accelerators}
    free = [
        each.model
        for each in pool.accelerators.values()
        if each.node == node and each.offered and each.uuid not in taken
    ]
    models = [wish.gpu_model] if wish.gpu_model else MODELS
    return (
        not found.drained
        and sum(held.cpu_millicores for held in here) + wish.cpu_millicores <= found.cpu_millicores
        and sum(held.memory_bytes for held in here) + wish.memory_bytes <= found.memory_bytes
        and (wish.gpus == 0 or any(free.count(model) >= wish.gpus for model in models))
    )
