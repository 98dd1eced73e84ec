"""``dcloud data put``: files and folders into a dataset's draft; run again, it goes on."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .platform import DataError, Platform, segment
from .progress import Progress
from .sending import Sender

BATCH = 50
"""Files of one call."""
BATCHES = 3
"""While one is sent the next one is begun and the one before is completed."""
SIGNED_AHEAD = 16
HASH_BYTES = 1 << 20


@dataclass
class Local:
    """A file to send."""

    file: Path
    path: str
    """In the dataset."""
    size_bytes: int
    modified_ms: int
    replace: bool = False
    upload: dict[str, Any] = field(default_factory=dict)
    urls: dict[int, str] = field(default_factory=dict)

    def wish(self) -> dict[str, Any]:
        """As the platform takes it."""
        return {
            "path": self.path,
            "size_bytes": self.size_bytes,
            "modified_ms": self.modified_ms,
            "replace": self.replace,
        }


def local_files(sources: Sequence[Path], into: str) -> list[Local]:
    """All files: what lies in a folder comes without the folder's own name, in the order of their
    paths. Raises DataError for what cannot be read, and for two files of one path."""
    found: dict[str, Local] = {}
    for source in sources:
        for file, path in _walk(source):
            path = unicodedata.normalize("NFC", f"{into}/{path}" if into else path)
            if path in found:
                raise DataError(f"{found[path].file} and {file} would both be {path}.")
            about = file.stat()
            found[path] = Local(file, path, about.st_size, about.st_mtime_ns // 1_000_000)
    return [found[path] for path in sorted(found)]


def _walk(source: Path) -> Iterator[tuple[Path, str]]:
    if source.is_file():
        yield source, source.name
        return
    if not source.is_dir():
        raise DataError(f"{source} is neither a file nor a folder.")
    for folder, folders, names in os.walk(source, onerror=_raise):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if not file.is_file():
                raise DataError(f"{file} is no file (a broken link?).")
            yield file, file.relative_to(source).as_posix()


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}")


class Put:
    """One run. ``jobs``: parts that are sent at the same time."""

    def __init__(self, platform: Platform, dataset: str, progress: Progress, jobs: int = 6) -> None:
        self._platform, self._progress = platform, progress
        self._root = f"datasets/{segment(dataset)}/uploads"
        self._sender = Sender()
        self._parts = ThreadPoolExecutor(jobs, "part")
        self._sums = ThreadPoolExecutor(2, "sum")
        self._hashes: dict[str, Future[str]] = {}
        self._lock = threading.Lock()
        self.same: list[str] = []
        """Were there already, by their checksums."""
        self.failed: list[tuple[str, str]] = []
        """Path and why."""

    def run(self, files: Sequence[Local]) -> None:
        """Send them all; what fails is in ``failed``, the others are done."""
        total = sum(file.size_bytes for file in files)
        batches = ThreadPoolExecutor(BATCHES, "batch")
        finished = False
        try:
            asked: list[Future[None]] = []
            for batch in _batches(files):
                asked.append(batches.submit(self._batch, batch, total))
                total -= sum(file.size_bytes for file in batch)
            for each in asked:
                each.result()
            finished = True
        finally:
            # A key that ends it must not wait for what was not begun.
            for pool in (batches, self._parts, self._sums):
                pool.shutdown(wait=finished, cancel_futures=not finished)

    def _batch(self, files: Sequence[Local], total: int) -> None:
        begun = self._platform.call(
            "POST",
            self._root,
            {
                "files": [file.wish() for file in files],
                "total_bytes": total,
                "origin": self._platform.access.origin,
            },
        )["items"]
        sending: list[tuple[Local, list[Future[None]]]] = []
        again: list[Local] = []
        for file, item in zip(files, begun, strict=True):
            outcome = item["outcome"]
            if outcome == "refused":
                self._fail(file, _words(item["problem"]))
            elif outcome == "stored":
                self._progress.file()
            elif outcome == "there":
                if item["sha256"] and self._sum(file).result() == item["sha256"]:
                    self._progress.there(file.size_bytes)
                    self._progress.file()
                    self.same.append(file.path)
                else:
                    file.replace = True
                    again.append(file)
            else:
                sending.append((file, self._send(file, item)))
        self._complete(sending)
        if again:
            self._batch(again, total)

    def _sum(self, file: Local) -> Future[str]:
        if file.path not in self._hashes:
            self._hashes[file.path] = self._sums.submit(sha256_of, file.file)
        return self._hashes[file.path]

    def _send(self, file: Local, item: dict[str, Any]) -> list[Future[None]]:
        upload = file.upload = item["upload"]
        file.urls = {part["number"]: part["url"] for part in item["urls"]}
        done = {part["number"]: part["size_bytes"] for part in item["done"]}
        self._progress.there(sum(done.values()))
        self._sum(file)
        missing = [number for number in range(1, upload["parts"] + 1) if number not in done]
        return [self._parts.submit(self._part, file, number, missing) for number in missing]

    def _part(self, file: Local, number: int, missing: Sequence[int]) -> None:
        part_bytes = file.upload["part_bytes"]
        first = (number - 1) * part_bytes
        size = min(part_bytes, file.size_bytes - first)
        with file.file.open("rb") as opened:
            for attempt in range(3):
                try:
                    url = self._url(file, number, missing)
                    self._sender.put(url, opened, first, size, self._progress.more)
                    return
                except DataError as error:
                    if error.code != "expired" or attempt == 2:
                        raise
                    with self._lock:
                        file.urls.clear()

    def _url(self, file: Local, number: int, missing: Sequence[int]) -> str:
        with self._lock:
            if number not in file.urls:
                ahead = [each for each in missing if each >= number][:SIGNED_AHEAD]
                signed = self._platform.call(
                    "POST",
                    f"{self._root}/{file.upload['id']}/parts",
                    {"numbers": ahead, "origin": self._platform.access.origin},
                )
                file.urls.update({part["number"]: part["url"] for part in signed["items"]})
            return file.urls[number]

    def _complete(self, sending: Sequence[tuple[Local, list[Future[None]]]]) -> None:
        ready: list[Local] = []
        for file, parts in sending:
            try:
                for part in parts:
                    part.result()
                ready.append(file)
            except (DataError, OSError) as error:
                self._fail(file, str(error))
        claims: list[tuple[Local, dict[str, str]]] = []
        for file in ready:
            try:
                claims.append((file, {"id": file.upload["id"], "sha256": self._sum(file).result()}))
            except OSError as error:
                self._fail(file, str(error))
        if not claims:
            return
        body = {"uploads": [claim for _, claim in claims]}
        answer = self._platform.call("POST", f"{self._root}/complete", body)["items"]
        for (file, claim), item in zip(claims, answer, strict=True):
            if item["problem"] and not self._is_there(file, claim["sha256"], item["problem"]):
                self._fail(file, _words(item["problem"]))
            else:
                self._progress.file()

    def _is_there(self, file: Local, sha256: str, problem: dict[str, Any]) -> bool:
        """Whether only an answer got lost: the file was completed, and the draft has it."""
        if problem["code"] != "not_found":
            return False
        files = [{**file.wish(), "replace": False}]
        [found] = self._platform.call("POST", self._root, {"files": files})["items"]
        return bool(found["outcome"] == "there" and found["sha256"] == sha256)

    def _fail(self, file: Local, why: str) -> None:
        self.failed.append((file.path, why))
        self._progress.say(f"{file.path}: {why}")


def sha256_of(file: Path) -> str:
    """Hex."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _batches(files: Sequence[Local]) -> Iterable[Sequence[Local]]:
    """So many that one request stays below the 64 KiB that the platform takes."""
    batch: list[Local] = []
    room = 48 * 1024
    for file in files:
        need = 120 + 2 * len(ascii(file.path))
        if batch and (len(batch) == BATCH or need > room):
            yield batch
            batch, room = [], 48 * 1024
        batch.append(file)
        room -= need
    if batch:
        yield batch


def _words(problem: dict[str, Any]) -> str:
    return f"{problem['message']} {problem['hint']}".strip()
