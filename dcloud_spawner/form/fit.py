"""Whether a wish can be met now, later or never, with the words for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dcloud_spawner.form.availability import ModelAvailability

State = Literal["now", "waits", "no"]


@dataclass(frozen=True)
class Fit:
    """The answer for one choice: a short mark that stands on it, and the reason in a sentence."""

    state: State
    mark: str
    reason: str = ""


def fit_gpus(count: int, candidates: Sequence[ModelAvailability]) -> Fit:
    """Whether ``count`` GPUs of one of these models are free together on one node."""
    if count == 0:
        return Fit("now", "now")
    most = max((found.most for found in candidates), default=0)
    if most == 0:
        return Fit("no", "none here", "There are no such GPUs here.")
    if count > most:
        node = "this node type has" if len(candidates) == 1 else "a node has"
        return Fit("no", f"{node} {most}", f"More than {most} on one node do not exist here.")
    if count <= max(found.largest_free_on_one_node for found in candidates):
        return Fit("now", "now")
    return Fit("waits", "waits", _why_gpus_wait(count, candidates))


def _why_gpus_wait(count: int, candidates: Sequence[ModelAvailability]) -> str:
    total = sum(found.total for found in candidates)
    free = sum(found.free for found in candidates)
    out = sum(found.unhealthy for found in candidates)
    service = f", {out} out of service" if out else ""
    noun = "GPU waits" if count == 1 else "GPUs wait"
    if free == 0:
        taken = "all are taken" if not out else f"{total - out} of {total} are taken"
        return f"{count} {noun}: {taken}{service}."
    if free < count:
        verb = "is" if free == 1 else "are"
        return f"{count} {noun}: {free} of {total} {verb} free{service}."
    return f"{count} {noun}: {free} are free, but not together on one node and of one model."


def fit_amount(wanted: float, free: float, most: float, unit: str) -> Fit:
    """Whether an amount of memory (``GiB``) or of CPU (``cores``) is free on a node."""
    amount = f"{wanted:g} {unit[:-1] if wanted == 1 and unit.endswith('s') else unit}"
    if wanted > most:
        reason = f"{amount} are not possible: the largest node offers {most:.4g}."
        return Fit("no", f"a node has {most:.4g}", reason)
    if wanted > free:
        return Fit("waits", "waits", f"{amount} wait: {max(free, 0):.4g} are free.")
    return Fit("now", "now")


def hint(fits: Mapping[str, Fit]) -> str:
    """The reasons of all choices that are not free now, each once."""
    reasons = [fit.reason for fit in fits.values() if fit.reason]
    return " ".join(dict.fromkeys(reasons))
