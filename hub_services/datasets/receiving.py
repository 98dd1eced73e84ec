"""Bytes from somewhere become a file of the draft.

A large file is a multipart upload of which the storage keeps the parts: whoever goes on after a
kill -9 asks it which, and the other side for the rest, if that is still the same file. It is in
the draft only when all of it is.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from dcloud_spawner.datasets import imports
from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.datasets.uploads import part_bytes_of, refuse_clash
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage.errors import UploadGone
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.storage.store import Part
from dcloud_spawner.store import dataset_files, events
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.events import Line
from hub_services.datasets.outside import Found, GivenUp, SourceAway
from hub_services.datasets.work import Work

AHEAD = 2
"""Parts that are on their way to the storage while the next one is read."""
READ_BYTES = 1 << 20
AT_ONCE = 100
WRITE_SECONDS = 1.0
"""So many files, or those of so long, are written in one transaction."""


class Readable(Protocol):
    """What bytes are read from."""

    @property
    def found(self) -> Found: ...

    def read(self, most_bytes: int) -> bytes: ...


Opener = Callable[[int, str], AbstractContextManager[Readable]]
"""Opens the source from a byte on, if what the validator says is still the same; else from 0."""


@dataclass(frozen=True)
class Target:
    """A file to be."""

    path: str
    size_bytes: int
    version: str
    key: str


def target(work: Work, path: str, size_bytes: int) -> Target:
    """The file of that path in the job's draft."""
    version = work.job.version or ""
    return Target(path, size_bytes, version, file_key(work.job.dataset, version, path))


def read_exactly(work: Work, source: Readable, size_bytes: int) -> bytes:
    """So many bytes. Raises SourceAway when there are fewer."""
    parts: list[bytes] = []
    missing = size_bytes
    while missing:
        part = source.read(min(missing, READ_BYTES))
        if not part:
            raise SourceAway("The other side ended before all was there.")
        missing -= len(part)
        parts.append(part)
        work.add(size_bytes=len(part))
    return b"".join(parts)


@dataclass(frozen=True)
class Arrival:
    """A file that the storage has."""

    to: Target
    etag: str
    sha256: str | None


class Arrivals:
    """Puts files into the draft, many in one transaction. Thread-safe."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[Arrival] = []
        self._written = time.monotonic()

    def add(self, arrived: Arrival) -> None:
        """One more; all that wait are written when there are many or a second is over."""
        with self._lock:
            self._waiting.append(arrived)
            late = time.monotonic() - self._written > WRITE_SECONDS
            due = late or len(self._waiting) >= AT_ONCE
        self._work.add(files=1)
        if due:
            self.write()

    def write(self) -> None:
        """Write what waits. Raises Cancelled, and Conflict for what has no place in the draft."""
        with self._lock:
            arrived, self._waiting = self._waiting, []
            self._written = time.monotonic()
        if arrived:
            _write(self._work, arrived)


def _write(work: Work, arrived: Sequence[Arrival]) -> None:
    now = utc_now()
    job, version = work.job.id, arrived[0].to.version
    with work.writing() as connection:
        for each in arrived:
            refuse_clash(connection, version, each.to.path)
            imports.forget_upload(connection, job, each.to.key)
        new = [
            NewFile(each.to.path, each.to.size_bytes, each.sha256, each.etag.strip('"'))
            for each in arrived
        ]
        dataset_files.put(connection, version, new, work.job.by, now)
        imports.give_room(connection, job, sum(each.to.size_bytes for each in arrived))
        lines = [
            Line(
                work.actor,
                "dataset.upload",
                work.job.dataset,
                detail={
                    "path": each.to.path,
                    "bytes": each.to.size_bytes,
                    "sha256": each.sha256,
                    "import": job,
                },
            )
            for each in arrived
        ]
        events.note_all(connection, lines, at=now)


def receive(
    work: Work, to: Target, opener: Opener, arrivals: Arrivals, validator: str = ""
) -> None:
    """A file from its source; a large one goes on where an earlier process was. Its room is kept
    already."""
    part_bytes = part_bytes_of(to.size_bytes)
    if to.size_bytes <= part_bytes:
        _refuse_clash(work, to)
        with opener(0, "") as source:
            data = read_exactly(work, source, to.size_bytes)
            _refuse_more(source, to)
        etag = work.store.put(to.key, data)
        arrivals.add(Arrival(to, etag, hashlib.sha256(data).hexdigest()))
        return
    _refuse_clash(work, to)
    upload, parts = _begun(work, to, part_bytes)
    first = len(parts) * part_bytes if validator else 0
    with opener(first, validator) as source:
        if source.found.size_bytes not in (None, to.size_bytes):
            raise GivenUp(f"{shown(to.path)} was changed while it was imported.")
        if source.found.first_byte != first or not first:
            parts = []
        work.add(size_bytes=len(parts) * part_bytes)
        sha256 = _send_parts(work, to, source, upload, parts, part_bytes)
    work.check()
    etag = work.store.complete_upload(to.key, upload, parts)
    arrivals.add(Arrival(to, etag, sha256))


def _begun(work: Work, to: Target, part_bytes: int) -> tuple[str, list[Part]]:
    """The multipart upload, and its first parts that the storage has."""
    with work.platform.database.reading() as connection:
        uploads = dict(imports.noted(connection, work.job.id, imports.UPLOADS) or {})
    known = uploads.get(to.key)
    if known is not None:
        try:
            parts = work.store.list_parts(to.key, known)
            return known, [
                part
                for index, part in enumerate(parts)
                if part.number == index + 1 and part.size_bytes == part_bytes
            ]
        except UploadGone:
            pass
    upload = work.store.create_upload(to.key)
    with work.writing() as connection:
        imports.note_upload(connection, work.job.id, to.key, upload)
    return upload, []


def _send_parts(
    work: Work, to: Target, source: Readable, upload: str, parts: list[Part], part_bytes: int
) -> str | None:
    """Send what is missing; ``parts`` has all then. Returns the SHA-256 when all was read here."""
    counted = hashlib.sha256() if not parts else None
    sent: list[Future[Part]] = []
    with ThreadPoolExecutor(AHEAD, "part") as pool:
        done = len(parts) * part_bytes
        number = len(parts)
        try:
            while done < to.size_bytes:
                data = read_exactly(work, source, min(part_bytes, to.size_bytes - done))
                done, number = done + len(data), number + 1
                if counted is not None:
                    counted.update(data)
                if len(sent) >= AHEAD:
                    parts.append(sent.pop(0).result())
                sent.append(pool.submit(work.store.put_part, to.key, upload, number, data))
            _refuse_more(source, to)
            parts.extend(future.result() for future in sent)
        finally:
            for future in sent:
                future.cancel()
    return counted.hexdigest() if counted is not None else None


def _refuse_more(source: Readable, to: Target) -> None:
    if source.read(1):
        raise GivenUp(f"{shown(to.path)} is larger than the other side said.")


def _refuse_clash(work: Work, to: Target) -> None:
    with work.platform.database.reading() as connection:
        refuse_clash(connection, to.version, to.path)


def is_there(work: Work, to: Target) -> bool:
    """Whether this job brought the file before it was interrupted."""
    if work.fresh or work.job.started_at is None:
        return False
    with work.platform.database.reading() as connection:
        found = dataset_files.find(connection, to.version, to.path)
    return (
        found is not None
        and found.size_bytes == to.size_bytes
        and found.added_by == work.job.by
        and found.added_at >= work.job.started_at
    )
