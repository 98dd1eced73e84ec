"""Imports: a file of the web, a zip of it unpacked, or what lies in another store's bucket."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import urllib3

from dcloud_spawner.datasets import imports, quota
from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.datasets.reach import reach_of
from dcloud_spawner.datasets.sizes import size_words
from dcloud_spawner.datasets.uploads import refuse_clash
from dcloud_spawner.platform import utc_now
from dcloud_spawner.store import datasets, events
from dcloud_spawner.store.datasets import VersionState
from hub_services.datasets import elsewhere
from hub_services.datasets.leftovers import spool_folder
from hub_services.datasets.outside import Found, GivenUp, Source, guarded_pool, opened
from hub_services.datasets.receiving import Arrivals, Opener, is_there, receive, target
from hub_services.datasets.unpacking import contents, open_zip
from hub_services.datasets.work import Cancelled, Work

FILES_AT_ONCE = 6
SPARE_DISK_BYTES = 2 << 30
"""Left free on this disk by what has to be here whole."""
READ_BYTES = 1 << 20
LOOK_BYTES = 64 << 20
"""After so many bytes it is looked again how much room there is."""


@dataclass
class LocalSource:
    """A file of this disk, or one inside an archive."""

    file: BinaryIO
    found: Found

    def read(self, most_bytes: int) -> bytes:
        """Up to so many bytes. Raises GivenUp for what an archive cannot give."""
        try:
            return self.file.read(most_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise GivenUp("The archive is damaged.") from error


def import_url(work: Work) -> None:
    """One file of the web into the draft. Raises UserError, Cancelled, Ended."""
    _check_draft(work)
    url = imports.read_secret(work.platform.settings, work.job.id)["url"]
    pool = guarded_pool(reach_of(work.platform.settings))
    try:
        if work.job.order.get("unpack"):
            path, _ = _spool(work, lambda first, validator: _open(pool, url, first, validator))
            _unpack(work, path, str(work.job.order.get("path") or ""))
        else:
            _import_file(work, lambda first, validator: _open(pool, url, first, validator))
    finally:
        pool.clear()
    finish(work)


@contextmanager
def _open(pool: urllib3.PoolManager, url: str, first: int, validator: str) -> Iterator[Source]:
    with opened(pool, url, first_byte=first, validator=validator) as source:
        yield source


def _check_draft(work: Work) -> None:
    with work.platform.database.reading() as connection:
        draft = datasets.find_version(connection, work.job.version or "")
    if draft is None or draft.state is not VersionState.DRAFT:
        raise Cancelled


def _import_file(work: Work, opener: Opener) -> None:
    path = str(work.job.order["path"])
    with opener(0, "") as source:
        found = source.found
    if found.size_bytes is None:
        spooled, size = _spool(work, opener)
        opener = _local(spooled)
        found = Found(size, 0, "", "")
    assert found.size_bytes is not None
    to = target(work, path, found.size_bytes)
    if is_there(work, to):
        return
    work.total_bytes, work.total_files = found.size_bytes, 1
    known = work.job.order.get(imports.VALIDATOR) or ""
    with work.writing() as connection:
        imports.keep_room(connection, work.platform.settings, work.job.id, found.size_bytes)
        imports.note(connection, work.job.id, {imports.VALIDATOR: found.validator})
    same = found.validator if found.validator == known else ""
    arrivals = Arrivals(work)
    receive(work, to, opener, arrivals, same)
    arrivals.write()


# ---------------------------------------------------------------------------- on this disk


def _spool(work: Work, opener: Opener) -> tuple[Path, int]:
    """All of a source on this disk, gone on with where an earlier process was; with its size."""
    folder = spool_folder(work.platform.settings, work.job.id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, whole = folder / "part", folder / "whole"
    if whole.exists():
        return whole, whole.stat().st_size
    validator = str(work.job.order.get(imports.VALIDATOR) or "")
    there = path.stat().st_size if path.exists() and validator else 0
    with opener(there, validator if there else "") as source:
        if source.found.first_byte != there:
            there = 0
        most = _room_on_disk(work, folder, there)
        if source.found.size_bytes is not None and source.found.size_bytes > most:
            raise GivenUp(f"There is no room here for {size_words(source.found.size_bytes)}.")
        work.total_bytes = source.found.size_bytes
        with work.writing() as connection:
            imports.note(connection, work.job.id, {imports.VALIDATOR: source.found.validator})
        with path.open("r+b" if there else "wb") as file:
            file.truncate(there)
            file.seek(there)
            size = there
            work.done_bytes = there
            while part := source.read(READ_BYTES):
                size += len(part)
                if size > most:
                    raise GivenUp(f"It is larger than {size_words(most)}.")
                if size % LOOK_BYTES < len(part):
                    most = min(most, _room_on_disk(work, folder, size))
                file.write(part)
                work.add(size_bytes=len(part))
        if source.found.size_bytes not in (None, size):
            raise GivenUp("The other side ended before all was there.")
    path.rename(whole)
    work.done_bytes, work.total_bytes = 0, None
    return whole, size


def _room_on_disk(work: Work, folder: Path, there: int) -> int:
    """How large it may be: as much as one import may bring, as the owner may still store, and as
    this disk has room for."""
    settings = work.platform.settings
    with work.platform.database.reading() as connection:
        dataset = datasets.get(connection, work.job.dataset)
        left = quota.stored(connection, settings, dataset.owner_kind, dataset.owner).left_bytes
    free = max(0, shutil.disk_usage(folder).free + there - SPARE_DISK_BYTES)
    most = min(free, int(settings.import_gib * quota.GIB))
    return most if left is None else min(most, left)


def _local(path: Path) -> Opener:
    @contextmanager
    def opener(first: int, validator: str) -> Iterator[LocalSource]:
        with path.open("rb") as file:
            file.seek(first)
            yield LocalSource(file, Found(path.stat().st_size, first, validator, ""))

    return opener


def _unpack(work: Work, path: Path, folder: str) -> None:
    with open_zip(path) as archive:
        packed = contents(archive, folder)
        if not packed:
            raise GivenUp("There are no files in the archive.")
        _bring(
            work,
            [Coming(each.path, each.size_bytes, _entry(archive, each.info), "") for each in packed],
        )


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Opener:
    @contextmanager
    def opener(first: int, validator: str) -> Iterator[LocalSource]:
        try:
            file = archive.open(info)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise GivenUp(f"{shown(info.filename)} in the archive is damaged.") from error
        with file:
            yield LocalSource(file, Found(info.file_size, 0, "", ""))  # type: ignore[arg-type]

    return opener


# ---------------------------------------------------------------------------- many files


@dataclass(frozen=True)
class Coming:
    """One of many files."""

    path: str
    size_bytes: int
    opener: Opener
    validator: str
    """Empty: it is read from its beginning each time."""


def _bring(work: Work, files: Sequence[Coming]) -> None:
    """Some files, a few at once. All of their room is kept before the first one is sent."""
    coming = [(target(work, each.path, each.size_bytes), each) for each in files]
    missing = [(to, each) for to, each in coming if not is_there(work, to)]
    room = sum(to.size_bytes for to, _ in missing)
    work.total_files, work.total_bytes = len(files), sum(each.size_bytes for each in files)
    work.done_files = len(files) - len(missing)
    work.done_bytes = work.total_bytes - room
    with work.platform.database.reading() as connection:
        for to, _ in missing:
            refuse_clash(connection, to.version, to.path)
    with work.writing() as connection:
        imports.keep_room(connection, work.platform.settings, work.job.id, room)
    arrivals = Arrivals(work)
    with ThreadPoolExecutor(FILES_AT_ONCE, "import") as pool:
        futures = [
            pool.submit(receive, work, to, each.opener, arrivals, each.validator)
            for to, each in missing
        ]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
    arrivals.write()


def import_store(work: Work) -> None:
    """All objects below a prefix of another store into the draft."""
    _check_draft(work)
    secret = imports.read_secret(work.platform.settings, work.job.id)
    pool = guarded_pool(reach_of(work.platform.settings))
    try:
        source = elsewhere.Elsewhere(work.job.order, secret, pool)
        objects = source.objects(work.check)
        if not objects:
            raise GivenUp("There is nothing below this prefix.")
        _bring(
            work,
            [
                Coming(each.path, each.size_bytes, source.opener(each), each.etag)
                for each in objects
            ],
        )
    finally:
        pool.clear()
    finish(work)


def finish(work: Work) -> None:
    """The import is over and all of it is in the draft."""
    now = utc_now()
    with work.platform.database.transaction() as connection:
        imports.give_room(connection, work.job.id)
        work.finish(connection)
        dataset = datasets.get(connection, work.job.dataset)
        detail: dict[str, object] = {
            "dataset": dataset.reference,
            "files": work.done_files,
            "bytes": work.done_bytes,
        }
        events.note(connection, work.actor, "dataset.imported", dataset.id, at=now, detail=detail)
