"""The manifest of a version: every file with its size and SHA-256. Pure.

A JSON array with one file a line, in the order of the paths' bytes in UTF-8, written in one way
only: whoever has the same files gets the same text, and its SHA-256 is what one cites. No name of a
dataset or a person is in it, for those may change::

    [
    {"path":"images/a.png","sha256":"9f86…","size":1024},
    {"path":"labels.csv","sha256":"60303…","size":77}
    ]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file; size in bytes, ``sha256`` in lower-case hexadecimal."""

    path: str
    size_bytes: int
    sha256: str


def lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The manifest line by line, in order whatever the order of the entries."""
    yield b"[\n"
    ordered = sorted(entries, key=lambda entry: entry.path.encode())
    for number, entry in enumerate(ordered, 1):
        written = json.dumps(
            {"path": entry.path, "sha256": entry.sha256, "size": entry.size_bytes},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        yield written.encode() + (b",\n" if number < len(ordered) else b"\n")
    yield b"]\n"


def digest(entries: Iterable[Entry]) -> str:
    """SHA-256 of the manifest, in hexadecimal."""
    found = hashlib.sha256()
    for line in lines(entries):
        found.update(line)
    return found.hexdigest()


def parse(text: bytes) -> list[Entry]:
    """The files of a manifest. Raises ValueError for what is none."""
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("a manifest is a list of files")
    try:
        return [Entry(str(row["path"]), int(row["size"]), str(row["sha256"])) for row in found]
    except (TypeError, KeyError) as error:
        raise ValueError("a file of the manifest has not all its fields") from error
