"""The ends of uploads: complete, cancelled, given up for their age. Each step is one transaction.
All block; ``uploading`` asks the storage between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.uploads import (
    STUCK_AFTER,
    draft_to_fill,
    find_upload,
    forget,
    refuse_clash,
)
from dcloud_spawner.errors import Conflict, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import dataset_files, dataset_uploads, datasets, events
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.dataset_uploads import COMPLETING, OPEN, Upload
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.events import Actor, Line

STALE_AFTER = timedelta(days=7)
"""An upload with which nobody goes on for so long is given up."""


def claim(
    platform: Platform, asking: Asker, given: str, identifiers: Iterable[str]
) -> tuple[Dataset, list[Upload | UserError]]:
    """Take uploads for completion, so that nobody else completes or cancels them meanwhile."""
    now = utc_now()
    claimed: list[Upload | UserError] = []
    with platform.database.transaction() as connection:
        dataset, draft = draft_to_fill(connection, asking, given)
        for identifier in identifiers:
            try:
                upload = find_upload(connection, draft, identifier)
                refuse_clash(connection, draft.id, upload.path)
                if upload.state == COMPLETING and upload.touched_at < now - STUCK_AFTER:
                    dataset_uploads.change(connection, upload.id, state=OPEN)
                if not dataset_uploads.claim(connection, upload.id, now):
                    raise Conflict(f"{shown(upload.path)} is being completed already.")
                claimed.append(upload)
            except UserError as error:
                claimed.append(error)
    return dataset, claimed


def hold(platform: Platform, upload: Upload) -> None:
    """The completion of a claimed upload goes on. Raises Conflict when it took so long that the
    upload was given up: its draft may be published by now, and must not change."""
    with platform.database.transaction() as connection:
        found = dataset_uploads.find(connection, upload.id)
        if found is None or found.state != COMPLETING:
            raise Conflict(
                f"{shown(upload.path)} was given up before it was complete.",
                hint="Send it again.",
            )
        dataset_uploads.change(connection, upload.id, touched_at=utc_now())


def old_etag(platform: Platform, upload: Upload) -> str | None:
    """The ETag of the file that an upload is going to replace; None: there is none."""
    with platform.database.reading() as connection:
        there = dataset_files.find(connection, upload.version, upload.path)
    return there.etag if there else None


@dataclass(frozen=True)
class Assembled:
    """An upload whose object the storage has."""

    upload: Upload
    etag: str
    sha256: str | None
    """As the uploader counted it; publishing compares it with what is stored."""


def finish(platform: Platform, actor: Actor, dataset: Dataset, done: Sequence[Assembled]) -> None:
    """The files are in the draft, and in the action log."""
    if not done:
        return
    now = utc_now()
    with platform.database.transaction() as connection:
        lines: list[Line] = []
        new: list[NewFile] = []
        for each in done:
            upload = each.upload
            if not dataset_uploads.remove(connection, upload.id):
                continue
            datasets.store_more(connection, dataset.id, -upload.size_bytes)
            new.append(NewFile(upload.path, upload.size_bytes, each.sha256, each.etag))
            detail = {
                "dataset": dataset.reference,
                "path": upload.path,
                "bytes": upload.size_bytes,
                "sha256": each.sha256,
            }
            lines.append(Line(actor, "dataset.upload", dataset.id, "ok", detail))
        if new:
            dataset_files.put(connection, done[0].upload.version, new, actor.name, now)
            events.note_all(connection, lines, at=now)


def reopen(platform: Platform, uploads: Sequence[Upload]) -> None:
    """Let uploads be gone on with that could not be completed."""
    if uploads:
        with platform.database.transaction() as connection:
            for upload in uploads:
                dataset_uploads.change(connection, upload.id, state=OPEN, touched_at=utc_now())


# ---------------------------------------------------------------------------- give up


def give_up(
    platform: Platform, asking: Asker, given: str, identifier: str
) -> tuple[Dataset, Upload]:
    """Cancel an upload: its room is free again. The storage is to forget its parts then."""
    now = utc_now()
    with platform.database.transaction() as connection:
        dataset, draft = draft_to_fill(connection, asking, given)
        upload = find_upload(connection, draft, identifier)
        if upload.state == COMPLETING and upload.touched_at > now - STUCK_AFTER:
            raise Conflict(
                f"{shown(upload.path)} is being completed.", hint="Remove the file then."
            )
        forget(connection, dataset.id, upload)
        _note_given_up(connection, asking.actor, dataset, upload, now)
    return dataset, upload


def give_up_stale(platform: Platform, actor: Actor) -> Sequence[tuple[str, Upload]]:
    """Cancel what nobody went on with for :data:`STALE_AFTER`; with the ids of their datasets, so
    that the storage can be told."""
    now = utc_now()
    gone: list[tuple[str, Upload]] = []
    with platform.database.transaction() as connection:
        for upload in dataset_uploads.untouched_since(connection, now - STALE_AFTER):
            version = datasets.get_version(connection, upload.version)
            dataset = datasets.get(connection, version.dataset)
            forget(connection, dataset.id, upload)
            _note_given_up(connection, actor, dataset, upload, now)
            gone.append((dataset.id, upload))
    return gone


def _note_given_up(
    connection: Connection, actor: Actor, dataset: Dataset, upload: Upload, now: datetime
) -> None:
    detail: dict[str, object] = {
        "dataset": dataset.reference,
        "path": upload.path,
        "bytes": upload.size_bytes,
    }
    events.note(connection, actor, "dataset.upload.cancel", dataset.id, at=now, detail=detail)
