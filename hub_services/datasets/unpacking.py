"""What a zip says it holds, judged before anything is unpacked. Nothing is written to a file by a
name of the archive: its files become objects, and their paths are those that uploads may have."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dcloud_spawner.datasets.paths import clean_path, folders_of, shown
from dcloud_spawner.errors import InvalidChoice
from hub_services.datasets.outside import GivenUp

MOST_FILES = 200_000
LARGEST_DIRECTORY_BYTES = 128 << 20
"""Of the archive's own list, which is read whole."""

_END = b"PK\x05\x06"
_END_BYTES = 22
_END_64 = b"PK\x06\x06"
_LOCATOR_64 = b"PK\x06\x07"
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Packed:
    """One file of an archive."""

    info: zipfile.ZipInfo
    path: str
    """In the draft."""

    @property
    def size_bytes(self) -> int:
        """Unpacked, as the archive says; not a byte more is read."""
        return self.info.file_size


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive, unless its list alone would be too much. Raises GivenUp."""
    try:
        with path.open("rb") as file:
            size = _directory_bytes(file)
        if size > LARGEST_DIRECTORY_BYTES:
            raise GivenUp("The list of the archive's files is too long.")
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, struct.error, NotImplementedError) as error:
        raise GivenUp("This is no zip, or a damaged one.") from error


def _directory_bytes(file: BinaryIO) -> int:
    """How large the archive says that its list is."""
    whole = file.seek(0, os.SEEK_END)
    tail_bytes = min(whole, _END_BYTES + 65535)
    file.seek(whole - tail_bytes)
    tail = file.read(tail_bytes)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise zipfile.BadZipFile("no end record")
    (size,) = struct.unpack_from("<L", tail, at + 12)
    if tail[at - 20 : at - 16] == _LOCATOR_64:
        (offset,) = struct.unpack_from("<Q", tail, at - 12)
        file.seek(offset)
        record = file.read(48)
        if record[:4] == _END_64:
            size = max(size if size != 0xFFFFFFFF else 0, struct.unpack_from("<Q", record, 40)[0])
    return int(size)


def contents(archive: zipfile.ZipFile, folder: str) -> Sequence[Packed]:
    """The files of an archive and where they go. Raises GivenUp for what is none of the kind that
    a dataset has, and InvalidChoice for a name that is no path inside it."""
    found: dict[str, Packed] = {}
    folders: set[str] = set()
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise GivenUp(f"{len(infos)} files are too many for one archive ({MOST_FILES}).")
    for info in infos:
        # Not `filename`: that one ends at a NUL.
        name = info.orig_filename
        if name.endswith("/"):
            if name.strip("/"):
                clean_path(name.rstrip("/"), "archive")
            continue
        _check_kind(info, name)
        clean_path(name, "archive")
        path = clean_path(f"{folder}/{name}" if folder else name, "archive")
        if path in found:
            raise GivenUp(f"{shown(path)} is in the archive twice.")
        found[path] = Packed(info, path)
        folders.update(folders_of(path))
    both = folders & found.keys()
    if both:
        raise GivenUp(f"{shown(min(both))} is a file and a folder in the archive.")
    return list(found.values())


def _check_kind(info: zipfile.ZipInfo, name: str) -> None:
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise GivenUp(f"{shown(name)} in the archive is a link or a device.")
    if info.flag_bits & _ENCRYPTED:
        raise GivenUp(f"{shown(name)} in the archive is encrypted.")
    if info.compress_type not in _METHODS:
        raise GivenUp(f"{shown(name)} in the archive is packed in a way that is not known here.")
    if info.file_size < 0 or (info.file_size and not info.compress_size):
        raise InvalidChoice(f"archive: {shown(name)} has no size.")
