"""Datasets as a whole: made, described, shared, thrown away, brought back. Each act is one
transaction with its line in the action log, and who may is decided in it. All functions block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from dcloud_spawner.datasets.paths import check_name, shown
from dcloud_spawner.datasets.revoking import revoke_lost
from dcloud_spawner.datasets.rights import Asker, Right, find
from dcloud_spawner.errors import Conflict, InvalidChoice, NotAllowed, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import (
    accounts,
    dataset_jobs,
    dataset_mounts,
    dataset_shares,
    datasets,
    events,
)
from dcloud_spawner.store.dataset_mounts import MountState, Use
from dcloud_spawner.store.dataset_shares import Share
from dcloud_spawner.store.datasets import Dataset, Mode

LONGEST_DESCRIPTION = 20_000
LONGEST_TAG = 32
MOST_TAGS = 20
LONGEST_LICENCE = 64
LONGEST_NAME_OF_OTHERS = 255
MOST_SHARES = 200


@dataclass(frozen=True)
class Description:
    """What people say of a dataset; None leaves it as it is."""

    name: str | None = None
    description: str | None = None
    tags: Sequence[str] | None = None
    licence: str | None = None
    everyone: bool | None = None
    mount_mode: str | None = None


def create(
    platform: Platform,
    asking: Asker,
    name: str,
    said: Description,
    *,
    project: str | None = None,
) -> Dataset:
    """A new dataset of the asker, or of a project that they are in; with an empty draft, so that
    files can be added at once. Raises InvalidChoice, NotFound, Conflict ``name_taken``."""
    check_name(name)
    values = _checked(said)
    if not asking.person:
        raise NotAllowed(
            "A service has no datasets.", hint="Ask with a token of a user, for a person."
        )
    now = utc_now()
    try:
        with platform.database.transaction() as connection:
            kind, owner, owner_name = _owner(connection, asking, project)
            made = datasets.insert(
                connection,
                owner_kind=kind,
                owner=owner,
                owner_name=owner_name,
                name=name,
                created_by=asking.user,
                at=now,
                **values,
            )
            datasets.add_draft(connection, made.id, asking.user, now)
            detail: dict[str, object] = {"dataset": made.reference, "everyone": made.everyone}
            events.note(connection, asking.actor, "dataset.create", made.id, at=now, detail=detail)
    except IntegrityError as error:
        raise _taken(name) from error
    return made


def _taken(name: str) -> Conflict:
    return Conflict(
        f"name: there is a dataset {name} of this owner already.",
        hint="Choose another name, or make a new version of that one.",
        field="name",
        code="name_taken",
    )


def _owner(connection: Connection, asking: Asker, project: str | None) -> tuple[str, str, str]:
    if project is None:
        return datasets.USER, asking.user, asking.user
    found = accounts.project(connection, project)
    may = found is not None and (
        asking.administrator or accounts.role_in(connection, found, asking.user) is not None
    )
    if found is None or not may:
        raise NotFound(
            f"project: you are in no project {shown(project)}.",
            hint="Leave project out for a dataset of your own.",
            field="project",
        )
    if found.closed_at is not None:
        raise Conflict(f"The project {found.shown_name} is closed.", code="account_closed")
    return datasets.PROJECT, found.id, found.name


def _checked(said: Description) -> dict[str, Any]:
    """The columns that a description changes. Raises InvalidChoice."""
    values: dict[str, Any] = {}
    if said.description is not None:
        if len(said.description) > LONGEST_DESCRIPTION:
            raise _wrong("description", f"longer than {LONGEST_DESCRIPTION:,} characters")
        values["description"] = said.description
    if said.tags is not None:
        values["tags"] = _tags(said.tags)
    if said.licence is not None:
        licence = " ".join(said.licence.split())
        if len(licence) > LONGEST_LICENCE:
            raise _wrong("licence", f"longer than {LONGEST_LICENCE} characters")
        values["licence"] = licence
    if said.everyone is not None:
        values["everyone"] = said.everyone
    if said.mount_mode is not None:
        if said.mount_mode not in list(Mode):
            raise _wrong("mount_mode", "neither cached nor stream")
        values["mount_mode"] = said.mount_mode
    return values


def _tags(given: Sequence[str]) -> list[str]:
    tags = list(dict.fromkeys(" ".join(tag.casefold().split()) for tag in given))
    if len(tags) > MOST_TAGS:
        raise _wrong("tags", f"more than {MOST_TAGS}")
    for tag in tags:
        if not 0 < len(tag) <= LONGEST_TAG or "," in tag or not tag.isprintable():
            raise _wrong("tags", f"{shown(tag)}, which is empty, too long or has a comma")
    return tags


def _wrong(field: str, what: str) -> InvalidChoice:
    return InvalidChoice(f"{field}: it is {what}.", hint="Nothing was changed.", field=field)


def change(platform: Platform, asking: Asker, given: str, said: Description) -> Dataset:
    """Describe a dataset anew; name and who sees it need the right to manage."""
    values = _checked(said)
    manages = said.name is not None or said.everyone is not None
    if said.name is not None:
        values["name"] = check_name(said.name)
    now = utc_now()
    try:
        with platform.database.transaction() as connection:
            least = Right.MANAGE if manages else Right.WRITE
            found = find(connection, asking.known(connection), given, least)
            changed = {key: value for key, value in values.items() if getattr(found, key) != value}
            if not changed:
                return found
            made = datasets.change(connection, found.id, **changed, changed_at=now)
            text = datasets.search_text(made.name, made.owner_name, made.tags, made.description)
            made = datasets.change(connection, found.id, search_text=text)
            detail = {
                "dataset": made.reference,
                **{key: value for key, value in changed.items() if key != "description"},
            }
            if "name" in changed:
                detail["was"] = found.reference
            events.note(connection, asking.actor, "dataset.change", found.id, at=now, detail=detail)
            if said.everyone is False:
                revoke_lost(connection, found.id)
            return made
    except IntegrityError as error:
        raise _taken(said.name or "") from error


# ---------------------------------------------------------------------------- sharing


def share(
    platform: Platform, asking: Asker, given: str, kind: str, name: str, right: str
) -> Sequence[Share]:
    """Let a user, a group or a project (by its name) read or write. Returns all shares."""
    if kind not in dataset_shares.KINDS:
        raise _wrong("kind", "none of user, group and project")
    if right not in ("read", "write"):
        raise _wrong("right", "neither read nor write")
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME_OF_OTHERS or not name.isprintable():
        raise _wrong("name", "empty, too long or has characters that cannot be seen")
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.MANAGE)
        meant = _meant(connection, found, kind, name)
        if len(dataset_shares.of_dataset(connection, found.id)) >= MOST_SHARES:
            raise Conflict(
                f"A dataset is shared with at most {MOST_SHARES}.", hint="Share it with a group."
            )
        dataset_shares.put(connection, found.id, kind, meant, right, asking.user, now)
        detail: dict[str, object] = {
            "dataset": found.reference,
            "with": f"{kind}:{name}",
            "right": right,
        }
        events.note(connection, asking.actor, "dataset.share", found.id, at=now, detail=detail)
        return dataset_shares.of_dataset(connection, found.id)


def _meant(connection: Connection, dataset: Dataset, kind: str, name: str) -> str:
    if kind == dataset_shares.PROJECT:
        project = accounts.project(connection, name)
        if project is None:
            raise NotFound(f"name: there is no project {shown(name)}.", field="name")
        return project.id
    if kind == dataset_shares.USER and (dataset.owner_kind, dataset.owner) == ("user", name):
        raise Conflict(f"{dataset.reference} is {name}'s own.", field="name")
    return name


def unshare(platform: Platform, asking: Asker, given: str, kind: str, name: str) -> Sequence[Share]:
    """Share no longer (a project by its name or id); what it let somebody mount is taken away at
    once. Returns what is left."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.MANAGE)
        meant = name
        if kind == dataset_shares.PROJECT:
            project = accounts.project(connection, name)
            meant = project.id if project else name
        if not dataset_shares.remove(connection, found.id, kind, meant):
            raise NotFound(f"{found.reference} is not shared with {kind} {shown(name)}.")
        detail: dict[str, object] = {"dataset": found.reference, "with": f"{kind}:{name}"}
        events.note(connection, asking.actor, "dataset.unshare", found.id, at=now, detail=detail)
        revoke_lost(connection, found.id)
        return dataset_shares.of_dataset(connection, found.id)


# ---------------------------------------------------------------------------- the bin


def mounted_by(connection: Connection, dataset: str) -> Sequence[Use]:
    """Who has a dataset mounted, or waits for it."""
    return [
        use
        for use in dataset_mounts.open_uses(connection, dataset)
        if use.mount.state not in (MountState.REVOKED, MountState.GONE)
    ]


def throw_away(platform: Platform, asking: Asker, given: str) -> Dataset:
    """Put a dataset into the bin. Servers that have it keep it until they end; new ones do not get
    it. Work on it in the background is given up."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.MANAGE)
        uses = mounted_by(connection, found.id)
        made = datasets.change(connection, found.id, deleted_at=now, deleted_by=asking.user)
        _give_up_jobs(connection, found.id, now)
        detail: dict[str, object] = {
            "dataset": found.reference,
            "bytes": found.stored_bytes,
            "mounted_by": sorted({use.user for use in uses}),
        }
        events.note(connection, asking.actor, "dataset.delete", found.id, at=now, detail=detail)
        return made


def _give_up_jobs(connection: Connection, dataset: str, now: datetime) -> None:
    """A draft that was just being published is open again when the dataset is brought back; what
    is being removed goes on."""
    for job in dataset_jobs.of_dataset(connection, dataset, 1000):
        if job.kind is dataset_jobs.Kind.PURGE:
            continue
        dataset_jobs.move(
            connection,
            job.id,
            dataset_jobs.OPEN,
            dataset_jobs.JobState.CANCELLED,
            message="The dataset was deleted.",
            ended_at=now,
        )
    draft = datasets.draft_of(connection, dataset)
    if draft is not None and draft.state is datasets.VersionState.PUBLISHING:
        datasets.change_version(connection, draft.id, state=datasets.VersionState.DRAFT.value)


def restore(platform: Platform, asking: Asker, identifier: str) -> Dataset:
    """Bring a dataset back from the bin. Raises Conflict when its name was given anew."""
    now = utc_now()
    try:
        with platform.database.transaction() as connection:
            asked = asking.known(connection)
            found = find(connection, asked, identifier, Right.MANAGE, binned=True)
            made = datasets.change(connection, found.id, deleted_at=None, deleted_by=None)
            detail: dict[str, object] = {"dataset": found.reference}
            events.note(
                connection, asking.actor, "dataset.restore", found.id, at=now, detail=detail
            )
            return made
    except IntegrityError as error:
        raise Conflict(
            "There is a dataset of this name again.",
            hint="Rename that one first, then bring this one back.",
            code="name_taken",
        ) from error


def empty_bin(platform: Platform, asking: Asker, identifier: str) -> None:
    """Delete one dataset in the bin for good, before its time: a job for the process ``data``."""
    now = utc_now()
    with platform.database.transaction() as connection:
        asked = asking.known(connection)
        found = find(connection, asked, identifier, Right.MANAGE, binned=True)
        begin_purge(connection, found, asking.user)
        detail: dict[str, object] = {"dataset": found.reference, "bytes": found.stored_bytes}
        events.note(connection, asking.actor, "dataset.purge", found.id, at=now, detail=detail)


def begin_purge(connection: Connection, dataset: Dataset, by: str) -> None:
    """A job that removes a dataset in the bin, unless there is one already."""
    if purge_is_open(connection, dataset.id):
        return
    dataset_jobs.insert(
        connection,
        dataset=dataset.id,
        version=None,
        kind=dataset_jobs.Kind.PURGE,
        order={"reference": dataset.reference},
        by=by,
        at=utc_now(),
        total_bytes=dataset.stored_bytes,
    )


def purge_is_open(connection: Connection, dataset: str) -> bool:
    """Whether a whole dataset is about to be removed; one of its versions does not count."""
    return any(
        job.kind is dataset_jobs.Kind.PURGE and job.version is None
        for job in dataset_jobs.open_jobs(connection)
        if job.dataset == dataset
    )


def due_for_purge(platform: Platform) -> Sequence[Dataset]:
    """What has been in the bin for ``dataset_bin_days``."""
    before = utc_now() - timedelta(days=platform.settings.dataset_bin_days)
    with platform.database.reading() as connection:
        return datasets.in_bin_since(connection, before)
