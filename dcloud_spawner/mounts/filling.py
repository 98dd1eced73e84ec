"""A copy of a version on this host: files brought in parallel, each checked against its SHA-256.

A file appears under its name only after it was checked, and a copy only after all its files are
there and on the disk. What a killed process left is counted anew before it is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcloud_spawner.errors import DCloudError
from dcloud_spawner.storage.errors import ObjectMissing, StorageAway
from dcloud_spawner.storage.store import ObjectStore

CHUNK_BYTES = 1 << 20
RANGE_BYTES = 64 << 20
"""A larger file is brought in ranges of this size, several at once."""
THREADS = 8
RETRY_SECONDS = 2.0


class NotAsPublished(DCloudError):
    """What storage has is not what was published; the text names the file."""


class Given(DCloudError):
    """The copy is not wanted any more."""


@dataclass(frozen=True)
class Wanted:
    """One file of a version."""

    path: str
    key: str
    size_bytes: int
    sha256: str


class Filler:
    """Makes one copy. ``progress`` is told of every piece: so many bytes more; ``away`` that the
    storage does not answer, and is asked again until it does. Both from any thread."""

    def __init__(
        self,
        store: ObjectStore,
        folder: Path,
        progress: Callable[[int], None],
        away: Callable[[StorageAway], None],
        threads: int,
    ) -> None:
        self._store = store
        self._away = away
        self._folder = folder
        self._parts = folder.with_name(f"{folder.name}.parts")
        self._progress = progress
        self._stop = threading.Event()
        self._threads = threads
        self._ranges = ThreadPoolExecutor(threads, "copy-range")

    def stop(self) -> None:
        """Give up soon, from any thread."""
        self._stop.set()

    def fill(self, files: Iterable[Wanted]) -> None:
        """Bring all files, however long the storage is away. Raises NotAsPublished, Given after
        :meth:`stop`, OSError when the disk fails."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        remove(self._parts)
        self._parts.mkdir(mode=0o700)
        waiting: set[Future[None]] = set()
        with ThreadPoolExecutor(self._threads, "copy") as pool:
            try:
                for file in files:
                    waiting.add(pool.submit(self._bring, file))
                    if len(waiting) >= 4 * self._threads:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        _raise(done)
                _raise(wait(waiting).done)
            except BaseException:
                self._stop.set()
                raise
            finally:
                for future in waiting:
                    future.cancel()
                self._ranges.shutdown()
        remove(self._parts)
        _seal(self._folder)

    def _bring(self, file: Wanted) -> None:
        self._check_stop()
        target = self._folder / inside(file.path)
        with contextlib.suppress(FileNotFoundError):
            if target.stat().st_size == file.size_bytes and self._count(target) == file.sha256:
                self._progress(file.size_bytes)
                return
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            part = self._parts / hashlib.sha256(file.path.encode()).hexdigest()
            try:
                found = self._bring_to(file, part)
            except ObjectMissing as error:
                raise NotAsPublished(f"{file.path} is not in the storage any more.") from error
            if found != file.sha256:
                part.unlink()
                raise NotAsPublished(f"{file.path} is not as it was published (SHA-256 differs).")
            part.chmod(0o444)
            part.rename(target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise NotAsPublished(
                f"{file.path} cannot be a file: another file has its folder's name."
            ) from error

    def _bring_to(self, file: Wanted, part: Path) -> str:
        if file.size_bytes > 2 * RANGE_BYTES:
            return self._bring_ranges(file, part)
        digest = hashlib.sha256()
        with part.open("wb", buffering=0) as out:
            for data in self._stream(file.key, 0, file.size_bytes):
                out.write(data)
                digest.update(data)
        return digest.hexdigest()

    def _bring_ranges(self, file: Wanted, part: Path) -> str:
        """Ranges at once, counted in their order as they are read back from the page cache."""
        digest = hashlib.sha256()
        with part.open("w+b", buffering=0) as out:
            number = out.fileno()
            os.posix_fallocate(number, 0, file.size_bytes)
            pieces = [
                (start, min(RANGE_BYTES, file.size_bytes - start))
                for start in range(0, file.size_bytes, RANGE_BYTES)
            ]
            futures: list[Future[None]] = []
            try:
                for index, (start, length) in enumerate(pieces):
                    while len(futures) < min(len(pieces), index + self._threads):
                        futures.append(
                            self._ranges.submit(
                                self._bring_range, file.key, number, *pieces[len(futures)]
                            )
                        )
                    futures[index].result()
                    for data in _read(number, start, length):
                        digest.update(data)
            finally:
                for future in futures:
                    future.cancel()
                wait(futures)
        return digest.hexdigest()

    def _bring_range(self, key: str, number: int, start: int, length: int) -> None:
        at = start
        for data in self._stream(key, start, length):
            os.pwrite(number, data, at)
            at += len(data)

    def _stream(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """Bytes of an object; where the storage went away in the middle it goes on from there."""
        at, end = start, start + length
        while at < end:
            try:
                for data in self._store.stream(key, at, end - at, CHUNK_BYTES):
                    self._check_stop()
                    at += len(data)
                    self._progress(len(data))
                    yield data
                return  # an object that is shorter shows by its sum
            except StorageAway as error:
                self._away(error)
                if self._stop.wait(RETRY_SECONDS):
                    raise Given("the copy is not wanted any more") from error

    def _count(self, target: Path) -> str:
        digest = hashlib.sha256()
        with target.open("rb", buffering=0) as found:
            while data := found.read(CHUNK_BYTES):
                self._check_stop()
                digest.update(data)
        return digest.hexdigest()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Given("the copy is not wanted any more")


def inside(path: str) -> PurePosixPath:
    """A file's place in a copy; raises NotAsPublished for one that would lie elsewhere."""
    found = PurePosixPath(path)
    if found.is_absolute() or not found.parts or "\0" in path or ".." in found.parts:
        raise NotAsPublished(f"{path!r} is no path inside a dataset.")
    return found


def _raise(done: Iterable[Future[None]]) -> None:
    for future in done:
        future.result()


def _read(number: int, start: int, length: int) -> Iterator[bytes]:
    at, end = start, start + length
    while at < end:
        data = os.pread(number, min(CHUNK_BYTES, end - at), at)
        if not data:
            raise OSError("a file became shorter while it was copied")
        yield data
        at += len(data)


def _seal(folder: Path) -> None:
    """Nobody writes here any more, and all of it is on the disk."""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            Path(path, name).chmod(0o555)
    folder.chmod(0o555)
    os.sync()


def remove(folder: Path) -> None:
    """Remove a copy; already gone is success."""
    if not folder.exists():
        return
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
