"""Whether a wish can be met now, later or never, with the words for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dcloud_spawner.form.words import listed
from dcloud_spawner.live.availability import ModelAvailability
from dcloud_spawner.live.outlook import Range

State = Literal["now", "waits", "mine", "no"]
"""``mine``: it waits until the person's own servers give something back."""


@dataclass(frozen=True)
class Fit:
    """The answer for one choice."""

    state: State
    mark: str
    """Stands on the choice."""
    why: str = ""
    """The reason, without what it is about; empty when it is free now."""
    expected: Range | None = None
    """When it would start, where somebody can say."""


NOW = Fit("now", "now")

TURN = Fit("waits", "waits", "starting now would delay a request ahead")

NOT_TOGETHER = "No single node has the GPUs, the memory and the cores free together."


def fit_gpus(count: int, candidates: Sequence[ModelAvailability]) -> Fit:
    """Whether ``count`` GPUs of one of these models are free together on one node."""
    if count == 0:
        return NOW
    most = max((found.most for found in candidates), default=0)
    if most == 0:
        return Fit("no", "none here", "there are no such GPUs here")
    if count > most:
        node = "this node type has" if len(candidates) == 1 else "a node has"
        return Fit("no", f"{node} {most}", f"the most on one node are {most}")
    if count <= max(found.largest_free_on_one_node for found in candidates):
        return NOW
    return Fit("waits", "waits", _why_gpus_wait(count, candidates))


def _why_gpus_wait(count: int, candidates: Sequence[ModelAvailability]) -> str:
    total = sum(found.total for found in candidates)
    free = sum(found.free for found in candidates)
    out = sum(found.unhealthy for found in candidates)
    service = f", {out} out of service" if out else ""
    if free == 0:
        return f"{total - out} of {total} are taken{service}" if out else "all are taken"
    if free < count:
        return f"{free} of {total} {'is' if free == 1 else 'are'} free{service}"
    return f"{free} are free, but not together on one node and of one model"


def fit_amount(wanted: float, free: float, most: float) -> Fit:
    """Whether an amount of memory or of CPU is free on a node."""
    if wanted > most:
        return Fit("no", f"a node has {figure(most)}", f"the largest node offers {figure(most)}")
    if wanted > free:
        return Fit("waits", "waits", f"{figure(max(free, 0))} are free")
    return NOW


def figure(amount: float) -> str:
    """One decimal at most, rounded down: what is shown as free is free."""
    return f"{int(amount * 10) / 10:g}"


def reason(fits: Mapping[str, Fit], unit: str) -> str:
    """Why these choices are not free now: ``3 and 4 GPUs wait: 2 of 4 are free.``

    Keys of ``fits`` are the amounts; choices with the same reason share a sentence.
    """
    groups: dict[tuple[State, str], list[str]] = {}
    for amount, fit in fits.items():
        if fit.why:
            groups.setdefault((fit.state, fit.why), []).append(amount)
    return " ".join(
        f"{listed(amounts)} {_verb(state, amounts, unit)}: {why}."
        for (state, why), amounts in groups.items()
    )


def _verb(state: State, amounts: Sequence[str], unit: str) -> str:
    one = amounts == ["1"]
    noun = unit.removesuffix("s") if one else unit
    if state == "no":
        return f"{noun} {'is' if one else 'are'} not possible"
    return f"{noun} {'waits' if one else 'wait'}"
