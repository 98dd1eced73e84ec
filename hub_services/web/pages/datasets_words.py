"""What is said of datasets, alike on all their pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sqlalchemy import Connection

from dcloud_spawner.datasets.rights import Who, who
from dcloud_spawner.form.words import listed
from dcloud_spawner.store import accounts, dataset_shares
from dcloud_spawner.store.dataset_shares import Share
from dcloud_spawner.store.datasets import PROJECT, Dataset
from hub_services.web.viewer import Viewer

NAMED = 2
"""People or groups that a list names; of more it says how many."""


@dataclass(frozen=True)
class Audience:
    """Who sees a dataset, in words with an icon."""

    words: str
    icon: str


def asking(connection: Connection, viewer: Viewer) -> Who:
    """The viewer as the rights know them."""
    return who(
        connection,
        viewer.name,
        viewer.groups,
        administrator=viewer.administrator,
        person=viewer.person,
    )


def written(dataset: Dataset) -> str:
    """How one writes it so that it is surely this one: ``owner/name``, ``project:owner/name``."""
    return f"{'project:' if dataset.owner_kind == PROJECT else ''}{dataset.reference}"


def link(dataset: Dataset) -> str:
    """Its address below the service's."""
    return address(written(dataset))


def address(reference: str) -> str:
    """The address of ``owner/name``."""
    owner, _, name = reference.rpartition("/")
    return f"datasets/{quote(owner, safe=':@')}/{quote(name, safe='')}"


def project_names(connection: Connection, shares: Sequence[Share]) -> Mapping[str, str]:
    """Names of projects that something is shared with, by id."""
    wanted = {share.name for share in shares if share.kind == dataset_shares.PROJECT}
    return dict(accounts.names_of(connection, wanted)) if wanted else {}


def audience(
    dataset: Dataset,
    shares: Sequence[Share],
    viewer: str,
    projects: Mapping[str, str],
    *,
    manages: bool,
) -> Audience:
    """Who sees it beside its owner. Groups and projects are named; people only to who manages it,
    for others they are counted."""
    if dataset.everyone:
        return Audience("Everyone", "globe")
    if not shares:
        if dataset.owner_kind == PROJECT:
            return Audience(f"Project {dataset.owner_name}", "group")
        return Audience("Only you" if dataset.owner == viewer else "Only its owner", "lock")
    people = [share.name for share in shares if share.kind == dataset_shares.USER]
    others = [share for share in shares if share.kind != dataset_shares.USER]
    found = [projects.get(share.name, share.name) for share in others]
    if manages and len(people) + len(found) <= NAMED:
        found += people
    elif people == [viewer]:
        found.append("you")
    elif people:
        found.append("1 person" if len(people) == 1 else f"{len(people)} people")
    if len(found) > NAMED:
        return Audience(f"{found[0]} and {len(found) - 1} more", "group")
    return Audience(listed(found), "group")


def plural(count: int, noun: str) -> str:
    """``1 file``, ``1,204 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
