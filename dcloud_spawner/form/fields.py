"""From posted strings to a choice. Converts only: ``options.validate`` is the one validation.

The start page sends the resources of every profile, named ``PROFILE.FIELD``, so that it works
without a script; those of the chosen profile count. Plain names (``gpus=2``) work too. What
cannot be converted, and any unknown field, is passed on as it is, so that validation names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NUMBERS = ("gpus", "memory_gib", "cpus", "hours")
TEXTS = ("gpu_model", "image", "account")
FIELDS = NUMBERS + TEXTS

DATASETS = "datasets"
VERSION_OF, MODE_OF = "version@", "mode@"
"""Before the name of a dataset: its version and mode, which count where it is ticked."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,12}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,12}\.[0-9]{1,12}")
_OF_A_PROFILE = re.compile(r"[^.]*\.(?:" + "|".join(FIELDS) + r")")


def choice_from_form(form: Mapping[str, list[str]]) -> dict[str, object]:
    """The choice ``{profile, gpus, gpu_model, memory_gib, cpus, hours, image, account, datasets}``
    of a form.

    A field that was not sent, or a text that was left empty, is not in the result; datasets that
    were sent empty are: the form says that none was ticked.
    """
    choice: dict[str, object] = {}
    profile = _single(form.get("profile", []))
    if profile is not None:
        choice["profile"] = profile
    for field in FIELDS:
        values = form.get(f"{profile}.{field}") or form.get(field)
        if values:
            value = _single(values)
            if field in TEXTS and isinstance(value, str) and not value.strip():
                continue
            choice[field] = _number(value) if field in NUMBERS else _stripped(value)
    if choice.get("gpus") == 0 and f"{profile}.gpu_model" in form:
        # The list of models is on the page even when 0 GPUs are chosen.
        choice.pop("gpu_model", None)
    if DATASETS in form:
        choice[DATASETS] = _datasets(form)
    for key, values in form.items():
        known = key in (*FIELDS, DATASETS, "profile", "_xsrf") or _OF_A_PROFILE.fullmatch(key)
        if not known and not key.startswith((VERSION_OF, MODE_OF)):
            choice[key] = _single(values)
    return choice


def _datasets(form: Mapping[str, list[str]]) -> list[object]:
    """``datasets=owner/name``, once for each that is ticked; a link may list them with commas and
    put the version behind an ``@``."""
    names = [name.strip() for value in form[DATASETS] for name in value.split(",")]
    found: list[object] = []
    for name in filter(None, names):
        said = {
            "version": _number(_single(form.get(f"{VERSION_OF}{name}", []))),
            "mode": _single(form.get(f"{MODE_OF}{name}", [])),
        }
        said = {key: value for key, value in said.items() if value not in (None, "")}
        found.append({"name": name, **said} if said else name)
    return found


def _single(values: list[str]) -> object:
    if not values:
        return None
    return values[0] if len(values) == 1 else values


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _number(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return value
