"""Limits and what is asked for in words, and what their forms offer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dcloud_spawner.form.words import credits_words, listed
from dcloud_spawner.live.availability import model_words
from dcloud_spawner.roles import ROLE, TITLES
from dcloud_spawner.store.asks import NewAsk, Value, What

NUMBERS = "|".join(name for name in TITLES if name not in ("gpu_models", "tier"))
"""Limits whose value is a number, as ``data-when`` has them."""

WHOLE = frozenset({"gpus", "environments", "hours", "queued"})


def value_words(name: str, value: Any) -> str:
    """``4``, ``A100 and L4``, ``no limit``."""
    if value is None:
        return "–" if name == "tier" else "no limit"
    if isinstance(value, list | tuple):
        return listed([model_words(str(each)) for each in value])
    if isinstance(value, int | float):
        return f"{value:,.10g}"
    return str(value)


def title(name: str) -> str:
    """How pages call a limit, ``role`` included."""
    return "Role" if name == ROLE else TITLES.get(name, name)


def asked_words(found: NewAsk, names: Mapping[str, str]) -> str:
    """``40.00 credits for Vision group``, ``GPUs at once: 4``, ``the role premium``."""
    return given_words(found, found.value, names)


def given_words(found: NewAsk, value: Value, names: Mapping[str, str]) -> str:
    """The same for what was given."""
    if found.what is What.CREDITS:
        amount = credits_words(value) if isinstance(value, int) else str(value)
        return f"{amount} for {names.get(found.account or '', 'an account that is gone')}"
    if found.what is What.ROLE:
        return f"the role {value}"
    return f"{title(found.limit)}: {value_words(found.limit, value)}"


def limit_choices() -> Sequence[tuple[str, str]]:
    """All limits for a select."""
    return list(TITLES.items())


def model_choices(models: Collection[str]) -> Sequence[tuple[str, str]]:
    """GPU models of the pool for a list of ticks."""
    return [(name, model_words(name)) for name in sorted(models)]
