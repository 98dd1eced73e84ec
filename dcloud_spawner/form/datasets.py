"""Datasets on the start page, the waiting page and the list of servers, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dcloud_spawner.datasets.choose import Offered, Shelf
from dcloud_spawner.datasets.wishes import DatasetWish, kept_wishes
from dcloud_spawner.form.words import count_words, number, rows, size_words
from dcloud_spawner.profiles import Profile

MODES = {
    "cached": "Copied to the host while you wait",
    "stream": "Over the network, at once",
}
"""A copy is as fast as a local disk, and best for training; a stream is slower to read."""


@dataclass(frozen=True)
class Option:
    """One line of a list to choose from."""

    value: str
    label: str
    chosen: bool


@dataclass(frozen=True)
class DatasetLine:
    """One dataset to tick."""

    value: str
    """What the form sends."""
    name: str
    version: str
    """``v7``: the one that is taken unless another is chosen."""
    whose: str
    size: str
    ticked: bool
    versions: tuple[Option, ...]
    """Empty: this one and no other."""
    modes: tuple[Option, ...]


@dataclass(frozen=True)
class DatasetPart:
    """The section of the start page."""

    lines: tuple[DatasetLine, ...]
    lost: tuple[str, ...]
    total: int
    said: str
    """How many are chosen."""
    none: bool
    """There is nothing to choose from."""


def wished_datasets(
    entered: Mapping[str, object] | None,
    last: Mapping[str, object] | None,
    profile: Profile | None,
) -> tuple[DatasetWish, ...]:
    """What is ticked when the page opens: what was just entered, else what was asked for last
    time, else what the profile brings."""
    brings = profile.datasets if profile else ()
    if entered is not None:
        return kept_wishes(entered["datasets"]) if "datasets" in entered else brings
    if last:
        return kept_wishes(last.get("datasets", ()))
    return brings


def dataset_part(shelf: Shelf) -> DatasetPart:
    """The section with what is chosen ticked."""
    lines = dataset_lines(shelf)
    return DatasetPart(
        lines=lines,
        lost=shelf.lost,
        total=shelf.total,
        said=chosen_words(len(shelf.wishes)),
        none=not lines and not shelf.lost,
    )


def dataset_lines(shelf: Shelf) -> tuple[DatasetLine, ...]:
    """A line for each that is offered; for one that was chosen in two versions, two."""
    lines = []
    for offered in shelf.offers:
        wishes = [wish for wish in shelf.wishes if wish.name == offered.value]
        wishes.sort(key=lambda wish: wish.version or 0)  # the latest first
        lines.append(_line(offered, wishes[0] if wishes else None))
        lines += [
            replace(_line(offered, wish), value=str(wish), versions=()) for wish in wishes[1:]
        ]
    return tuple(lines)


def _line(offered: Offered, wish: DatasetWish | None) -> DatasetLine:
    version = wish.version if wish else None
    numbers = list(offered.versions)
    if version is not None and version not in numbers:
        numbers.append(version)
    newest = Option("", f"Latest (v{offered.latest})", version is None)
    return DatasetLine(
        value=offered.value,
        name=offered.name,
        version=f"v{version or offered.latest}",
        whose=_whose(offered),
        size=size_words(offered.size_bytes),
        ticked=wish is not None,
        versions=(newest, *(Option(f"{n}", f"v{n}", n == version) for n in numbers)),
        modes=tuple(
            Option(
                "" if mode == offered.mode else mode,
                label,
                mode == ((wish.mode if wish else None) or offered.mode),
            )
            for mode, label in MODES.items()
        ),
    )


def _whose(offered: Offered) -> str:
    if offered.kind == "yours":
        return "yours"
    return f"{offered.owner}, public" if offered.kind == "public" else offered.owner


def chosen_words(chosen: int) -> str:
    """``2 chosen, read-only under ~/datasets``."""
    return f"{chosen or 'none'} chosen, read-only under ~/datasets"


# ---------------------------------------------------------------------------- how far they are


@dataclass(frozen=True)
class MountLine:
    """One dataset of a server that waits, starts or runs."""

    folder: str
    title: str
    """``street-scenes v7``."""
    state: str
    """ok, busy, wait, bad."""
    said: str
    percent: int | None
    """How far its copy is; None where there is none under way."""


def mount_lines(view: Mapping[str, object]) -> tuple[MountLine, ...]:
    """The datasets of a view, in the order of their folders."""
    return tuple(_mount(found) for found in rows(view, "datasets"))


def _mount(found: Mapping[str, object]) -> MountLine:
    state, message = str(found.get("state") or ""), str(found.get("message") or "")
    done, total = number(found.get("done_bytes")), number(found.get("total_bytes"))
    version = found.get("version")
    folder = str(found.get("name") or "")
    copying = state == "preparing" and found.get("mode") == "cached" and total > 0
    look, said = _STATES.get(state, ("busy", state))
    if copying:
        said = f"Copying: {done_words(done, total)}"
    elif state == "ready":
        said = "Ready, from a copy on the host" if found.get("mode") == "cached" else said
    if state == "away" and message:
        said, message = message.rstrip("."), ""
    return MountLine(
        folder=folder,
        title=f"{folder} v{version}" if version else folder,
        state=look,
        said=f"{said}. {message}".rstrip(". ") if message else said,
        percent=min(100, int(100 * done / total)) if copying else None,
    )


_STATES = {
    "waiting": ("busy", "Not begun"),
    "preparing": ("busy", "Being prepared"),
    "ready": ("ok", "Ready, over the network"),
    "away": ("wait", "Away; it comes back by itself"),
    "failed": ("bad", "Cannot be mounted"),
    "revoked": ("bad", "No longer shared with you"),
    "gone": ("busy", "Unmounted"),
}


def done_words(done_bytes: float, total_bytes: float) -> str:
    """``12 of 138 GB``."""
    done, total = size_words(done_bytes), size_words(total_bytes)
    if done.split(" ")[1] == total.split(" ")[1]:
        done = done.split(" ")[0]
    return f"{done} of {total}"


def copying_words(lines: Sequence[Mapping[str, object]]) -> str:
    """What a start waits for: ``Copying street-scenes: 12 of 138 GB``, ``words is away``, or
    ``Preparing 2 datasets``; empty when all are ready."""
    pending = [one for one in lines if one.get("state") in PENDING]
    copies = [one for one in pending if one.get("mode") == "cached" and one.get("done_bytes")]
    copying = [one for one in copies if one.get("state") != "away"]
    away = [one for one in pending if one.get("state") == "away"]
    if away and not copying:
        return f"{away[0].get('name')} is away"
    if len(pending) == 1 and copying:
        done, total = number(copying[0]["done_bytes"]), number(copying[0].get("total_bytes"))
        return f"Copying {copying[0].get('name')}: {done_words(done, total)}"
    if copying:
        done = sum(number(one["done_bytes"]) for one in copying)
        total = sum(number(one.get("total_bytes")) for one in pending)
        return f"Copying {count_words(len(pending), 'dataset')}: {done_words(done, total)}"
    return f"Preparing {count_words(len(pending), 'dataset')}" if pending else ""


def copied_percent(lines: Sequence[Mapping[str, object]]) -> int | None:
    """How far all copies together are; None where none is being made."""
    copies = [one for one in lines if one.get("mode") == "cached"]
    total = sum(number(one.get("total_bytes")) for one in copies)
    if not total or not any(one.get("state") in PENDING for one in copies):
        return None
    done = sum(
        number(one.get("total_bytes" if one.get("state") == "ready" else "done_bytes"))
        for one in copies
    )
    return min(100, int(100 * done / total))


PENDING = ("waiting", "preparing", "away")
"""States of a mount for which a start waits."""
