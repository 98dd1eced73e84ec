"""``dcloud data get``: a version into a folder; every file's SHA-256 is checked. Run again, it
fetches what is missing."""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .platform import DataError, Platform, segment
from .progress import Progress
from .putting import HASH_BYTES, sha256_of

TRIES = 4
PART = ".dcloud-part"


def target_of(folder: Path, path: str) -> Path:
    """Where a file of a dataset is to lie; raises DataError when that is not in the folder."""
    parts = path.split("/")
    if not all(parts) or any(part in (".", "..") or "\\" in part or "\0" in part for part in parts):
        raise DataError(f"{path!r} is no path that can be written here.")
    target = folder.joinpath(*parts)
    inside = folder.resolve()
    if not target.parent.resolve().is_relative_to(inside):
        raise DataError(f"{path!r} would be written outside of {folder} (a link is in the way).")
    return target


class Get:
    """One run."""

    def __init__(
        self,
        platform: Platform,
        reference: str,
        version: str,
        folder: Path,
        progress: Progress,
        jobs: int = 6,
    ) -> None:
        owner, _, name = reference.rpartition("/")
        self._page = f"datasets/{segment(owner)}/{segment(name)}/download"
        self._platform, self._version = platform, version
        self._folder, self._progress, self._jobs = folder, progress, jobs
        self._lock = threading.Lock()
        self.same: list[str] = []
        self.failed: list[tuple[str, str]] = []

    def run(self, files: Sequence[dict[str, Any]]) -> None:
        """Fetch them all; what fails is in ``failed``."""
        with ThreadPoolExecutor(self._jobs, "get") as pool:
            list(pool.map(self._file, files))

    def _file(self, file: dict[str, Any]) -> None:
        path, size = file["path"], file["size_bytes"]
        try:
            target = target_of(self._folder, path)
            known = target.is_file() and target.stat().st_size == size
            if known and (not file["sha256"] or sha256_of(target) == file["sha256"]):
                self._progress.there(size)
                self.same.append(path)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(file, target)
            self._progress.file()
        except (DataError, OSError) as error:
            with self._lock:
                self.failed.append((path, str(error)))
            self._progress.say(f"{path}: {error}")

    def _fetch(self, file: dict[str, Any], target: Path) -> None:
        part = target.with_name(target.name[:200] + PART)
        for attempt in range(TRIES):
            try:
                if self._whole(file, part):
                    part.replace(target)
                    return
                problem: Exception = DataError("The connection broke before the end.")
            except (http.client.HTTPException, OSError) as error:
                problem = error
            if attempt == TRIES - 1:
                raise DataError(f"{problem}")
            time.sleep(2.0**attempt)

    def _whole(self, file: dict[str, Any], part: Path) -> bool:
        """Fetch the rest of a file; whether it is all there. Raises DataError when what came is not
        what the manifest says."""
        size, digest = file["size_bytes"], hashlib.sha256()
        # A file without a checksum may have changed since: it begins anew.
        have = part.stat().st_size if file["sha256"] and part.exists() else 0
        query = {"version": self._version, "path": file["path"]}
        with self._platform.page(self._page, have if 0 < have < size else 0, **query) as answer:
            goes_on = answer.status == 206
            with part.open("r+b" if goes_on else "wb") as out:
                while goes_on and (block := out.read(HASH_BYTES)):
                    digest.update(block)
                self._progress.there(out.tell())
                while block := answer.read(HASH_BYTES):
                    out.write(block)
                    digest.update(block)
                    self._progress.more(len(block))
                got = out.tell()
        if got != size:
            self._progress.there(-got)
            return False
        if file["sha256"] and digest.hexdigest() != file["sha256"]:
            part.unlink()
            raise DataError("What came is not what the manifest says (SHA-256 differs).")
        return True
