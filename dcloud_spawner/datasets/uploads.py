"""Uploads into a draft: what is noted about them, each step one transaction. All block.

An upload is a multipart upload of the storage that only the platform begins and completes; the
uploader gets addresses for single parts of a fixed size. So what is refused is refused before the
bytes are sent, nothing that was handed out can change a file once it is complete, and whoever
comes back sends what is missing. ``uploading`` puts these steps and the storage together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from dcloud_spawner.datasets import quota
from dcloud_spawner.datasets.paths import clean_path, folders_of, shown
from dcloud_spawner.datasets.rights import Asker, Right, find
from dcloud_spawner.datasets.sizes import size_words
from dcloud_spawner.datasets.versions import draft_to_change
from dcloud_spawner.errors import Conflict, InvalidChoice, NotFound, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.store import Part
from dcloud_spawner.store import dataset_files, dataset_jobs, dataset_uploads, datasets, events
from dcloud_spawner.store.dataset_uploads import COMPLETING, OPEN, Upload
from dcloud_spawner.store.datasets import Dataset, Version

PART_BYTES = 16 << 20
"""Of parts while there are not too many of them; twice as much, four times and so on beyond."""
MOST_PARTS = 9_000
"""Below S3's 10,000."""
LARGEST_FILE_BYTES = 5 << 40
"""The largest object of S3."""
STUCK_AFTER = timedelta(minutes=2)
"""So long a completion may take; after that its process is taken for dead."""
TOUCHED_WITHIN = timedelta(minutes=1)
"""An upload that goes on is noted no more often."""


class Outcome(StrEnum):
    """What became of a wish to upload a file."""

    OPEN = "open"
    """Its parts may be sent."""
    STORED = "stored"
    """It is in the draft: it was empty, so there was nothing to send."""
    THERE = "there"
    """The draft has a file of this path and size; the same one, if the checksum says so."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Wanted:
    """A file that somebody wants to add. ``modified_ms``: when it was last changed at theirs, ms
    since 1970; with it and the size a half-done upload is known again."""

    path: str
    size_bytes: int
    modified_ms: int | None = None
    replace: bool = False
    """Send it even though the draft has a file of this path and size."""


@dataclass(frozen=True)
class Begun:
    """What became of one wish."""

    path: str
    outcome: Outcome
    upload: Upload | None = None
    parts: Sequence[Part] = ()
    """What the storage has of it already."""
    sha256: str | None = None
    """Of the file that is there, where somebody counted it."""
    problem: UserError | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done for one wish; ``upload`` is the open one that is gone on with."""

    wanted: Wanted
    begun: Begun | None = None
    """Already decided: refused, or there."""
    upload: Upload | None = None


@dataclass(frozen=True)
class Plans:
    """Of one request."""

    dataset: Dataset
    draft: Version
    plans: Sequence[Plan] = field(default_factory=tuple)


def part_bytes_of(size_bytes: int) -> int:
    """The size of the parts of a file."""
    part = PART_BYTES
    while part * MOST_PARTS < size_bytes:
        part *= 2
    return part


# ---------------------------------------------------------------------------- begin


def plan(
    platform: Platform,
    asking: Asker,
    given: str,
    files: Sequence[Wanted],
    total_bytes: int | None,
) -> Plans:
    """Look what each file needs. Raises Conflict ``storage_full`` when ``total_bytes``, all that
    is going to follow, has no room; a single file is refused by its own ``problem``."""
    with platform.database.reading() as connection:
        dataset, draft = draft_to_fill(connection, asking, given)
        # At least so much is new: files may be there already, or half-sent with their room kept.
        kept = draft.size_bytes + dataset_uploads.bytes_of(connection, draft.id)
        quota.check(connection, platform.settings, dataset, max(0, (total_bytes or 0) - kept))
        made = [_plan(connection, draft, wanted) for wanted in files]
        return Plans(dataset, draft, made)


def _plan(connection: Connection, draft: Version, wanted: Wanted) -> Plan:
    try:
        path = clean_path(wanted.path)
        if wanted.size_bytes > LARGEST_FILE_BYTES:
            raise InvalidChoice(
                f"path: {shown(path)} is larger than {size_words(LARGEST_FILE_BYTES)}.",
                hint="Part it into smaller files.",
                field="path",
            )
        refuse_clash(connection, draft.id, path)
    except UserError as error:
        return Plan(wanted, Begun(wanted.path, Outcome.REFUSED, problem=error))
    wanted = Wanted(path, wanted.size_bytes, wanted.modified_ms, wanted.replace)
    there = dataset_files.find(connection, draft.id, path)
    if there is not None and there.size_bytes == wanted.size_bytes and not wanted.replace:
        sha256 = there.sha256 or there.claimed_sha256
        return Plan(wanted, Begun(path, Outcome.THERE, sha256=sha256))
    upload = dataset_uploads.of_path(connection, draft.id, path)
    return Plan(wanted, upload=upload if upload and _same(upload, wanted) else None)


def _same(upload: Upload, wanted: Wanted) -> bool:
    """Whether an open upload is of the very file that somebody has in their hands."""
    known = upload.modified_ms is not None and upload.modified_ms == wanted.modified_ms
    return known and upload.size_bytes == wanted.size_bytes and upload.state == OPEN


def refuse_clash(connection: Connection, version: str, path: str) -> None:
    """Raises Conflict when a folder, or a file where a folder is needed, stands in the way."""
    clash = dataset_files.clash(connection, version, path)
    if clash:
        raise Conflict(
            f"path: {shown(path)} cannot be added: {clash}.",
            hint="Rename one of the two.",
            field="path",
            code="path_taken",
        )


@dataclass(frozen=True)
class Fresh:
    """A wish for which the storage has begun an upload; "" for an empty file, which needs none."""

    wanted: Wanted
    storage_upload: str


@dataclass(frozen=True)
class Noted:
    """What was written down, and what the storage may forget now."""

    begun: Sequence[Begun]
    obsolete: Sequence[tuple[str, str]]
    """Path and the storage's id of uploads that nobody goes on with."""


def note_begun(platform: Platform, asking: Asker, plans: Plans, fresh: Sequence[Fresh]) -> Noted:
    """Write down uploads and keep their room, all in one transaction. What does not fit, or what
    another was quicker with, is refused by its ``problem``; what the storage began for it is
    obsolete."""
    begun: list[Begun] = []
    obsolete: list[tuple[str, str]] = []
    now = utc_now()
    with platform.database.transaction() as connection:
        dataset, draft = draft_to_fill(connection, asking, plans.dataset.id)
        if draft.id != plans.draft.id:
            raise Conflict(
                f"The draft of {dataset.reference} is another one now.",
                hint="Begin again.",
                code="no_draft",
            )
        for each in fresh:
            try:
                upload, replaced = _insert(connection, platform, asking, dataset, draft, each, now)
            except UserError as error:
                begun.append(Begun(each.wanted.path, Outcome.REFUSED, problem=error))
                obsolete.append((each.wanted.path, each.storage_upload))
                continue
            begun.append(Begun(each.wanted.path, Outcome.OPEN, upload))
            if replaced is not None:
                obsolete.append((replaced.path, replaced.storage_upload))
        taken = [each.upload for each in begun if each.upload is not None]
        if taken:
            detail: dict[str, object] = {
                "dataset": dataset.reference,
                "files": len(taken),
                "bytes": sum(upload.size_bytes for upload in taken),
            }
            events.note(
                connection, asking.actor, "dataset.upload.begin", dataset.id, at=now, detail=detail
            )
    return Noted(begun, [pair for pair in obsolete if pair[1]])


def _insert(
    connection: Connection,
    platform: Platform,
    asking: Asker,
    dataset: Dataset,
    draft: Version,
    fresh: Fresh,
    now: datetime,
) -> tuple[Upload, Upload | None]:
    wanted = fresh.wanted
    refuse_clash(connection, draft.id, wanted.path)
    _refuse_upload_above(connection, draft.id, wanted.path)
    old = dataset_uploads.of_path(connection, draft.id, wanted.path)
    if old is not None and old.state == COMPLETING and old.touched_at > now - STUCK_AFTER:
        raise Conflict(
            f"path: {shown(wanted.path)} is just being completed by {old.by}.",
            hint="Try again in a moment.",
            field="path",
        )
    quota.check(
        connection,
        platform.settings,
        datasets.get(connection, dataset.id),
        wanted.size_bytes - (old.size_bytes if old else 0),
    )
    if old is not None:
        forget(connection, dataset.id, old)
    datasets.store_more(connection, dataset.id, wanted.size_bytes)
    upload = dataset_uploads.insert(
        connection,
        version=draft.id,
        path=wanted.path,
        size_bytes=wanted.size_bytes,
        modified_ms=wanted.modified_ms,
        part_bytes=part_bytes_of(wanted.size_bytes),
        storage_upload=fresh.storage_upload,
        by=asking.user,
        at=now,
    )
    return upload, old


def _refuse_upload_above(connection: Connection, version: str, path: str) -> None:
    """Another upload may be about to make a file where this one needs a folder."""
    for folder in folders_of(path):
        if folder and dataset_uploads.of_path(connection, version, folder) is not None:
            raise Conflict(
                f"path: {shown(path)} cannot be added: {shown(folder)} is being uploaded as a "
                "file.",
                hint="Rename one of the two.",
                field="path",
                code="path_taken",
            )


def forget(connection: Connection, dataset: str, upload: Upload) -> None:
    """Give back the room that was kept for it."""
    if dataset_uploads.remove(connection, upload.id):
        datasets.store_more(connection, dataset, -upload.size_bytes)


# ---------------------------------------------------------------------------- go on


def open_uploads(platform: Platform, asking: Asker, given: str) -> Sequence[Upload]:
    """What is half-done in a dataset's draft, by path."""
    with platform.database.reading() as connection:
        dataset = find(connection, asking.known(connection), given, Right.WRITE)
        draft = datasets.draft_of(connection, dataset.id)
        return dataset_uploads.of_version(connection, draft.id) if draft else ()


def dataset_id(platform: Platform, asking: Asker, given: str) -> str:
    """The id of a dataset that somebody may write to."""
    with platform.database.reading() as connection:
        return find(connection, asking.known(connection), given, Right.WRITE).id


def to_go_on(
    platform: Platform, asking: Asker, given: str, identifier: str
) -> tuple[Dataset, Upload]:
    """An open upload whose parts may be sent. Raises NotFound, Conflict."""
    now = utc_now()
    with platform.database.reading() as connection:
        dataset, draft = draft_to_fill(connection, asking, given)
        upload = find_upload(connection, draft, identifier)
    if upload.state != OPEN:
        raise Conflict(f"{shown(upload.path)} is being completed.", hint="Nothing is missing.")
    if now - upload.touched_at > TOUCHED_WITHIN:
        with platform.database.transaction() as connection:
            dataset_uploads.change(connection, upload.id, touched_at=now)
    return dataset, upload


def find_upload(connection: Connection, draft: Version, identifier: str) -> Upload:
    """The upload of an id, if it is into this draft. Raises NotFound."""
    upload = dataset_uploads.find(connection, identifier)
    if upload is None or upload.version != draft.id:
        raise NotFound(
            "There is no such upload.",
            hint="It was completed, cancelled, or replaced by a newer one of the same file.",
        )
    return upload


# ---------------------------------------------------------------------------- the draft


def draft_to_fill(connection: Connection, asking: Asker, given: str) -> tuple[Dataset, Version]:
    """The draft that somebody may write to now. Raises NotFound, NotAllowed, Conflict."""
    dataset = find(connection, asking.known(connection), given, Right.WRITE)
    draft = draft_to_change(connection, dataset)
    for job in dataset_jobs.open_jobs(connection, draft.id):
        if job.kind is dataset_jobs.Kind.COPY:
            raise Conflict(
                f"The draft of {dataset.reference} is still being filled with the files of an "
                "earlier version.",
                hint="Wait until that is done.",
                code="copying",
            )
    return dataset, draft
