"""Files of versions, and the sums of their folders.

Every function that adds or removes files keeps the sums of all folders above, of the version and
of the dataset in the same transaction.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select, update

from dcloud_spawner.datasets.paths import folder_of, folders_of
from dcloud_spawner.store import datasets as rows
from dcloud_spawner.store.datasets_schema import (
    dataset_files,
    dataset_folders,
    dataset_versions,
)

AT_ONCE = 400
"""Rows of one statement."""

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """One file of a version."""

    version: str
    path: str
    folder: str
    size_bytes: int
    sha256: str | None
    claimed_sha256: str | None
    etag: str
    added_by: str
    added_at: datetime

    @property
    def name(self) -> str:
        """Without its folder."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class NewFile:
    """What is stored, and not yet in the version."""

    path: str
    size_bytes: int
    claimed_sha256: str | None = None
    etag: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Folder:
    """One folder with the sums of all below it."""

    version: str
    path: str
    parent: str
    files: int
    size_bytes: int

    @property
    def name(self) -> str:
        """Without those above."""
        return self.path.rpartition("/")[2]


def put(
    connection: Connection, version: str, new: Sequence[NewFile], by: str, at: datetime
) -> None:
    """Add files to a version; one that is there by its path is replaced."""
    for part in _parts(new):
        remove(connection, version, [file.path for file in part])
        connection.execute(
            dataset_files.insert(),
            [
                {
                    "version": version,
                    "path": file.path,
                    "folder": folder_of(file.path),
                    "size_bytes": file.size_bytes,
                    "sha256": file.sha256,
                    "claimed_sha256": file.claimed_sha256,
                    "etag": file.etag,
                    "added_by": by,
                    "added_at": at,
                }
                for file in part
            ],
        )
        _count(connection, version, [(file.path, 1, file.size_bytes) for file in part])


def remove(connection: Connection, version: str, paths: Sequence[str]) -> Sequence[str]:
    """Take files out of a version; returns the paths of those that were there."""
    gone: list[str] = []
    for part in _parts(paths):
        chosen = and_(dataset_files.c.version == version, dataset_files.c.path.in_(part))
        found = connection.execute(
            select(dataset_files.c.path, dataset_files.c.size_bytes).where(chosen)
        ).all()
        if found:
            connection.execute(delete(dataset_files).where(chosen))
            _count(connection, version, [(row.path, -1, -row.size_bytes) for row in found])
            gone += [row.path for row in found]
    return gone


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE))


def _count(connection: Connection, version: str, changes: Iterable[tuple[str, int, int]]) -> None:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, files, size in changes:
        for folder in folders_of(path):
            sums[folder][0] += files
            sums[folder][1] += size
    known = set(
        connection.execute(
            select(dataset_folders.c.path).where(
                dataset_folders.c.version == version, dataset_folders.c.path.in_(list(sums))
            )
        ).scalars()
    )
    for folder, (files, size) in sums.items():
        if folder in known:
            connection.execute(
                update(dataset_folders)
                .where(dataset_folders.c.version == version, dataset_folders.c.path == folder)
                .values(
                    files=dataset_folders.c.files + files,
                    size_bytes=dataset_folders.c.size_bytes + size,
                )
            )
        else:
            # The top is its own parent's child nowhere: a list of "" must not show itself.
            parent = folder_of(folder) if folder else "/"
            connection.execute(
                dataset_folders.insert().values(
                    version=version, path=folder, parent=parent, files=files, size_bytes=size
                )
            )
    connection.execute(
        delete(dataset_folders).where(
            dataset_folders.c.version == version,
            dataset_folders.c.path.in_(list(sums)),
            dataset_folders.c.files == 0,
        )
    )
    files, size = sums[""]
    dataset = connection.execute(
        update(dataset_versions)
        .where(dataset_versions.c.id == version)
        .values(
            files=dataset_versions.c.files + files,
            size_bytes=dataset_versions.c.size_bytes + size,
        )
        .returning(dataset_versions.c.dataset)
    ).scalar_one()
    rows.store_more(connection, dataset, size)


def find(connection: Connection, version: str, path: str) -> File | None:
    """One file; None when there is none of that path."""
    row = connection.execute(
        select(dataset_files).where(
            dataset_files.c.version == version, dataset_files.c.path == path
        )
    ).one_or_none()
    return File(**row._mapping) if row else None


def clash(connection: Connection, version: str, path: str) -> str:
    """What stands in the way of a file of that path, in words: a folder of its path, or a file
    where it needs a folder. Empty: nothing."""
    if find_folder(connection, version, path) is not None:
        return f"there is a folder {path}"
    above = [folder for folder in folders_of(path) if folder]
    query = select(dataset_files.c.path).where(
        dataset_files.c.version == version, dataset_files.c.path.in_(above)
    )
    found = connection.execute(query).scalars().first() if above else None
    return f"there is a file {found}, and it would have to be a folder" if found else ""


def find_folder(connection: Connection, version: str, path: str) -> Folder | None:
    """One folder with its sums; the top is ""."""
    row = connection.execute(
        select(dataset_folders).where(
            dataset_folders.c.version == version, dataset_folders.c.path == path
        )
    ).one_or_none()
    return Folder(**row._mapping) if row else None


def folders_in(
    connection: Connection, version: str, folder: str, *, after: str = "", limit: int = 200
) -> Sequence[Folder]:
    """Folders directly in a folder, in order, that come after a path."""
    directly = dataset_folders.c.parent == folder
    return [
        Folder(**row)
        for row in _in_order(connection, dataset_folders, version, after, limit, directly)
    ]


def files_in(
    connection: Connection, version: str, folder: str, *, after: str = "", limit: int = 200
) -> Sequence[File]:
    """Files directly in a folder, in order, that come after a path."""
    return _files(connection, version, after, limit, dataset_files.c.folder == folder)


def search(
    connection: Connection, version: str, word: str, *, after: str = "", limit: int = 200
) -> Sequence[File]:
    """Files with a word in their path, in order; large and small letters are the same."""
    pattern = "%" + re.sub(r"([\\%_])", r"\\\1", word) + "%"
    path = dataset_files.c.path
    # SQLite does not tell large from small letters of ASCII by itself.
    found = path.like if connection.dialect.name == "sqlite" else path.ilike
    return _files(connection, version, after, limit, found(pattern, escape="\\"))


def below(
    connection: Connection, version: str, folder: str = "", *, after: str = "", limit: int = 1000
) -> Sequence[File]:
    """Files in a folder and all folders below it, in order of their paths."""
    path = dataset_files.c.path
    # "0" is the character after "/": a range, so that the primary key answers.
    inside = (path > f"{folder}/", path < f"{folder}0") if folder else ()
    return _files(connection, version, after, limit, *inside)


def _files(
    connection: Connection, version: str, after: str, limit: int, *which: ColumnElement[bool]
) -> Sequence[File]:
    found = _in_order(connection, dataset_files, version, after, limit, *which)
    return [File(**row) for row in found]


def _in_order(
    connection: Connection,
    table: Table,
    version: str,
    after: str,
    limit: int,
    *which: ColumnElement[bool],
) -> Iterator[dict[str, Any]]:
    """A part of a version's files or folders, by their paths."""
    query = select(table).where(table.c.version == version, table.c.path > after, *which)
    for row in connection.execute(query.order_by(table.c.path).limit(limit)):
        yield dict(row._mapping)


def walk(connection: Connection, version: str, folder: str = "") -> Iterator[File]:
    """All files below a folder, in order, read in parts."""
    after = ""
    while found := below(connection, version, folder, after=after):
        yield from found
        after = found[-1].path


def set_sums(connection: Connection, version: str, sums: Sequence[tuple[str, str]]) -> None:
    """Write what was counted of some files: ``(path, sha256)``."""
    for path, sha256 in sums:
        connection.execute(
            update(dataset_files)
            .where(dataset_files.c.version == version, dataset_files.c.path == path)
            .values(sha256=sha256)
        )


def unchecked(connection: Connection, version: str, limit: int = 500) -> Sequence[File]:
    """Files that were not read back yet."""
    return _files(connection, version, "", limit, dataset_files.c.sha256.is_(None))


def sizes_of(connection: Connection, version: str, paths: Sequence[str]) -> dict[str, int]:
    """Sizes of those of some paths that are files of a version."""
    found: dict[str, int] = {}
    for part in _parts(paths):
        query = select(dataset_files.c.path, dataset_files.c.size_bytes).where(
            dataset_files.c.version == version, dataset_files.c.path.in_(part)
        )
        found.update((row.path, row.size_bytes) for row in connection.execute(query))
    return found


def forget_sums(connection: Connection, version: str) -> None:
    """All files are to be read back anew."""
    connection.execute(
        update(dataset_files).where(dataset_files.c.version == version).values(sha256=None)
    )


def checked_sums(connection: Connection, version: str) -> tuple[int, int]:
    """Files that were read back, and their bytes."""
    row: Any = connection.execute(
        select(
            func.count().label("files"),
            func.coalesce(func.sum(dataset_files.c.size_bytes), 0).label("size"),
        ).where(dataset_files.c.version == version, dataset_files.c.sha256.is_not(None))
    ).one()
    return int(row.files), int(row.size)


def remove_all(connection: Connection, version: str) -> None:
    """Forget all files of a version that is given up."""
    size, dataset = connection.execute(
        select(dataset_versions.c.size_bytes, dataset_versions.c.dataset).where(
            dataset_versions.c.id == version
        )
    ).one()
    connection.execute(delete(dataset_files).where(dataset_files.c.version == version))
    connection.execute(delete(dataset_folders).where(dataset_folders.c.version == version))
    connection.execute(
        update(dataset_versions)
        .where(dataset_versions.c.id == version)
        .values(files=0, size_bytes=0)
    )
    rows.store_more(connection, dataset, -size)
