"""A person's limits as the start page needs them: what may be chosen, and who has the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dcloud_spawner.gpu_time import MONTH, WEEK
from dcloud_spawner.limits import Limit
from dcloud_spawner.live.purse import ANY_MODEL, Bound, Rolling
from dcloud_spawner.scheduler.reasons import server_words

AT_ONCE = ("gpus", "memory_gib", "cpus")
ROLLING = {"gpu_hours_week": WEEK, "gpu_hours_month": MONTH}


@dataclass(frozen=True)
class Bounds:
    """All limits of one person."""

    bounds: Mapping[str, Bound] = field(default_factory=dict)
    closed_models: Mapping[str, str] = field(default_factory=dict)
    rolling: tuple[Rolling, ...] = ()
    refused: str = ""
    tier: str | None = None


def bounds_of(limits: Sequence[Limit], models: Collection[str]) -> Bounds:
    """What limits mean on a pool with these GPU models."""
    known = {found.name: found for found in limits}
    tier = known.get("tier")
    return Bounds(
        bounds=_bounds(known),
        closed_models=_closed(known.get("gpu_models"), models),
        rolling=tuple(
            Rolling(
                _number(found),
                found.used or 0.0,
                f"Your limit is {_number(found):g} GPU-hours in {ROLLING[name].days} days, "
                f"{found.used or 0.0:.1f} are used",
            )
            for name, found in known.items()
            if name in ROLLING and found.value is not None
        ),
        refused=_refused(known),
        tier=str(tier.value) if tier is not None and tier.value else None,
    )


def _number(limit: Limit) -> float:
    assert isinstance(limit.value, int | float)
    return float(limit.value)


def _bounds(known: Mapping[str, Limit]) -> dict[str, Bound]:
    found = {
        name: Bound(_number(known[name]), dict(known[name].by))
        for name in AT_ONCE
        if name in known and known[name].value is not None
    }
    hours = known.get("hours")
    if hours is not None and hours.value is not None:
        found["hours"] = Bound(_number(hours))
    return found


def _closed(limit: Limit | None, models: Collection[str]) -> dict[str, str]:
    mine = limit.value if limit is not None else None
    if not isinstance(mine, tuple):
        return {}
    closed = {model: "not for you" for model in models if model not in mine}
    # Whoever does not care might get one that is not for them.
    return {**closed, ANY_MODEL: "choose one of yours"} if closed else {}


def _refused(known: Mapping[str, Limit]) -> str:
    """What keeps anything from being asked for."""
    queued, storage = known.get("queued"), known.get("storage_gib")
    if queued is not None and queued.left == 0:
        names = " and ".join(server_words(name) for name, _ in queued.by)
        noun = "request" if queued.value == 1 else "requests"
        waits = f", and {names} {'waits' if len(queued.by) == 1 else 'wait'}" if names else ""
        return f"Your limit is {_number(queued):g} {noun} in the queue{waits}."
    if storage is None or storage.value is None or (storage.used or 0) <= _number(storage):
        return ""
    most = _number(storage)
    return f"Your limit is {most:g} GiB of storage, and you have {storage.used:.1f} GiB."
