"""Where a request goes: it packs, keeps neighbours together and leaves big holes whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.placement import empty_pool, place, placements
from dcloud_spawner.scheduler.plan import free_now
from dcloud_spawner.scheduler.snapshot import Accelerator, Node, Placement, Snapshot
from tests.values import GIB, fits, gpus, holding, pools, request, requests, snapshot


def placed(pool: Snapshot, *arguments: object, **wish: object) -> Placement | None:
    return place(free_now(pool), request("q1", *arguments, **wish))  # type: ignore[arg-type]


def indices(pool: Snapshot, placement: Placement | None) -> list[int]:
    assert placement is not None
    return [pool.accelerators[uuid].index for uuid in placement.accelerators]


def test_one_gpu_goes_to_the_node_with_the_fewest_free() -> None:
    pool = snapshot([*gpus("n1", 4), *gpus("n2", 2)])
    found = placed(pool, 1)
    assert found is not None and found.node == "n2"


def test_four_gpus_go_to_the_node_that_has_four() -> None:
    pool = snapshot([*gpus("n1", 2), *gpus("n2", 4), *gpus("n3", 3)])
    found = placed(pool, 4)
    assert found is not None and found.node == "n2"


def test_a_request_without_gpus_keeps_away_from_nodes_with_gpus() -> None:
    nodes = [Node("a", 64_000, 64 * GIB), Node("b", 64_000, 64 * GIB)]
    pool = snapshot(gpus("a", 2), nodes=nodes)
    assert placed(pool, 0) == Placement("b", ())


def test_a_request_without_gpus_takes_none() -> None:
    assert placed(snapshot(gpus("n1", 4)), 0) == Placement("n1", ())


def test_neighbours_are_taken_and_the_rest_stays_in_one_piece() -> None:
    taken = [holding("h", ["GPU-n1-1"])]
    pool = snapshot(gpus("n1", 5), taken)  # 0 . 2 3 4
    assert indices(pool, placed(pool, 2)) == [2, 3]


def test_a_pair_is_split_only_where_no_neighbours_are_free() -> None:
    taken = [holding("h", ["GPU-n1-1", "GPU-n1-3"])]
    pool = snapshot(gpus("n1", 6), taken)  # 0 . 2 . 4 5
    assert indices(pool, placed(pool, 2)) == [4, 5]
    assert indices(pool, placed(pool, 3)) == [2, 4, 5]


def test_gpus_of_two_models_are_never_mixed() -> None:
    pool = snapshot([*gpus("n1", 2), *gpus("n1", 2, "H100", first=2)])
    assert placed(pool, 3) is None
    assert indices(pool, placed(pool, 2, model="H100")) == [2, 3]


def test_the_rarer_model_is_taken_when_any_will_do() -> None:
    pool = snapshot([*gpus("n1", 3), *gpus("n1", 1, "H100", first=3)])
    assert indices(pool, placed(pool, 1)) == [3]
    assert indices(pool, placed(pool, 2)) == [0, 1]


def test_gpus_of_two_nodes_are_never_joined() -> None:
    assert placed(snapshot([*gpus("n1", 2), *gpus("n2", 2)]), 3) is None


def test_a_request_fits_exactly_and_not_by_a_byte_more() -> None:
    pool = snapshot([], nodes=[Node("n1", 4000, 8 * GIB)])
    assert placed(pool, 0, gib=8, cores=4) is not None
    assert placed(pool, 0, gib=8 + 1 / GIB, cores=4) is None
    assert placed(pool, 0, gib=8, cores=4.001) is None


def test_what_is_not_offered_is_in_no_pool() -> None:
    nodes = {"n1": Node("n1", 1, 1), "n2": Node("n2", 1, 1, drained=True)}
    accelerators = {
        "sick": Accelerator("sick", "n1", 0, "A100", offered=False),
        "well": Accelerator("well", "n1", 1, "A100"),
        "away": Accelerator("away", "n2", 0, "A100"),
        "lost": Accelerator("lost", "gone", 0, "A100"),
    }
    pool = empty_pool(nodes, accelerators)
    assert {name: set(node.accelerators) for name, node in pool.items()} == {"n1": {"well"}}


def test_taking_from_a_copy_leaves_the_original_whole() -> None:
    free = free_now(snapshot(gpus("n1", 2)))["n1"]
    copy = free.copy()
    copy.take(request("q1", 2), list(copy.accelerators))
    assert len(free.accelerators) == 2
    assert free.memory_bytes == 64 * GIB


@settings(max_examples=100, deadline=None)
@given(pools(longest_queue=0), st.data())
def test_every_placement_fits_the_best_comes_first_and_every_node_is_among_them(
    pool: Snapshot, data: st.DataObject
) -> None:
    wish = data.draw(requests(1))
    free = free_now(pool)
    found = placements(free, wish)
    assert place(free, wish) == (found[0] if found else None)
    assert {each.node for each in found} == {
        node for node in pool.nodes if fits(pool, wish, pool.holdings, node)
    }
    for each in found:
        assert len(set(each.accelerators)) == wish.gpus
        assert set(each.accelerators) <= set(free[each.node].accelerators)
        assert len({pool.accelerators[uuid].model for uuid in each.accelerators}) <= 1
