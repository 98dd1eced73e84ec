"""What a job that is over leaves behind: kept room, open uploads, secrets, files on this disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from dcloud_spawner.datasets import imports
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import dataset_jobs
from dcloud_spawner.store.dataset_jobs import OPEN

log = logging.getLogger(__name__)


def spool_folder(settings: Settings, job: str) -> Path:
    """Where an import keeps what it has to have whole before it can look into it."""
    return settings.state / "imports" / job


def clear(platform: Platform, identifier: str) -> None:
    """Clear up after one job, unless it goes on. What the storage cannot be told now it is told
    the next time."""
    with platform.database.reading() as connection:
        job = dataset_jobs.find(connection, identifier)
    if job is not None and job.state in OPEN:
        return
    shutil.rmtree(spool_folder(platform.settings, identifier), ignore_errors=True)
    if job is not None and job.kind in imports.KINDS:
        for key, upload in dict(job.order.get(imports.UPLOADS) or {}).items():
            platform.storage.abort_upload(key, upload)
        if job.order.get(imports.UPLOADS) or job.order.get(imports.KEPT):
            with platform.database.transaction() as connection:
                imports.give_room(connection, identifier)
                imports.note(connection, identifier, {imports.UPLOADS: {}})
    # Last, for by it a job is found of which something is left.
    imports.forget_secret(platform.settings, identifier)


def clear_all(platform: Platform, busy: Callable[[str], bool]) -> None:
    """Clear up after all jobs that are over and that nobody cleared up after."""
    spooled = platform.settings.state / "imports"
    known = {path.name for path in spooled.iterdir()} if spooled.is_dir() else set()
    for identifier in sorted(known | set(imports.kept_secrets(platform.settings))):
        if not busy(identifier):
            clear(platform, identifier)
