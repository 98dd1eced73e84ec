"""Verdicts: what can never be is refused, what may be later waits, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dcloud_spawner.scheduler.free import FreeNode, fits, free_now
from dcloud_spawner.scheduler.snapshot import Accelerator, Node, Request, Snapshot

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Refused:
    """This request can never start on this pool; ``field`` of the choice is the cause."""

    field: str
    reason: str
    hint: str = ""


def impossible(
    request: Request, nodes: Mapping[str, Node], accelerators: Mapping[str, Accelerator]
) -> Refused | None:
    """Why no node could ever hold this request, or None when one could.

    Looks at what exists, not at what is free, drained or healthy now: those change.
    """
    pool = free_now(
        Snapshot(
            at=0.0,
            nodes={name: replace(node, drained=False) for name, node in nodes.items()},
            accelerators={
                uuid: replace(found, offered=True) for uuid, found in accelerators.items()
            },
            holdings=(),
            queue=(),
        )
    )
    if not pool or fits(pool, request.shape):
        return None
    largest_memory = max(node.memory_bytes for node in pool.values())
    if request.memory_bytes > largest_memory:
        return Refused(
            "memory_gib",
            f"No node has {gib(request.memory_bytes)} GiB of memory for servers; "
            f"the largest offers {gib_at_most(largest_memory)} GiB.",
            "Ask for less memory.",
        )
    most_cpus = max(node.cpu_millicores for node in pool.values())
    if request.cpu_millicores > most_cpus:
        return Refused(
            "cpus",
            f"No node offers {request.cpu_millicores / 1000:g} cores; "
            f"the largest offers {most_cpus / 1000:g}.",
            "Ask for fewer cores.",
        )
    return _impossible_gpus(pool, request)


def _impossible_gpus(pool: Mapping[str, FreeNode], request: Request) -> Refused:
    models = sorted({model for node in pool.values() for model in node.counts})
    if request.gpu_model is not None and request.gpu_model not in models:
        return Refused(
            "gpu_model",
            f"There is no GPU of the model {request.gpu_model!r} here.",
            f"Models here: {', '.join(models)}." if models else "This pool has no GPUs.",
        )
    most = max(node.count(request.gpu_model) for node in pool.values())
    if not most:
        return Refused("gpus", "There is no GPU here.", "Choose 0 GPUs.")
    if request.gpus > most:
        what = f"{request.gpu_model} GPUs" if request.gpu_model else "GPUs of one model"
        return Refused(
            "gpus",
            f"No node has {request.gpus} {what}; the most on one node is {most}.",
            f"Ask for up to {most}.",
        )
    return Refused(
        "memory_gib",
        "No single node has these GPUs, this memory and these cores together.",
        "Ask for less memory or fewer cores.",
    )


def shortage(request: Request, free: Mapping[str, FreeNode], snapshot: Snapshot) -> str:
    """What is short for a request, in words for its owner; empty when it would fit."""
    return "" if fits(free, request.shape) else _short_of(request, free, snapshot)


def waiting_reasons(short: str, ahead: int, ahead_gpus: int) -> tuple[str, ...]:
    """Why a request does not start now, most important first: its :func:`shortage`, then the
    requests ahead of it and the GPUs that they ask for."""
    reasons = [short] if short else []
    if ahead:
        asked = f", asking for {_count(ahead_gpus, 'GPU')}" if ahead_gpus else ""
        verb = "is" if ahead == 1 else "are"
        reasons.append(f"{_count(ahead, 'request')} {verb} ahead of you{asked}.")
        if not short:
            reasons.append("Starting now would delay a request ahead of you.")
    return tuple(reasons)


def _short_of(request: Request, free: Mapping[str, FreeNode], snapshot: Snapshot) -> str:
    """Everything that is short: with only the first, the reason would change when that comes."""
    if not free:
        return "No node is taking work: all are drained or none is known yet."
    parts = [_gpus_short(request, free, snapshot)]
    memory = max(node.memory_bytes for node in free.values())
    if memory < request.memory_bytes:
        parts.append(
            f"You asked for {gib(request.memory_bytes)} GiB of memory and "
            f"{gib_at_most(memory)} GiB are free."
        )
    cpus = max(node.cpu_millicores for node in free.values())
    if cpus < request.cpu_millicores:
        parts.append(
            f"You asked for {_count_cores(request.cpu_millicores)} and "
            f"{_are_free(max(cpus, 0) / 1000)}."
        )
    return " ".join(filter(None, parts)) or (
        "No single node has the GPUs, the memory and the cores free together."
    )


def _gpus_short(request: Request, free: Mapping[str, FreeNode], snapshot: Snapshot) -> str:
    if not request.gpus:
        return ""
    wanted = request.gpu_model
    total = sum(
        count
        for node in free.values()
        for model, count in node.counts.items()
        if wanted in (None, model)
    )
    most = max(node.count(wanted) for node in free.values())
    model = f"{wanted} GPU" if wanted else "GPU"
    if total < request.gpus:
        asked = f"You asked for {_count(request.gpus, model)} and {_are_free(total)}."
        return asked + _unhealthy(request, snapshot)
    if most < request.gpus:
        kind = "" if wanted else " and of one model"
        return (
            f"You asked for {_count(request.gpus, model)} on one node{kind}. "
            f"{total} are free, but at most {most} together."
        )
    return ""


def gib(size_bytes: int) -> str:
    """A size in GiB, as somebody asked for it."""
    return f"{size_bytes / GIB:.10g}"


def gib_at_most(size_bytes: int) -> str:
    """What there is in GiB, rounded down: 16 must not be refused where "16.0" is offered."""
    return f"{math.floor(max(size_bytes, 0) / GIB * 10) / 10:.10g}"


def _are_free(total: float) -> str:
    return "none is free" if total == 0 else f"{total:g} {'is' if total == 1 else 'are'} free"


def _unhealthy(request: Request, snapshot: Snapshot) -> str:
    count = sum(
        not found.offered and request.gpu_model in (None, found.model)
        for found in snapshot.accelerators.values()
    )
    return f" {_count(count, 'GPU')} cannot be offered (fault or drained)." if count else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _count_cores(millicores: int) -> str:
    return f"{millicores / 1000:g} core{'' if millicores == 1000 else 's'}"
