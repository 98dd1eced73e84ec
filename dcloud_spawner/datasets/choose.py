"""Datasets of a choice: what a start page offers, and what a request gets.

A choice is kept as it was made ("latest"), and what it means is decided when it is submitted: then
the version is fixed for as long as the server runs, and who asks must be able to read it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_

from dcloud_spawner.datasets import rights
from dcloud_spawner.datasets.rights import Who
from dcloud_spawner.datasets.wishes import FIELD, DatasetWish
from dcloud_spawner.errors import InvalidChoice, NotFound
from dcloud_spawner.store import dataset_choices, dataset_mounts, datasets
from dcloud_spawner.store.datasets import Dataset, Version

SHOWN = 8
"""Datasets on a start page before somebody searches."""

FOUND = 20
"""Datasets that a search shows."""

VERSIONS = 20
"""Versions of one dataset to choose from; older ones can be named."""

LONGEST_FOLDER = 128

LONGEST_SEARCH = 200


@dataclass(frozen=True)
class Chosen:
    """One dataset that a request gets."""

    folder: str
    """Its name under ~/datasets."""
    dataset: Dataset
    version: Version
    mode: str

    def as_dict(self) -> dict[str, object]:
        """For the action log."""
        return {
            "folder": self.folder,
            "dataset": self.dataset.id,
            "name": self.dataset.reference,
            "version": self.version.number,
            "mode": self.mode,
            "size_bytes": self.version.size_bytes,
        }


def resolve(
    connection: Connection, asking: Who, wishes: Sequence[DatasetWish]
) -> tuple[Chosen, ...]:
    """What these wishes mean now to somebody. Raises NotFound for a dataset that they may not
    read or that is not there, InvalidChoice for a version that is not published."""
    found: list[tuple[Dataset, Version, str]] = []
    for wish in wishes:
        dataset = _readable(connection, asking, wish)
        version = _version(connection, dataset, wish)
        if any(other.id == version.id for _, other, _ in found):
            raise InvalidChoice(
                f"{FIELD}: version {version.number} of {dataset.reference} is there twice.",
                hint="Once is enough.",
                field=FIELD,
            )
        found.append((dataset, version, wish.mode or dataset.mount_mode))
    folders = folders_of([(dataset, version) for dataset, version, _ in found])
    return tuple(
        Chosen(folder, dataset, version, mode)
        for folder, (dataset, version, mode) in zip(folders, found, strict=True)
    )


def _readable(connection: Connection, asking: Who, wish: DatasetWish) -> Dataset:
    try:
        return rights.find(connection, asking, wish.name)
    except NotFound as error:
        raise NotFound(
            f"{FIELD}: {error.message}",
            hint="Leave it out, or ask its owner to share it with you.",
            field=FIELD,
        ) from error


def _version(connection: Connection, dataset: Dataset, wish: DatasetWish) -> Version:
    found = None
    if wish.version is not None:
        found = datasets.numbered(connection, dataset.id, wish.version)
    elif dataset.latest_version is not None:
        found = datasets.find_version(connection, dataset.latest_version)
    if found is not None:
        return found
    if dataset.latest_number is None:
        raise InvalidChoice(
            f"{FIELD}: {dataset.reference} has no published version yet.",
            hint="Publish its draft first.",
            field=FIELD,
        )
    raise InvalidChoice(
        f"{FIELD}: {dataset.reference} has no version {wish.version}.",
        hint=f"The latest is {dataset.latest_number}.",
        field=FIELD,
    )


def folders_of(found: Sequence[tuple[Dataset, Version]]) -> list[str]:
    """The folder of each under ~/datasets: its name. Where several have the same, each has its
    version too, and where they are not the same dataset its owner, so that none depends on the
    order in which they were chosen."""
    names = Counter(dataset.name for dataset, _ in found)
    folders: list[str] = []
    for dataset, version in found:
        folder = dataset.name
        if names[folder] > 1:
            same_name = {other.id for other, _ in found if other.name == dataset.name}
            same_dataset = sum(other.id == dataset.id for other, _ in found)
            if len(same_name) > 1:
                folder = f"{folder}-{_plain(dataset.owner_name)}"
            if same_dataset > 1:
                folder = f"{folder}-v{version.number}"
        folders.append(_free(folder[:LONGEST_FOLDER], folders))
    return folders


def _plain(owner: str) -> str:
    """An owner's name as a part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", owner)[:48].strip(".-") or "owner"


def _free(folder: str, taken: Iterable[str]) -> str:
    names, number, wanted = set(taken), 2, folder
    while folder in names:
        folder, number = f"{wanted}-{number}", number + 1
    return folder


def take(
    connection: Connection, workload: str, chosen: Sequence[Chosen], at: datetime
) -> list[dict[str, object]]:
    """A request gets these; returns them for its line of the action log."""
    for one in chosen:
        dataset_mounts.insert(
            connection, workload, one.folder, one.dataset.id, one.version.id, one.mode, at
        )
    if chosen:
        dataset_choices.mark_used(connection, [one.dataset.id for one in chosen], at)
    return [one.as_dict() for one in chosen]


# ---------------------------------------------------------------------------- what is offered


@dataclass(frozen=True)
class Offered:
    """One dataset on a start page."""

    value: str
    """What a form sends: nobody else's dataset can come to have this name."""
    name: str
    owner: str
    kind: str
    """yours, project, public or shared."""
    size_bytes: int
    latest: int
    versions: tuple[int, ...]
    """The newest first."""
    mode: str
    """How it is mounted unless one says otherwise."""


@dataclass(frozen=True)
class Shelf:
    """Datasets on the start page of somebody."""

    offers: tuple[Offered, ...]
    total: int
    """How many they may read."""
    wishes: tuple[DatasetWish, ...] = ()
    """What was chosen, by the names in ``offers``."""
    lost: tuple[str, ...] = ()
    """What was chosen and cannot be had any more."""


def shelf(
    connection: Connection,
    asking: Who,
    wishes: Sequence[DatasetWish],
    also: Sequence[DatasetWish] = (),
) -> Shelf:
    """What the page opens with: what is chosen, then what they had lately, then what is new.
    ``also`` is on it, too, where they may read it."""
    chosen: dict[str, Dataset] = {}
    kept: list[DatasetWish] = []
    lost: list[str] = []
    for wish in wishes:
        try:
            dataset = _readable(connection, asking, wish)
            _version(connection, dataset, wish)
        except (NotFound, InvalidChoice):
            lost.append(str(wish))
            continue
        kept.append(DatasetWish(_value(dataset), wish.version, wish.mode))
        chosen[dataset.id] = dataset
    brought: dict[str, Dataset] = {}
    for wish in also:
        with suppress(NotFound):
            dataset = _readable(connection, asking, wish)
            if dataset.latest_version is not None:
                brought[dataset.id] = dataset
    readable = and_(rights.visible(asking), dataset_choices.is_published())
    recent = list(dataset_choices.recent_of(connection, asking.user, SHOWN))
    known = datasets.page(
        connection, and_(readable, dataset_choices.is_one_of(recent)), limit=SHOWN
    )
    known = sorted(known, key=lambda dataset: recent.index(dataset.id))
    new = datasets.page(connection, readable, limit=SHOWN)
    first = {**chosen, **brought}
    shown = {**first, **{dataset.id: dataset for dataset in (*known, *new)}}
    return Shelf(
        offers=_offers(connection, asking, list(shown.values())[: max(SHOWN, len(first))]),
        total=datasets.count(connection, readable),
        wishes=tuple(kept),
        lost=tuple(lost),
    )


def search(connection: Connection, asking: Who, text: str) -> Shelf:
    """Published datasets that somebody may read, with all these words in name, tags or
    description."""
    words = text[:LONGEST_SEARCH].split()
    readable = and_(rights.visible(asking), dataset_choices.is_published())
    found = datasets.page(connection, readable, words=words, limit=FOUND)
    total = datasets.count(connection, readable, words=words)
    return Shelf(_offers(connection, asking, found), total)


def _offers(connection: Connection, asking: Who, found: Sequence[Dataset]) -> tuple[Offered, ...]:
    numbers = dataset_choices.numbers_of(connection, [dataset.id for dataset in found])
    return tuple(
        Offered(
            value=_value(dataset),
            name=dataset.name,
            owner=dataset.owner_name,
            kind=_kind(asking, dataset),
            size_bytes=dataset.size_bytes,
            latest=dataset.latest_number or 0,
            versions=numbers.get(dataset.id, ())[:VERSIONS],
            mode=dataset.mount_mode,
        )
        for dataset in found
    )


def _value(dataset: Dataset) -> str:
    prefix = "project:" if dataset.owner_kind == datasets.PROJECT else ""
    return f"{prefix}{dataset.reference}"


def _kind(asking: Who, dataset: Dataset) -> str:
    if dataset.owner_kind == datasets.USER and dataset.owner == asking.user and asking.person:
        return "yours"
    if dataset.everyone:
        return "public"
    return "project" if dataset.owner in asking.projects else "shared"
