"""Versions: a draft is opened, filled, published; a published one never changes. Each act is one
transaction with its line in the action log. All functions block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from dcloud_spawner.datasets import quota
from dcloud_spawner.datasets.paths import clean_folder, clean_path
from dcloud_spawner.datasets.rights import Asker, Right, find
from dcloud_spawner.errors import Conflict, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import (
    dataset_files,
    dataset_jobs,
    dataset_mounts,
    dataset_uploads,
    datasets,
    events,
)
from dcloud_spawner.store.dataset_files import File
from dcloud_spawner.store.dataset_jobs import Job, JobState, Kind
from dcloud_spawner.store.datasets import Dataset, Version, VersionState
from dcloud_spawner.store.events import Actor

LONGEST_NOTE = 2000


@dataclass(frozen=True)
class Removed:
    """Files that a draft has no longer."""

    dataset: str
    version: str
    paths: Sequence[str]


# ---------------------------------------------------------------------------- which one


def version_of(connection: Connection, dataset: Dataset, given: int | None) -> Version:
    """A published version by its number; None: the latest. Raises NotFound."""
    if given is None:
        if dataset.latest_version is None:
            raise NotFound(
                f"{dataset.reference} has no published version yet.",
                hint="Whoever may change it can publish its draft.",
                field="version",
            )
        return datasets.get_version(connection, dataset.latest_version)
    found = datasets.numbered(connection, dataset.id, given)
    if found is None:
        newest = f"The latest is {dataset.latest_number}." if dataset.latest_number else ""
        raise NotFound(f"{dataset.reference} has no version {given}.", hint=newest, field="version")
    return found


def draft_to_change(connection: Connection, dataset: Dataset) -> Version:
    """The draft, when it may be changed. Raises Conflict while it is published or filled."""
    draft = datasets.draft_of(connection, dataset.id)
    if draft is None:
        raise Conflict(
            f"{dataset.reference} has no draft.",
            hint="Open a draft first; a published version never changes.",
            code="no_draft",
        )
    if draft.state is VersionState.PUBLISHING:
        raise Conflict(
            f"The draft of {dataset.reference} is being published.",
            hint="Wait until it is done, or cancel it.",
            code="publishing",
        )
    return draft


# ---------------------------------------------------------------------------- drafts


def open_draft(
    platform: Platform, asking: Asker, given: str, *, based_on: int | None = None, empty: bool
) -> Version:
    """A draft of the next version, empty or with the files of another version (None: of the
    latest), which a job copies. Raises Conflict when there is one."""
    now = utc_now()
    try:
        with platform.database.transaction() as connection:
            found = find(connection, asking.known(connection), given, Right.WRITE)
            base = None if empty else version_of(connection, found, based_on)
            if base is not None:
                quota.check(connection, platform.settings, found, base.size_bytes)
            draft = datasets.add_draft(
                connection, found.id, asking.user, now, base.id if base else None
            )
            if base is not None:
                _begin(connection, found, draft, Kind.COPY, base, asking.user)
            detail: dict[str, object] = {
                "dataset": found.reference,
                "based_on": base.number if base else None,
            }
            events.note(connection, asking.actor, "dataset.draft", found.id, at=now, detail=detail)
            return draft
    except IntegrityError as error:
        raise Conflict(
            "There is a draft already.",
            hint="Add to it and publish it, or discard it first.",
            code="draft_exists",
        ) from error


def _begin(
    connection: Connection, dataset: Dataset, version: Version, kind: Kind, of: Version, by: str
) -> Job:
    return dataset_jobs.insert(
        connection,
        dataset=dataset.id,
        version=version.id,
        kind=kind,
        order={"source": of.id},
        by=by,
        at=utc_now(),
        total_bytes=of.size_bytes,
        total_files=of.files,
    )


def remove_files(
    platform: Platform,
    asking: Asker,
    given: str,
    paths: Sequence[str],
    folders: Sequence[str] = (),
) -> Removed:
    """Take files, and all files of folders, out of the draft. Returns the paths that were there,
    whose objects the caller removes; what it does not come to, the sweep of the process ``data``
    removes."""
    wanted = [clean_path(path) for path in paths]
    below = [clean_folder(folder) for folder in folders]
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.WRITE)
        draft = draft_to_change(connection, found)
        for folder in below:
            wanted += [file.path for file in dataset_files.walk(connection, draft.id, folder)]
        gone = dataset_files.remove(connection, draft.id, list(dict.fromkeys(wanted)))
        if gone:
            detail: dict[str, object] = {
                "dataset": found.reference,
                "files": len(gone),
                "paths": list(gone[:20]),
            }
            events.note(connection, asking.actor, "dataset.remove", found.id, at=now, detail=detail)
        return Removed(found.id, draft.id, gone)


def discard_draft(platform: Platform, asking: Asker, given: str) -> None:
    """Give up the draft: its jobs end, its uploads are forgotten, its files are removed by a job.
    While it is published that is given up too."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.WRITE)
        draft = datasets.draft_of(connection, found.id)
        if draft is None:
            raise Conflict(f"{found.reference} has no draft.", code="no_draft")
        detail: dict[str, object] = {
            "dataset": found.reference,
            "files": draft.files,
            "bytes": draft.size_bytes,
        }
        _forget_and_purge(connection, draft, asking.user)
        events.note(connection, asking.actor, "dataset.discard", found.id, at=now, detail=detail)


def _forget_and_purge(connection: Connection, version: Version, by: str) -> None:
    """Remove its rows now; a job removes its objects."""
    forget_version(connection, version)
    dataset_jobs.insert(
        connection,
        dataset=version.dataset,
        version=version.id,
        kind=Kind.PURGE,
        order={"version": version.id},
        by=by,
        at=utc_now(),
        total_bytes=version.size_bytes,
        total_files=version.files,
    )


def forget_version(connection: Connection, version: Version) -> None:
    """Remove the rows of a version: files, uploads (with what they reserved), open jobs. Its
    objects and the storage's own uploads under its prefix are the caller's to remove."""
    for job in dataset_jobs.open_jobs(connection, version.id):
        dataset_jobs.move(
            connection, job.id, dataset_jobs.OPEN, JobState.CANCELLED, ended_at=utc_now()
        )
    for upload in dataset_uploads.of_version(connection, version.id):
        dataset_uploads.remove(connection, upload.id)
        datasets.store_more(connection, version.dataset, -upload.size_bytes)
    dataset_files.remove_all(connection, version.id)
    datasets.remove_version(connection, version.id)


# ---------------------------------------------------------------------------- publication


def begin_publish(platform: Platform, asking: Asker, given: str, note: str = "") -> Job:
    """Close the draft and have it checked: a job reads every file back, counts its SHA-256, and
    then :func:`finish_publish` gives the version its number. Raises Conflict while something is
    still uploaded or copied into it, or when it is empty."""
    now = utc_now()
    note = note.strip()[:LONGEST_NOTE]
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.WRITE)
        draft = draft_to_change(connection, found)
        _refuse_unfinished(connection, found, draft)
        datasets.change_version(
            connection, draft.id, state=VersionState.PUBLISHING.value, note=note, problem=""
        )
        job = _begin(connection, found, draft, Kind.PUBLISH, draft, asking.user)
        detail: dict[str, object] = {"dataset": found.reference, "files": draft.files}
        events.note(connection, asking.actor, "dataset.publishing", found.id, at=now, detail=detail)
        return job


def _refuse_unfinished(connection: Connection, dataset: Dataset, draft: Version) -> None:
    if draft.files == 0:
        raise Conflict(
            f"The draft of {dataset.reference} has no files.", hint="Add some first.", code="empty"
        )
    uploads = dataset_uploads.of_version(connection, draft.id)
    if uploads:
        noun = "file is" if len(uploads) == 1 else "files are"
        raise Conflict(
            f"{len(uploads)} {noun} still being uploaded, {uploads[0].path} the first.",
            hint="Wait for them, or cancel them.",
            code="uploading",
        )
    jobs = dataset_jobs.open_jobs(connection, draft.id)
    if jobs:
        raise Conflict(
            "Files are still being brought into the draft.",
            hint="Wait until that is done, or cancel it.",
            code="busy",
        )


def manifest_lines(files: Iterable[File]) -> Iterator[str]:
    """The manifest: one JSON object a line, in order of the paths' bytes. Every file must have its
    SHA-256."""
    for file in files:
        assert file.sha256 is not None, file.path
        line = {"path": file.path, "size": file.size_bytes, "sha256": file.sha256}
        yield json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def manifest_sha256(files: Iterable[File]) -> str:
    """SHA-256 of the manifest, as hex: what a version is cited by."""
    digest = hashlib.sha256()
    for line in manifest_lines(files):
        digest.update(line.encode())
    return digest.hexdigest()


def finish_publish(
    platform: Platform, job: str, version: str, manifest: str, actor: Actor
) -> Version | None:
    """The check is over and all is right: the version gets its number and never changes again,
    and the job is done, in one transaction. None when it was given up meanwhile."""
    now = utc_now()
    with platform.database.transaction() as connection:
        draft = datasets.find_version(connection, version)
        if draft is None or draft.state is not VersionState.PUBLISHING:
            return None
        found = datasets.get(connection, draft.dataset)
        number = (found.latest_number or 0) + 1
        done = dataset_jobs.move(
            connection,
            job,
            (JobState.RUNNING,),
            JobState.DONE,
            message=f"Version {number}.",
            done_bytes=draft.size_bytes,
            done_files=draft.files,
            ended_at=now,
        )
        if not done:
            return None
        made = datasets.change_version(
            connection,
            version,
            state=VersionState.PUBLISHED.value,
            number=number,
            manifest_sha256=manifest,
            published_by=actor.name,
            published_at=now,
        )
        datasets.change(
            connection,
            found.id,
            latest_number=number,
            latest_version=version,
            size_bytes=made.size_bytes,
            files=made.files,
            changed_at=now,
        )
        detail: dict[str, object] = {
            "dataset": found.reference,
            "version": number,
            "files": made.files,
            "bytes": made.size_bytes,
            "manifest_sha256": manifest,
        }
        events.note(connection, actor, "dataset.publish", found.id, at=now, detail=detail)
        return made


def fail_publish(connection: Connection, version: str, problem: str, actor: Actor) -> None:
    """The check found something wrong: the draft may be changed again."""
    draft = datasets.find_version(connection, version)
    if draft is None or draft.state is not VersionState.PUBLISHING:
        return
    datasets.change_version(connection, version, state=VersionState.DRAFT.value, problem=problem)
    events.note(
        connection,
        actor,
        "dataset.publish",
        draft.dataset,
        at=utc_now(),
        result="failed",
        detail={"problem": problem},
    )


def cancel_job(platform: Platform, asking: Asker, given: str, job_id: str) -> Job:
    """Give up a job of a dataset; one that publishes opens the draft again."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.WRITE)
        job = dataset_jobs.find(connection, job_id)
        if job is None or job.dataset != found.id:
            raise NotFound(f"{found.reference} has no such job.")
        moved = job.kind is not Kind.PURGE and dataset_jobs.move(
            connection,
            job.id,
            dataset_jobs.OPEN,
            JobState.CANCELLED,
            message=f"Cancelled by {asking.user}.",
            ended_at=now,
        )
        if not moved:
            raise Conflict("This job is over, or cannot be cancelled.", code="job_over")
        if job.kind is Kind.PUBLISH and job.version is not None:
            datasets.change_version(connection, job.version, state=VersionState.DRAFT.value)
        detail: dict[str, object] = {"dataset": found.reference, "kind": job.kind.value}
        events.note(connection, asking.actor, "dataset.cancel", job.id, at=now, detail=detail)
        done = dataset_jobs.find(connection, job_id)
        assert done is not None
        return done


# ---------------------------------------------------------------------------- old versions


def delete_version(platform: Platform, asking: Asker, given: str, number: int) -> None:
    """Delete an old version for good. The latest one stays, and one that somebody has mounted.
    Raises Conflict."""
    now = utc_now()
    with platform.database.transaction() as connection:
        found = find(connection, asking.known(connection), given, Right.MANAGE)
        version = version_of(connection, found, number)
        if version.id == found.latest_version:
            raise Conflict(
                f"Version {number} is the latest of {found.reference}.",
                hint="Publish another one first, or delete the dataset.",
                code="latest",
            )
        users = sorted(
            {
                use.user
                for use in dataset_mounts.open_uses(connection, found.id)
                if use.mount.version == version.id
            }
        )
        if users:
            raise Conflict(
                f"Version {number} is mounted by {', '.join(users[:5])}.",
                hint="Delete it when their servers have ended.",
                code="mounted",
            )
        detail: dict[str, object] = {
            "dataset": found.reference,
            "version": number,
            "bytes": version.size_bytes,
            "manifest_sha256": version.manifest_sha256,
        }
        _forget_and_purge(connection, version, asking.user)
        events.note(
            connection, asking.actor, "dataset.delete_version", found.id, at=now, detail=detail
        )
