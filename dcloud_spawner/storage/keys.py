"""Where things lie in the bucket. Pure; nobody else puts a key together.

    datasets/DATASET/VERSION/PATH      the files of one version, under their own names
    manifests/DATASET/VERSION.json     its manifest, beside and not inside what is mounted

Somebody's personal space is a bucket beside it (``own_bucket``). Every prefix ends in ``/``, so
that no policy for one reaches its longer-named neighbour.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")

DATASETS = "datasets/"
MANIFESTS = "manifests/"


def dataset_prefix(dataset: str) -> str:
    """All versions of a dataset; raises ValueError when that is no id."""
    return f"{DATASETS}{_checked(dataset)}/"


def version_prefix(dataset: str, version: str) -> str:
    """All files of one version."""
    return f"{dataset_prefix(dataset)}{_checked(version)}/"


def file_key(dataset: str, version: str, path: str) -> str:
    """One file; ``path`` has passed ``datasets.paths.clean_path``, and what could leave the
    prefix is refused here once more (ValueError)."""
    return version_prefix(dataset, version) + _inside(path)


def manifests_prefix(dataset: str) -> str:
    """The manifests of all versions of a dataset."""
    return f"{MANIFESTS}{_checked(dataset)}/"


def manifest_key(dataset: str, version: str) -> str:
    """The manifest of one version."""
    return f"{manifests_prefix(dataset)}{_checked(version)}.json"


def own_bucket(bucket: str, home: str) -> str:
    """The bucket that is the personal space of a home's user. A bucket and no prefix: MinIO does
    not keep a list to the prefix that a policy names (``list_probe``), and people list their own.
    """
    digest = hashlib.sha256(f"{bucket}/{_checked(home)}".encode()).hexdigest()
    return f"{bucket[:30].rstrip('-')}-own-{digest[:24]}"


@dataclass(frozen=True)
class Place:
    """What a key is of."""

    kind: Literal["dataset", "manifest", "person"]
    owner: str
    """Id of the dataset, or of the home."""
    version: str = ""
    path: str = ""


def place_of(key: str) -> Place | None:
    """What an object is of; None for one that is none of ours."""
    kind, _, rest = key.partition("/")
    owner, _, rest = rest.partition("/")
    if not owner or not rest:
        return None
    if kind == "manifests" and rest.endswith(".json") and "/" not in rest:
        return Place("manifest", owner, rest.removesuffix(".json"))
    version, _, path = rest.partition("/")
    if kind == "datasets" and version and path:
        return Place("dataset", owner, version, path)
    return None


def _checked(part: str) -> str:
    if not _ID.fullmatch(part) or ".." in part:
        raise ValueError(f"{part!r} is no id")
    return part


def _inside(path: str) -> str:
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path!r} is no path inside a prefix")
    return path
