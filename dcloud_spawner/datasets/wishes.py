"""Datasets as a choice names them: which, in which version, mounted how. Pure.

Only the shape is judged here. Whether there is such a dataset, and whether somebody may read it,
is judged where the choice is submitted (:mod:`dcloud_spawner.datasets.choose`): that changes, and
the choice is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dcloud_spawner.datasets.paths import (
    NEWEST,
    Reference,
    parse_reference,
    parse_version,
    shown,
)
from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.store.datasets import Mode

FIELD = "datasets"

MOST = 20
"""Datasets in one choice."""

MODES = tuple(mode.value for mode in Mode)

LONGEST = 400
"""Characters of one dataset as it is written."""

_HOW = 'For example "ann/cars", "ann/cars@3" or {"name": "ann/cars", "version": 3}.'


@dataclass(frozen=True)
class DatasetWish:
    """One dataset of a choice."""

    name: str
    """``owner/name``, for a project's also ``project:owner/name``."""
    version: int | None = None
    """None: the latest at each start."""
    mode: str | None = None
    """cached or stream; None: as the dataset says."""

    @property
    def reference(self) -> Reference:
        """Name and version."""
        return replace(parse_reference(self.name, FIELD), version=self.version)

    def as_dict(self) -> dict[str, object]:
        """As the API takes it."""
        found: dict[str, object] = {"name": self.name, "version": self.version or NEWEST}
        return found if self.mode is None else {**found, "mode": self.mode}

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def parse_wishes(given: object) -> tuple[DatasetWish, ...]:
    """The datasets of a choice; raises InvalidChoice for what is none, for one that is there
    twice and for too many."""
    if not isinstance(given, list | tuple):
        raise InvalidChoice(f"{FIELD}: must be a list.", hint=_HOW, field=FIELD)
    if len(given) > MOST:
        raise InvalidChoice(
            f"{FIELD}: {len(given)} are too many.", hint=f"At most {MOST} at once.", field=FIELD
        )
    wishes = tuple(parse_wish(one) for one in given)
    _refuse_twice(wishes)
    return wishes


def _refuse_twice(wishes: Sequence[DatasetWish]) -> None:
    seen = set()
    for wish in wishes:
        if str(wish) in seen:
            raise InvalidChoice(
                f"{FIELD}: {shown(str(wish))} is there twice.", hint="Once is enough.", field=FIELD
            )
        seen.add(str(wish))


def parse_wish(given: object) -> DatasetWish:
    """One dataset, as text or as an object; raises InvalidChoice."""
    if isinstance(given, str):
        return _of_text(given, None, None)
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise InvalidChoice(f"{FIELD}: this is no dataset.", hint=_HOW, field=FIELD)
    unknown = [key for key in given if key not in ("name", "version", "mode")]
    if unknown:
        raise InvalidChoice(
            f"{FIELD}: {shown(str(unknown[0]))} is not a field of a dataset.",
            hint="Fields are name, version, mode.",
            field=FIELD,
        )
    return _of_text(given["name"], given.get("version"), given.get("mode"))


def _of_text(text: str, version: object, mode: object) -> DatasetWish:
    if len(text) > LONGEST or not text.isprintable():
        raise InvalidChoice(f"{FIELD}: {shown(text)} is no dataset.", hint=_HOW, field=FIELD)
    found = parse_reference(text, FIELD)
    if isinstance(version, int) or (isinstance(version, str) and len(version) < 40):
        said = parse_version(version, FIELD)
    elif version is None:
        said = None
    else:
        raise InvalidChoice(
            f"{FIELD}: the version of {text} is none.",
            hint='A number from 1, or "latest".',
            field=FIELD,
        )
    if found.version is not None and version is not None and said != found.version:
        raise InvalidChoice(
            f"{FIELD}: {text} says one version and its field another.",
            hint="Say the version once.",
            field=FIELD,
        )
    if mode is not None and mode not in MODES:
        raise InvalidChoice(
            f"{FIELD}: the mode of {text} is not known.",
            hint=f"Choose one of {', '.join(MODES)}.",
            field=FIELD,
        )
    name = str(replace(found, version=None))
    return DatasetWish(name, said or found.version, None if mode is None else str(mode))


def kept_wishes(given: object) -> tuple[DatasetWish, ...]:
    """Those of a kept or half-typed choice that can be read; what cannot is left out."""
    wishes: list[DatasetWish] = []
    for one in given if isinstance(given, list | tuple) else ():
        try:
            wish = parse_wish(one)
        except InvalidChoice:
            continue
        if wish not in wishes:
            wishes.append(wish)
    return tuple(wishes[:MOST])
