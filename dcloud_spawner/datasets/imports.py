"""Imports into a draft: asked for here, done by the process ``data``. All functions block.

What is secret of an order (keys of the other store, an address that may be a signature) is in a
file of its own, 0600, that is removed when the job ends; the row and the action log have the rest.
The room for what comes is kept beforehand and noted in the job's order (``kept_bytes``), so that
whoever ends the job, also after a kill -9, gives back what did not come.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from dcloud_spawner.datasets import quota
from dcloud_spawner.datasets.import_orders import StoreOrder, UrlOrder
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.sizes import size_words
from dcloud_spawner.datasets.uploads import draft_to_fill, refuse_clash
from dcloud_spawner.errors import Conflict, NotFound
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import dataset_jobs, datasets, events
from dcloud_spawner.store.dataset_jobs import Job, Kind

KINDS = (Kind.IMPORT_URL, Kind.IMPORT_S3)
MOST_OPEN = 4
"""Imports of one dataset that wait or run."""

KEPT = "kept_bytes"
UPLOADS = "uploads"
VALIDATOR = "validator"
"""What a job notes of itself in its order: room that is kept, multipart uploads that are open, and
by what the other side tells whether it still has the same."""


def begin_import(
    platform: Platform, asking: Asker, given: str, order: UrlOrder | StoreOrder
) -> Job:
    """A job that brings files into a dataset's draft. Raises NotFound, NotAllowed, Conflict."""
    now = utc_now()
    kind = Kind.IMPORT_URL if isinstance(order, UrlOrder) else Kind.IMPORT_S3
    job: Job | None = None
    try:
        with platform.database.transaction() as connection:
            found, draft = draft_to_fill(connection, asking, given)
            if isinstance(order, UrlOrder) and not order.unpack:
                refuse_clash(connection, draft.id, order.path)
            open_jobs = dataset_jobs.open_jobs(connection, draft.id)
            if sum(each.kind in KINDS for each in open_jobs) >= MOST_OPEN:
                raise Conflict(
                    f"{MOST_OPEN} imports into {found.reference} wait or run.",
                    hint="Wait until one is done, or cancel it.",
                    code="too_many_imports",
                )
            job = dataset_jobs.insert(
                connection,
                dataset=found.id,
                version=draft.id,
                kind=kind,
                order=order.shown,
                by=asking.user,
                at=now,
            )
            write_secret(platform.settings, job.id, order.secret)
            detail: dict[str, object] = {"dataset": found.reference, **order.shown}
            events.note(connection, asking.actor, "dataset.import", found.id, at=now, detail=detail)
    except BaseException:
        if job is not None:
            forget_secret(platform.settings, job.id)
        raise
    return job


# ---------------------------------------------------------------------------- secrets


def _secret_path(settings: Settings, job: str) -> Path:
    return settings.secrets_dir / "imports" / f"{job}.json"


def write_secret(settings: Settings, job: str, secret: Mapping[str, str]) -> None:
    """Keep what is secret of an order until its job ends; 0600 from the first byte on."""
    path = _secret_path(settings, job)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(dict(secret), file)
        file.flush()
        os.fsync(file.fileno())


def read_secret(settings: Settings, job: str) -> dict[str, str]:
    """What was kept. Raises NotFound when it is gone."""
    try:
        found = json.loads(_secret_path(settings, job).read_text())
    except FileNotFoundError as error:
        raise NotFound(
            "What this import needs is not on this machine any more.", hint="Begin it again."
        ) from error
    return {str(key): str(value) for key, value in found.items()}


def forget_secret(settings: Settings, job: str) -> None:
    """Remove it; that there is none is success."""
    _secret_path(settings, job).unlink(missing_ok=True)


def kept_secrets(settings: Settings) -> list[str]:
    """Ids of the jobs of which something is kept."""
    folder = settings.secrets_dir / "imports"
    return [path.stem for path in folder.glob("*.json")] if folder.is_dir() else []


# ---------------------------------------------------------------------------- room


def keep_room(connection: Connection, settings: Settings, job: str, kept_bytes: int) -> None:
    """Keep so much room for a job in all. Raises Conflict ``storage_full``, ``import_too_large``;
    then nothing is changed."""
    most = int(settings.import_gib * quota.GIB)
    if kept_bytes > most:
        raise Conflict(
            f"That would be {size_words(kept_bytes)}; an import may bring {size_words(most)}.",
            hint="Import it in parts, or ask an administrator (import_gib).",
            code="import_too_large",
        )
    found, before = _kept(connection, job)
    if kept_bytes > before:
        dataset = datasets.get(connection, found.dataset)
        quota.check(connection, settings, dataset, kept_bytes - before)
    datasets.store_more(connection, found.dataset, kept_bytes - before)
    note(connection, job, {KEPT: kept_bytes})


def give_room(connection: Connection, job: str, size_bytes: int | None = None) -> None:
    """Give back so much of a job's room, or all that is left: it was used, or never came."""
    found, kept = _kept(connection, job)
    back = kept if size_bytes is None else min(kept, size_bytes)
    if back:
        if datasets.find(connection, found.dataset) is not None:
            datasets.store_more(connection, found.dataset, -back)
        note(connection, job, {KEPT: kept - back})


def _kept(connection: Connection, job: str) -> tuple[Job, int]:
    found = dataset_jobs.find(connection, job)
    assert found is not None, job
    return found, int(found.order.get(KEPT, 0))


def note(connection: Connection, job: str, values: Mapping[str, Any]) -> None:
    """Write into a job's order what it needs to go on."""
    found = dataset_jobs.find(connection, job)
    assert found is not None, job
    dataset_jobs.change(connection, job, order={**found.order, **values})


def noted(connection: Connection, job: str, name: str) -> Any:
    """What a job noted of itself; None: nothing."""
    found = dataset_jobs.find(connection, job)
    return found.order.get(name) if found else None


def note_upload(connection: Connection, job: str, key: str, upload: str) -> None:
    """A multipart upload of a job is open."""
    note(connection, job, {UPLOADS: {**(noted(connection, job, UPLOADS) or {}), key: upload}})


def forget_upload(connection: Connection, job: str, key: str) -> None:
    """It is complete, or there was none."""
    known = dict(noted(connection, job, UPLOADS) or {})
    if known.pop(key, None) is not None:
        note(connection, job, {UPLOADS: known})
