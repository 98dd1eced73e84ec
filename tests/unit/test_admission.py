"""Verdicts and their words: refused for ever with the right field, or waiting with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcloud_spawner.scheduler.admission import (
    Refused,
    gib_at_most,
    impossible,
    shortage,
    waiting_reasons,
)
from dcloud_spawner.scheduler.free import free_now
from dcloud_spawner.scheduler.snapshot import Accelerator, Holding, Node, Request, Snapshot
from tests.values import GIB, fits, gpus, holding, pools, request, requests, snapshot

FOUR = gpus("n1", 4)
MIXED = [*gpus("n1", 2), *gpus("n1", 2, "H100", first=2)]


def verdict(accelerators: list[Accelerator], wish: Request, **size: float) -> Refused | None:
    pool = snapshot(accelerators, **size)  # type: ignore[arg-type]
    return impossible(wish, pool.nodes, pool.accelerators)


@pytest.mark.parametrize(
    ("accelerators", "wish", "field", "words"),
    [
        (
            FOUR,
            request("q", 5),
            "gpus",
            "No node has 5 GPUs of one model; the most on one node is 4. Ask for up to 4.",
        ),
        (
            MIXED,
            request("q", 3),
            "gpus",
            "No node has 3 GPUs of one model; the most on one node is 2. Ask for up to 2.",
        ),
        (
            MIXED,
            request("q", 3, model="H100"),
            "gpus",
            "No node has 3 H100 GPUs; the most on one node is 2. Ask for up to 2.",
        ),
        (
            [*gpus("n1", 1), *gpus("n2", 1)],
            request("q", 2),
            "gpus",
            "No node has 2 GPUs of one model; the most on one node is 1. Ask for up to 1.",
        ),
        ([], request("q", 1), "gpus", "There is no GPU here. Choose 0 GPUs."),
        (
            [],
            request("q", 1, model="A100"),
            "gpu_model",
            "There is no GPU of the model 'A100' here. This pool has no GPUs.",
        ),
        (
            MIXED,
            request("q", 1, model="B200"),
            "gpu_model",
            "There is no GPU of the model 'B200' here. Models here: A100, H100.",
        ),
        (
            FOUR,
            request("q", 0, gib=65),
            "memory_gib",
            "No node has 65 GiB of memory for servers; the largest offers 64 GiB. "
            "Ask for less memory.",
        ),
        (
            FOUR,
            request("q", 9, gib=65, cores=65),
            "memory_gib",
            "No node has 65 GiB of memory for servers; the largest offers 64 GiB. "
            "Ask for less memory.",
        ),
        (
            FOUR,
            request("q", 1, cores=64.5),
            "cpus",
            "No node offers 64.5 cores; the largest offers 64. Ask for fewer cores.",
        ),
    ],
)
def test_what_can_never_be_is_refused_with_its_field_and_what_is_allowed(
    accelerators: list[Accelerator], wish: Request, field: str, words: str
) -> None:
    refused = verdict(accelerators, wish)
    assert refused is not None
    assert refused.field == field
    assert f"{refused.reason} {refused.hint}" == words


def test_no_single_node_with_everything_is_refused_in_words_of_its_own() -> None:
    nodes = [Node("big", 64_000, 512 * GIB), Node("gpu", 64_000, 16 * GIB)]
    pool = snapshot(gpus("gpu", 4), nodes=nodes)
    refused = impossible(request("q", 1, gib=32), pool.nodes, pool.accelerators)
    assert refused is not None
    assert refused.field == "memory_gib"
    assert "together" in refused.reason


@pytest.mark.parametrize(
    "wish",
    [request("q", 4), request("q", 0, gib=64, cores=64), request("q", 4, model="A100", gib=64)],
)
def test_what_fits_exactly_is_not_refused(wish: Request) -> None:
    assert verdict(FOUR, wish) is None


def test_an_empty_inventory_refuses_nothing() -> None:
    assert impossible(request("q", 4, gib=10**6), {}, {}) is None


def test_what_is_sick_or_drained_or_taken_today_is_not_refused() -> None:
    sick = {each.uuid: replace(each, offered=False) for each in FOUR}
    drained = {"n1": Node("n1", 64_000, 64 * GIB, drained=True)}
    assert impossible(request("q", 4), drained, sick) is None


@settings(max_examples=150, deadline=None)
@given(pools(longest_queue=0), st.data())
def test_refused_means_that_not_even_the_whole_idle_pool_holds_it(
    pool: Snapshot, data: st.DataObject
) -> None:
    wish = data.draw(requests(1))
    idle = replace(
        pool,
        nodes={name: replace(node, drained=False) for name, node in pool.nodes.items()},
        accelerators={
            uuid: replace(found, offered=True) for uuid, found in pool.accelerators.items()
        },
        holdings=(),
    )
    refused = impossible(wish, pool.nodes, pool.accelerators)
    assert (refused is None) == any(fits(idle, wish, (), node) for node in idle.nodes)
    if refused is not None:
        assert refused.field in {"gpus", "gpu_model", "memory_gib", "cpus"}
        assert refused.reason.endswith(".") and refused.hint.endswith(".")


def test_a_pool_never_offers_more_in_words_than_it_has() -> None:
    almost = 16 * GIB - 1
    refused = verdict([], request("q", 0, gib=16), gib=almost / GIB)
    assert refused is not None
    assert "No node has 16 GiB" in refused.reason
    assert "offers 15.9 GiB" in refused.reason


@given(st.integers(-(2**40), 2**50))
def test_an_amount_is_rounded_down_and_never_below_nothing(size_bytes: int) -> None:
    shown = float(gib_at_most(size_bytes))
    assert shown >= 0
    assert shown * GIB <= max(size_bytes, 0) * (1 + 1e-12)


# ---------------------------------------------------------------------------- why it waits


def why(
    accelerators: list[Accelerator],
    wish: Request,
    holdings: list[Holding] | None = None,
    *,
    ahead: int = 0,
    ahead_gpus: int = 0,
    **size: float,
) -> list[str]:
    pool = snapshot(accelerators, holdings or [], **size)  # type: ignore[arg-type]
    return list(waiting_reasons(shortage(wish, free_now(pool), pool), ahead, ahead_gpus))


def held(count: int, **more: float) -> list[Holding]:
    return [holding("h", [each.uuid for each in FOUR[:count]], **more)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("taken", "asked", "words"),
    [
        (4, 1, "You asked for 1 GPU and none is free."),
        (4, 2, "You asked for 2 GPUs and none is free."),
        (3, 2, "You asked for 2 GPUs and 1 is free."),
        (2, 4, "You asked for 4 GPUs and 2 are free."),
    ],
)
def test_too_few_free_gpus_are_said_in_singular_and_plural(
    taken: int, asked: int, words: str
) -> None:
    assert why(FOUR, request("q", asked), held(taken)) == [words]


def test_a_model_that_was_asked_for_is_named() -> None:
    taken = [holding("h", ["GPU-n1-2", "GPU-n1-3"])]
    assert why(MIXED, request("q", 2, model="H100"), taken) == [
        "You asked for 2 H100 GPUs and none is free."
    ]


def test_gpus_that_cannot_be_offered_are_counted_in_singular_and_plural() -> None:
    def with_sick(count: int) -> list[Accelerator]:
        return [replace(each, offered=index >= count) for index, each in enumerate(FOUR)]

    assert why(with_sick(1), request("q", 4)) == [
        "You asked for 4 GPUs and 3 are free. 1 GPU cannot be offered (fault or drained)."
    ]
    assert why(with_sick(3), request("q", 4)) == [
        "You asked for 4 GPUs and 1 is free. 3 GPUs cannot be offered (fault or drained)."
    ]


def test_gpus_that_are_free_but_apart_are_said_to_be_apart() -> None:
    apart = [*gpus("n1", 2), *gpus("n2", 3)]
    taken = [holding("h", ["GPU-n2-0"], node="n2")]
    assert why(apart, request("q", 3), taken) == [
        "You asked for 3 GPUs on one node and of one model. 4 are free, but at most 2 together."
    ]


def test_gpus_of_different_models_on_one_node_are_not_called_together() -> None:
    taken = [holding("h", ["GPU-n1-0", "GPU-n1-2"])]
    assert why(MIXED, request("q", 2), taken) == [
        "You asked for 2 GPUs on one node and of one model. 2 are free, but at most 1 together."
    ]


def test_memory_that_is_short_is_said() -> None:
    assert why([], request("q", 0, gib=16), held(0, gib=1), gib=16.5) == [
        "You asked for 16 GiB of memory and 15.5 GiB are free."
    ]


def test_an_overcommitted_node_shows_nothing_free_and_not_less() -> None:
    assert why([], request("q", 0, gib=16), held(0, gib=30), gib=16) == [
        "You asked for 16 GiB of memory and 0 GiB are free."
    ]


@pytest.mark.parametrize(
    ("used", "asked", "words"),
    [
        (3, 4, "You asked for 4 cores and 1 is free."),
        (4, 1, "You asked for 1 core and none is free."),
        (1.5, 4, "You asked for 4 cores and 2.5 are free."),
        (9, 0.5, "You asked for 0.5 cores and none is free."),
    ],
)
def test_cores_that_are_short_are_said_in_singular_and_plural(
    used: float, asked: float, words: str
) -> None:
    assert why([], request("q", 0, cores=asked), held(0, cores=used), cores=4) == [words]


def test_what_is_free_on_different_nodes_only_is_said_so() -> None:
    nodes = [Node("a", 64_000, 2 * GIB), Node("b", 1000, 64 * GIB)]
    pool = snapshot([], nodes=nodes)
    wish = request("q", 0, gib=8, cores=4)
    assert waiting_reasons(shortage(wish, free_now(pool), pool), 0, 0) == (
        "No single node has the GPUs, the memory and the cores free together.",
    )


@pytest.mark.parametrize(
    ("ahead", "ahead_gpus", "words"),
    [
        (1, 0, "1 request is ahead of you."),
        (1, 1, "1 request is ahead of you, asking for 1 GPU."),
        (2, 3, "2 requests are ahead of you, asking for 3 GPUs."),
    ],
)
def test_those_ahead_are_counted_in_singular_and_plural(
    ahead: int, ahead_gpus: int, words: str
) -> None:
    reasons = why(FOUR, request("q", 4), held(4), ahead=ahead, ahead_gpus=ahead_gpus)
    assert reasons[1:] == [words]


def test_whoever_would_fit_but_delay_the_head_is_told_so() -> None:
    assert why(FOUR, request("q", 1), ahead=1, ahead_gpus=4) == [
        "1 request is ahead of you, asking for 4 GPUs.",
        "Starting now would delay a request ahead of you.",
    ]
