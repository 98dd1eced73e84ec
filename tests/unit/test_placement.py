"""Where a request goes: it packs, keeps neighbours together and leaves big holes whole. What is
remembered about rows is what would be computed anew, and the measure is the one in the paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.names import PoolNames, empty_pool, free_pool
from dcloud_spawner.scheduler.placement import Placer
from dcloud_spawner.scheduler.pool import Grant, Pool
from dcloud_spawner.scheduler.snapshot import WHOLE, Accelerator, Node, Placement, Shape, Snapshot
from dcloud_spawner.scheduler.usual import PATIENCE, USUAL, Usual
from tests.values import GIB, fits, gpus, holding, pools, request, requests, slots, snapshot

EXAMPLES = settings(max_examples=80, deadline=None)


def placed(pool: Snapshot, *arguments: object, **wish: object) -> Placement | None:
    """Where a request goes beside what a picture shows."""
    names = PoolNames(pool.nodes, pool.accelerators.values())
    free = Pool(names.layout)
    for held in pool.holdings:
        for grant in names.grants(held):
            free.take(grant)
    found = Placer(free).place(request("q1", *arguments, **wish).shape)  # type: ignore[arg-type]
    return names.placement(found[0]) if found else None


def indices(pool: Snapshot, placement: Placement | None) -> list[int]:
    assert placement is not None
    return [pool.accelerators[uuid].index for uuid in placement.accelerators]


def node_of(placement: Placement | None) -> str:
    assert placement is not None
    return placement.node


# ---------------------------------------------------------------------------- where


def test_one_gpu_goes_to_the_node_with_the_fewest_free() -> None:
    assert node_of(placed(snapshot([*gpus("n1", 4), *gpus("n2", 2)]), 1)) == "n2"


def test_one_gpu_fills_up_a_node_that_was_begun() -> None:
    pool = snapshot([*gpus("n1", 8), *gpus("n2", 8)], [holding("h", ["GPU-n2-3"], node="n2")])
    assert node_of(placed(pool, 1)) == "n2"


def test_four_gpus_go_to_the_node_that_has_four() -> None:
    pool = snapshot([*gpus("n1", 2), *gpus("n2", 4), *gpus("n3", 3)])
    assert node_of(placed(pool, 4)) == "n2"


def test_a_request_without_gpus_keeps_away_from_nodes_with_gpus() -> None:
    nodes = [Node("a", 64_000, 64 * GIB), Node("b", 64_000, 64 * GIB)]
    assert placed(snapshot(gpus("a", 2), nodes=nodes), 0) == Placement("b", ())


def test_a_request_without_gpus_takes_none() -> None:
    assert placed(snapshot(gpus("n1", 4)), 0) == Placement("n1", ())


def test_neighbours_are_taken_and_the_rest_stays_in_one_piece() -> None:
    pool = snapshot(gpus("n1", 5), [holding("h", ["GPU-n1-1"])])  # 0 . 2 3 4
    assert indices(pool, placed(pool, 2)) == [2, 3]


def test_a_pair_is_split_only_where_no_neighbours_are_free() -> None:
    pool = snapshot(gpus("n1", 6), [holding("h", ["GPU-n1-1", "GPU-n1-3"])])  # 0 . 2 . 4 5
    assert indices(pool, placed(pool, 2)) == [4, 5]
    assert indices(pool, placed(pool, 3)) == [2, 4, 5]


def test_gpus_of_one_link_domain_are_preferred_even_to_neighbours() -> None:
    linked = [
        replace(each, link_domain="ab"[each.index in (1, 3)]) for each in gpus("n1", 4)
    ]  # a b a b
    pool = snapshot(linked)
    assert indices(pool, placed(pool, 2)) in ([0, 2], [1, 3])
    assert len(indices(pool, placed(pool, 3))) == 3


def test_the_smallest_link_domain_that_suffices_is_taken() -> None:
    linked = [replace(each, link_domain="ab"[each.index < 2]) for each in gpus("n1", 6)]
    pool = snapshot(linked)
    assert indices(pool, placed(pool, 2)) == [0, 1]
    assert indices(pool, placed(pool, 3)) == [2, 3, 4]


def test_a_node_with_a_free_link_domain_is_preferred() -> None:
    apart = [replace(each, link_domain=f"d{each.index}") for each in gpus("n1", 2)]
    joined = [replace(each, link_domain="d") for each in gpus("n2", 2)]
    assert node_of(placed(snapshot([*apart, *joined]), 2)) == "n2"


def test_gpus_of_two_models_are_never_mixed() -> None:
    pool = snapshot([*gpus("n1", 2), *gpus("n1", 2, "H100", first=2)])
    assert placed(pool, 3) is None
    assert indices(pool, placed(pool, 2, model="H100")) == [2, 3]


def test_gpus_of_two_nodes_are_never_joined() -> None:
    assert placed(snapshot([*gpus("n1", 2), *gpus("n2", 2)]), 3) is None


def test_labels_that_a_node_lacks_keep_a_request_away() -> None:
    nodes = [
        Node("a", 64_000, 64 * GIB, labels=frozenset({"disk=fast", "room=2"})),
        Node("b", 64_000, 64 * GIB),
    ]
    pool = snapshot(gpus("b", 1), nodes=nodes)
    assert node_of(placed(pool, 0, labels=frozenset({"disk=fast"}))) == "a"
    assert placed(pool, 1, labels=frozenset({"disk=fast"})) is None


def test_a_request_fits_exactly_and_not_by_a_byte_more() -> None:
    pool = snapshot([], nodes=[Node("n1", 4000, 8 * GIB)])
    assert placed(pool, 0, gib=8, cores=4) is not None
    assert placed(pool, 0, gib=8 + 1 / GIB, cores=4) is None
    assert placed(pool, 0, gib=8, cores=4.001) is None


def test_a_share_fills_up_a_shared_gpu_before_it_begins_another() -> None:
    taken = [holding("h", ["GPU-n1-1::0"])]
    found = placed(snapshot(slots("n1", 2, 4), taken), 1, gpu_milli=250)
    assert found is not None and found.accelerators == ("GPU-n1-1::1",)


def test_what_is_not_offered_is_in_no_pool_unless_it_is_asked_what_there_could_be() -> None:
    nodes = {"n1": Node("n1", 1, 1), "n2": Node("n2", 1, 1, drained=True)}
    accelerators = [
        Accelerator("sick", "n1", 0, "A100", offered=False),
        Accelerator("well", "n1", 1, "A100"),
        Accelerator("away", "n2", 0, "A100", offered=False),
        Accelerator("lost", "gone", 0, "A100"),
    ]
    found = [group.gpus for group in empty_pool(nodes, accelerators).layout.groups]
    assert found == [("well",)]
    found = [group.gpus for group in empty_pool(nodes, accelerators, ideal=True).layout.groups]
    assert found == [("sick", "well"), ("away",)]


@EXAMPLES
@given(pools(longest_queue=0, plain=False), st.data())
def test_a_place_is_found_exactly_where_one_is(pool: Snapshot, data: st.DataObject) -> None:
    wish = data.draw(requests(1, plain=False))
    free = free_pool(pool)
    nodes = [fits(pool, wish, pool.holdings, node) for node in pool.nodes]
    assert (Placer(free).place(wish.shape) is not None) == (sum(nodes) >= wish.parts)
    rows = np.flatnonzero(free.fits(wish.shape))
    assert {free.layout.nodes[free.layout.groups[row].node].name for row in rows} == {
        node for node in pool.nodes if fits(pool, wish, pool.holdings, node)
    }


# ---------------------------------------------------------------------------- what is remembered


@dataclass(frozen=True)
class Numbers:
    """All that a pool knows."""

    values: tuple[bytes, ...]

    @classmethod
    def of(cls, pool: Pool) -> Numbers:
        arrays = (pool.free, pool.full, pool.memory, pool.cpu)
        return cls(tuple(array.tobytes() for array in arrays))


@EXAMPLES
@given(pools(plain=False), st.booleans())
def test_what_is_given_back_is_what_was_taken(pool: Snapshot, at_once: bool) -> None:
    free = free_pool(pool)
    placer, before, taken = Placer(free), Numbers.of(free), list[Grant]()
    for wish in pool.queue:
        for grant in placer.place(wish.shape) or ():
            copy = free.copy()
            free.take(grant)
            taken.append(grant)
            assert Numbers.of(copy) != Numbers.of(free)
    if at_once:
        free.give_all(taken)
    else:
        for grant in taken:
            free.give(grant)
    assert Numbers.of(free) == before
    assert (free.full == (free.free == WHOLE).sum(axis=1)).all()


usuals = st.sampled_from(
    (
        USUAL,
        ((Shape(1, 500, None, 0, 0, 1, frozenset()), 0.5), *USUAL[:1]),
        (
            (Shape(1, 250, None, GIB, 1000, 1, frozenset()), 0.3),
            (Shape(2, WHOLE, "H100", 4 * GIB, 4000, 1, frozenset()), 0.5),
            (Shape(0, WHOLE, None, GIB, 1000, 1, frozenset()), 0.2),
        ),
    )
)


@EXAMPLES
@given(pools(plain=False), usuals, st.data())
def test_remembered_scores_are_those_that_are_computed_anew(
    pool: Snapshot, classes: tuple[tuple[Shape, float], ...], data: st.DataObject
) -> None:
    """After any sequence of takes and gives, asked now and then, by few rows and by many."""
    usual, free = Usual(classes), free_pool(pool)
    placer, taken = Placer(free, usual), list[Grant]()
    shapes = [wish.shape for wish in pool.queue] or [Shape(1, WHOLE, None, 0, 0, 1, frozenset())]
    for _ in range(data.draw(st.integers(1, 8))):
        shape = data.draw(st.sampled_from(shapes))
        if taken and data.draw(st.booleans()):
            grant = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
            free.give_all([grant]) if data.draw(st.booleans()) else free.give(grant)
        elif found := placer.place(shape):
            for grant in found:
                free.take(grant)
            taken += found
        for asked in shapes:
            scores, anew = placer._score(asked), Placer(free, usual)
            assert (scores == anew._computed(asked, np.arange(len(scores)))).all()
            assert placer.place(asked) == anew.place(asked)
            assert np.isfinite(scores).tolist() == free.fits(asked).tolist()


def test_many_changed_rows_are_renewed_as_one_is() -> None:
    nodes = [Node(f"n{number:02}", 64_000, 64 * GIB) for number in range(40)]
    pool = snapshot([each for node in nodes for each in gpus(node.name, 4)], nodes=nodes)
    free = free_pool(pool)
    placer, shape = Placer(free), request("q1", 1).shape
    placer.place(shape)
    for number in range(30):
        free.take(Grant(number, (number % 4,), WHOLE, number * GIB, number))
    assert (placer._score(shape) == Placer(free)._score(shape)).all()
    for row in range(40):
        assert placer._of_counts(shape, row) == placer._remembered(shape, row)


# ---------------------------------------------------------------------------- the measure


def measure(free: list[int], memory: int, cpu: int, classes: list[tuple[Shape, float]]) -> float:
    """FGD's measure of one node, as the paper defines it, and our two additions, in plain
    Python: thousandths of GPUs that are lost to the usual requests."""
    total, whole = sum(free), sum(weight for _, weight in classes)
    lost = 0.0
    for shape, weight in classes:
        enough = [gpu for gpu in free if gpu >= shape.milli]
        runs = (
            len(enough) >= shape.gpus > 0
            and memory >= shape.memory_bytes
            and cpu >= shape.cpu_millicores
        )
        lost += weight / whole * (total - sum(enough) if runs else total)
    on_gpus = sum(weight * shape.gpus * shape.milli / WHOLE for shape, weight in classes)
    per_gpu = [
        sum(weight * need for need, weight in needs) / on_gpus if on_gpus else 0.0
        for needs in (
            [(shape.memory_bytes, weight) for shape, weight in classes if shape.gpus],
            [(shape.cpu_millicores, weight) for shape, weight in classes if shape.gpus],
        )
    ]
    idle = [
        total - WHOLE * left / need
        for left, need in zip((memory, cpu), per_gpu, strict=True)
        if need
    ]
    shares = any(shape.gpus and shape.milli < WHOLE for shape, _ in classes)
    ends = sum(left_over(gpu, classes) for gpu in free) if shares else 0.0
    return lost + max([0.0, *idle]) + ends


def left_over(free: int, classes: list[tuple[Shape, float]]) -> float:
    """What stays free of a GPU when requests go on coming, or nobody comes any more."""
    whole = sum(weight for _, weight in classes)
    coming = [(shape, weight / whole) for shape, weight in classes if 0 < shape.milli <= free]
    coming = [(shape, weight * shape.gpus) for shape, weight in coming if shape.gpus]
    if not free:
        return 0.0
    left = PATIENCE * free + sum(
        weight * left_over(free - shape.milli, classes) for shape, weight in coming
    )
    return left / (PATIENCE + sum(weight for _, weight in coming))


classes_of_any = st.lists(
    st.tuples(
        st.builds(
            Shape,
            gpus=st.sampled_from((0, 1, 1, 1, 2, 4)),
            milli=st.just(WHOLE),
            model=st.none(),
            memory_bytes=st.sampled_from((0, 0, GIB, 4 * GIB)),
            cpu_millicores=st.sampled_from((0, 0, 1000, 4000)),
            parts=st.just(1),
            labels=st.just(frozenset()),
        ),
        st.floats(0.05, 1),
    ),
    min_size=1,
    max_size=5,
)


@given(
    classes_of_any,
    st.lists(st.sampled_from((WHOLE, 250, 500, 700)), min_size=5, max_size=5),
    st.lists(st.sampled_from((0, 0, 100, 250, 500, 750, 1000, 1000)), min_size=1, max_size=5),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_the_measure_is_the_one_that_is_written_down(
    classes: list[tuple[Shape, float]], sizes: list[int], free: list[int], gib: int, cores: int
) -> None:
    classes = [
        (shape._replace(milli=milli) if shape.gpus == 1 else shape, weight)
        for (shape, weight), milli in zip(classes, sizes, strict=False)
    ]
    found = Usual(classes).fragmented(
        np.array([free], np.int64),
        np.array([gib * GIB], np.int64),
        np.array([cores * 1000], np.int64),
        np.ones((1, len(classes)), bool),
    )
    assert found[0] == pytest.approx(measure(free, gib * GIB, cores * 1000, classes), abs=1e-6)


def test_by_whole_gpus_alone_the_measure_is_exactly_that_of_the_paper() -> None:
    """Two GPUs free: half of the requests want one (none is lost), a fifth two, the rest more."""
    found = Usual().fragmented(
        np.array([[WHOLE, WHOLE, 0, 0]], np.int64),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        np.ones((1, len(USUAL)), bool),
    )
    assert found[0] == pytest.approx(2000 * (0.2 + 0.1))
