"""Small values for tests of the pure core: pools, requests, hypothesis strategies for both, and a
second opinion of what fits, which counts names in plain Python instead of asking arrays.

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
    **more: object,
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
        **more,  # type: ignore[arg-type]
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


def slots(
    node: str, gpus: int, each: int, *, model: str = "A100", milli: int = 0, first: int = 0
) -> list[Accelerator]:
    """GPUs that are given out in so many slots each."""
    return [
        Accelerator(
            f"GPU-{node}-{gpu}::{slot}",
            node,
            gpu,
            model,
            parent=f"GPU-{node}-{gpu}",
            milli=milli or 1000 // each,
        )
        for gpu in range(first, first + gpus)
        for slot in range(each)
    ]


# ---------------------------------------------------------------------------- any pool

_amount = st.sampled_from((64,) * 12 + (12, 8, 6, 3, 0))
_drained = st.sampled_from((False,) * 9 + (True,))
_well = st.sampled_from((True,) * 12 + (False,))
_ends = st.sampled_from((5, 10, 10, 20, 60, 1, 0, -1, -600, None))
_labels = st.sampled_from((frozenset(),) * 5 + (frozenset({"disk=fast"}),))


@st.composite
def requests(draw: st.DrawFn, number: int, *, plain: bool = True) -> Request:
    """Any request that is not absurdly large; a plain one wants whole GPUs of one node."""
    gpus, parts, milli = draw(st.sampled_from((1, 1, 2, 2, 3, 4, 0))), 1, 1000
    if not plain:
        parts, milli = draw(st.sampled_from(((1, 1000),) * 6 + ((2, 1000), (1, 500), (1, 200))))
    return request(
        f"q{number:02}",
        1 if milli < 1000 else gpus * parts,
        model=draw(st.sampled_from((None, None, None, *MODELS))),
        gib=draw(st.sampled_from((1, 1, 1, 2, 4, 6))),
        cores=draw(st.sampled_from((1, 1, 1, 2, 4, 6))),
        limit_minutes=draw(st.sampled_from((1, 5, 6, 10, 11, 20, 1000, 1000))),
        due_at=AT + (0 if plain else minutes(draw(st.sampled_from((0, 0, 1, 2, 3))))),
        parts=parts,
        gpu_milli=milli,
        labels=frozenset() if plain else draw(_labels),
        held=not plain and draw(st.sampled_from((False,) * 8 + (True,))),
        moved_at=None if plain else draw(st.sampled_from((None,) * 8 + (AT, AT + 1))),
    )


@st.composite
def pools(draw: st.DrawFn, longest_queue: int = 6, *, plain: bool = True) -> Snapshot:
    """Any consistent picture of a small pool: full, empty, sick, drained, over its limits. One
    that is not plain has shared GPUs, link domains and labels, and any kind of request."""
    nodes: dict[str, Node] = {}
    accelerators: dict[str, Accelerator] = {}
    holdings: list[Holding] = []
    for name in ("n1", "n2", "n3")[: draw(st.sampled_from((1, 1, 2, 3)))]:
        node = Node(name, draw(_amount) * 1000, draw(_amount) * GIB, drained=draw(_drained))
        nodes[name] = node if plain else replace(node, labels=draw(_labels))
        mine = draw(_accelerators(nodes[name], plain))
        accelerators |= {each.uuid: each for each in mine}
        for number in range(draw(st.sampled_from((1, 2, 2, 3, 0)))):
            count = min(draw(st.sampled_from((1, 1, 2, 2, 3, 0))), len(mine))
            held, mine = mine[:count], mine[count:]
            gib, cores = draw(st.sampled_from(((1, 1), (1, 4), (4, 1))))
            holdings.append(
                holding(
                    f"h-{name}-{number}",
                    [each.uuid for each in held],
                    node=name,
                    gib=gib,
                    cores=cores,
                    ends_in_minutes=draw(_ends),
                )
            )
    length = min(draw(st.sampled_from((2, 3, 3, 4, 4, 5, 6, 1, 0))), longest_queue)
    queue = tuple(draw(requests(number, plain=plain)) for number in range(1, length + 1))
    return Snapshot(AT, nodes, accelerators, tuple(holdings), queue)


@st.composite
def _accelerators(draw: st.DrawFn, node: Node, plain: bool) -> list[Accelerator]:
    mixed, shared_index = draw(st.booleans()), draw(st.booleans())
    linked = not plain and draw(st.booleans())
    model = draw(st.sampled_from(MODELS))
    found: list[Accelerator] = []
    for number in range(draw(st.sampled_from((4, 4, 3, 2, 1, 0)))):
        # Named against the order of the indices, so that one does not stand for the other.
        uuid, index = f"GPU-{node.name}-{9 - number}", 0 if shared_index else number
        one = Accelerator(uuid, node.name, index, draw(st.sampled_from(MODELS)) if mixed else model)
        if linked:
            one = replace(one, link_domain=draw(st.sampled_from(("a", "b", ""))))
        each = 0 if plain else draw(st.sampled_from((0, 0, 0, 0, 2, 4, 3)))
        parts = [
            replace(one, uuid=f"{uuid}::{slot}", parent=uuid, milli=1000 // each)
            for slot in range(each)
        ]
        found += [
            replace(part, offered=draw(_well) and not node.drained) for part in parts or [one]
        ]
    return found


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
        reservations=tuple(draw.draw(st.permutations(list(pool.reservations)))),
    )


# ---------------------------------------------------------------------------- a second opinion


def choices(
    pool: Snapshot, wish: Request, running: Sequence[Holding], node: str
) -> list[list[Accelerator]]:
    """The kinds of free accelerators of a node that each suffice for one part of a request, as
    lists of all of the kind; one empty list when it wants none. Empty when it does not fit."""
    found = pool.nodes[node]
    here = [held for held in running if held.node == node]
    if (
        found.drained
        or not wish.labels <= found.labels
        or sum(held.cpu_millicores for held in here) + wish.cpu_millicores > found.cpu_millicores
        or sum(held.memory_bytes for held in here) + wish.memory_bytes > found.memory_bytes
    ):
        return []
    if wish.gpus == 0:
        return [[]]
    taken = {uuid for held in running for uuid in held.accelerators}
    kinds: dict[tuple[str, int], list[Accelerator]] = {}
    for each in pool.accelerators.values():
        if each.node == node and each.offered and each.uuid not in taken:
            kinds.setdefault((each.model, each.milli if each.parent else 0), []).append(each)
    return [
        free
        for (model, slot), free in sorted(kinds.items())
        if wish.gpu_model in (None, model)
        and (slot >= wish.gpu_milli if wish.gpu_milli < 1000 else slot == 0)
        and len(free) >= wish.gpus // wish.parts
    ]


def fits(pool: Snapshot, wish: Request, running: Sequence[Holding], node: str) -> bool:
    """Whether a node holds one part of a request beside what runs."""
    return bool(choices(pool, wish, running, node))


def fits_in(pool: Snapshot, wish: Request, running: Sequence[Holding]) -> bool:
    """Whether all parts of a request fit, each on a node of its own."""
    return sum(fits(pool, wish, running, node) for node in pool.nodes) >= wish.parts


def left_at(running: Sequence[Holding], at: float, now: float) -> list[Holding]:
    """What still runs at a time if everybody uses up the limit; whoever is past it ends now."""
    return [held for held in running if max(held.ends_at, now) > at]


def earliest(pool: Snapshot, wish: Request, running: Sequence[Holding]) -> float | None:
    """When a request fits at the latest, if nobody new starts."""
    times = {pool.at, *(max(held.ends_at, pool.at) for held in running)}
    for at in sorted(time for time in times if time < NEVER):
        if fits_in(pool, wish, left_at(running, at, pool.at)):
            return at
    return None
