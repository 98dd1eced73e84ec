"""Names of datasets and paths of their files: what may be written, and one way to write it.

A path here becomes a key of the object store, a file on a host and a name in a zip, so whatever
could mean something else in one of the three is refused and never repaired.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from dcloud_spawner.errors import InvalidChoice

LONGEST_PATH = 900
"""Bytes in UTF-8. A key of S3 has at most 1,024, and the prefix of the version is before it."""
LONGEST_SEGMENT = 255
"""Bytes in UTF-8: the longest name of a file on Linux."""
DEEPEST = 32
"""Folders in each other."""
LONGEST_NAME = 64
NEWEST = "latest"

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|[._-](?=[a-z0-9])){0,63}")
_VERSION = re.compile(r"v?([1-9][0-9]{0,8})")
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of characters that a reader does not see or that turn the writing round. Joiners
that some scripts and emoji need (ZWJ, ZWNJ) are of Cf, too; they are let through."""
_JOINERS = "\u200c\u200d"
HOW_TO_NAME = "1 to 64 of a-z, 0-9 and single . _ - between them."


@dataclass(frozen=True)
class Reference:
    """A dataset as people write it: ``owner/name`` or ``owner/name@3``."""

    owner: str
    name: str
    version: int | None = None
    """None: the latest."""
    project: bool = False
    """Written ``project:owner/name``: a person of that name is not meant."""

    def __str__(self) -> str:
        prefix = "project:" if self.project else ""
        version = f"@{self.version}" if self.version is not None else ""
        return f"{prefix}{self.owner}/{self.name}{version}"


def clean_path(given: str, field: str = "path") -> str:
    """The path of a file in a version: relative, parted by ``/``, in Unicode's form C. Raises
    InvalidChoice that says what is wrong with it."""
    path = unicodedata.normalize("NFC", given)
    problem = _problem(path)
    if problem:
        raise InvalidChoice(
            f"{field}: {shown(given)} {problem}.",
            hint="Rename the file and add it again; nothing was changed.",
            field=field,
        )
    return path


def _problem(path: str) -> str:
    if not path:
        return "is empty"
    if any(unicodedata.category(c) in _UNSEEN and c not in _JOINERS for c in path):
        return "has characters that cannot be seen"
    if "\\" in path:
        return "has a backslash; folders are parted by /"
    if path.startswith("/"):
        return "begins with /; paths are relative to the dataset"
    if len(path.encode()) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} bytes"
    segments = path.split("/")
    if len(segments) > DEEPEST:
        return f"is deeper than {DEEPEST} folders"
    for segment in segments:
        if segment == "":
            return "has an empty part (// or / at the end)"
        if segment in (".", ".."):
            return f"has the part {segment!r}"
        if segment.startswith(".rclone_"):
            return "has a part that the storage keeps for itself (.rclone_)"
        if segment != segment.strip():
            return "has a part that begins or ends with a space"
        if len(segment.encode()) > LONGEST_SEGMENT:
            return f"has a part that is longer than {LONGEST_SEGMENT} bytes"
    return ""


def clean_folder(given: str, field: str = "folder") -> str:
    """The path of a folder: as of a file, and the empty one is the top."""
    return clean_path(given, field) if given else ""


def folder_of(path: str) -> str:
    """The folder that a file or folder lies in; empty at the top."""
    return path.rpartition("/")[0]


def folders_of(path: str) -> list[str]:
    """All folders above a file, the top ("") first."""
    segments = path.split("/")[:-1]
    return ["/".join(segments[:depth]) for depth in range(len(segments) + 1)]


def check_name(name: str, field: str = "name") -> str:
    """A name of a dataset. Raises InvalidChoice."""
    if not _NAME.fullmatch(name):
        raise InvalidChoice(f"{field}: {shown(name)} is no name of a dataset.", hint=HOW_TO_NAME)
    return name


def parse_version(given: object, field: str = "version") -> int | None:
    """``3``, ``"v3"`` or ``"latest"`` (None). Raises InvalidChoice."""
    if given is None or given == NEWEST:
        return None
    if isinstance(given, int) and not isinstance(given, bool) and 0 < given < 10**9:
        return given
    found = _VERSION.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise InvalidChoice(
            f"{field}: {shown(str(given))} is no version.",
            hint='A number from 1, or "latest".',
            field=field,
        )
    return int(found[1])


def parse_reference(given: str, field: str = "dataset") -> Reference:
    """``owner/name``, with ``@version`` and ``project:`` where wanted. Raises InvalidChoice."""
    whole, at, version = given.partition("@") if "/" not in given else _part_version(given)
    project = whole.startswith("project:")
    owner, slash, name = whole.removeprefix("project:").rpartition("/")
    if not slash or not owner or len(owner) > 255 or not _NAME.fullmatch(name):
        raise InvalidChoice(
            f"{field}: {shown(given)} is no dataset.",
            hint="Write owner/name, or owner/name@3 for version 3.",
            field=field,
        )
    return Reference(owner, name, parse_version(version, field) if at else None, project)


def _part_version(given: str) -> tuple[str, str, str]:
    """A person's name may have an ``@`` in it (a mail address): one after the name counts."""
    owner, _, rest = given.rpartition("/")
    name, at, version = rest.partition("@")
    return f"{owner}/{name}", at, version


def shown(text: str, longest: int = 80) -> str:
    """Somebody's text inside a message: quoted, with what cannot be seen made visible."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return ascii(cut) if any(unicodedata.category(c) in _UNSEEN for c in cut) else repr(cut)
