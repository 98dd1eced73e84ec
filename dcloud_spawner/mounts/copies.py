"""The copies of this host: which are wanted, which are made, which go when the cache is full.

The folders are the truth, the rows in ``dataset_copies`` say it to the pages. A copy is wanted
while a workload that has not ended asks for it; after that it stays until its place is needed, the
least recently used first.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dcloud_spawner.engines.local_node import NODE
from dcloud_spawner.mounts.filling import THREADS, Filler, Given, NotAsPublished, Wanted, remove
from dcloud_spawner.mounts.places import Places
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.errors import StorageAway, StorageRefused
from dcloud_spawner.storage.keys import file_key
from dcloud_spawner.store import dataset_files, dataset_mounts, datasets
from dcloud_spawner.store.dataset_mounts import Copy

log = logging.getLogger("dcloud.data.copies")

GIB = 2**30
AT_ONCE = 2
"""Copies that are made at the same time."""
KEPT_FREE_BYTES = 2 * GIB
"""Of the disk, whatever the cache may hold."""
RETRY_SECONDS = 2.0
PURGED_SECONDS = 60.0
"""Between two looks for copies of versions that were deleted for good."""
PROGRESS_SECONDS = 1.0


class Stand(StrEnum):
    """How far a copy is."""

    COMPLETE = "complete"
    FILLING = "filling"
    WAITING = "waiting"
    AWAY = "away"
    TOO_LARGE = "too large"
    FAILED = "failed"


@dataclass(frozen=True)
class CopyState:
    """How far a copy is, in words."""

    stand: Stand
    message: str = ""


@dataclass(frozen=True)
class Need:
    """A version of which a copy is wanted."""

    dataset: str
    version: str
    size_bytes: int


class _Fill:
    """One copy that is being made, by a thread of its own."""

    def __init__(self, platform: Platform, places: Places, need: Need) -> None:
        self._platform, self._places, self._need = platform, places, need
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._written_at = 0.0
        self._given = threading.Event()
        self._filler: Filler | None = None
        self.state = CopyState(Stand.FILLING)
        self.thread = threading.Thread(target=self._run, name=f"copy-{need.version}", daemon=True)
        self.thread.start()

    def give_up(self) -> None:
        self._given.set()
        if self._filler is not None:
            self._filler.stop()

    def _run(self) -> None:
        while not self._given.is_set():
            try:
                self._fill()
                self.state = CopyState(Stand.COMPLETE)
                return
            except Given:
                return
            except (NotAsPublished, StorageRefused) as error:
                log.error("Copying %s: %s", self._need.version, error)
                words = str(error) if isinstance(error, NotAsPublished) else "The storage refuses."
                self.state = CopyState(Stand.FAILED, words)
                return
            except OSError as error:
                log.error("Copying %s: %s", self._need.version, error)
                self.state = CopyState(Stand.AWAY, f"This host cannot keep the copy: {error}")
            except Exception:
                log.exception("Copying %s", self._need.version)
                self.state = CopyState(Stand.AWAY, "Copying failed; it is tried again.")
            self._given.wait(RETRY_SECONDS)

    def _fill(self) -> None:
        version = self._need.version
        self._done_bytes = 0
        self._filler = Filler(
            self._platform.storage,
            self._places.filling(version),
            self._progress,
            self._storage_away,
            THREADS,
        )
        if self._given.is_set():
            raise Given
        self._filler.fill(self._files())
        # The name is what counts; a row that a killed process left behind it is mended.
        self._places.filling(version).rename(self._places.copy(version))
        self._write(self._need.size_bytes, state="complete")

    def _files(self) -> Iterator[Wanted]:
        after, need = "", self._need
        while True:
            with self._platform.database.reading() as connection:
                found = dataset_files.below(connection, need.version, after=after)
            if not found:
                return
            for file in found:
                if file.sha256 is None:
                    raise NotAsPublished(f"{file.path} was never checked.")
                key = file_key(need.dataset, need.version, file.path)
                yield Wanted(file.path, key, file.size_bytes, file.sha256)
            after = found[-1].path

    def _storage_away(self, error: StorageAway) -> None:
        log.warning("Copying %s: %s", self._need.version, error.detail)
        self.state = CopyState(
            Stand.AWAY, "The storage does not answer; copying goes on when it does."
        )

    def _progress(self, more_bytes: int) -> None:
        if self.state.stand is not Stand.FILLING:
            self.state = CopyState(Stand.FILLING)
        with self._lock:
            self._done_bytes += more_bytes
            now = time.monotonic()
            if now - self._written_at < PROGRESS_SECONDS:
                return
            self._written_at, done = now, self._done_bytes
        self._write(min(done, self._need.size_bytes))

    def _write(self, done_bytes: int, **more: object) -> None:
        with self._platform.database.transaction() as connection:
            dataset_mounts.change_copy(
                connection, NODE, self._need.version, done_bytes=done_bytes, **more
            )


class Copies:
    """All copies of this host."""

    def __init__(self, platform: Platform, places: Places) -> None:
        self._platform, self._places = platform, places
        self._cache_bytes = int(platform.settings.cache_gib * GIB)
        self._fills: dict[str, _Fill] = {}
        self._looked_at = -PURGED_SECONDS

    def turn(self, needs: Mapping[str, Need], mounted: Collection[str]) -> dict[str, CopyState]:
        """Begin and give up what is to be; returns how far each wanted version is. ``mounted``
        are versions that must stay. Blocks for the disk, never for the storage."""
        rows = self._rows()
        self._forget(rows, needs, mounted)
        found: dict[str, CopyState] = {}
        for version, need in needs.items():
            found[version] = self._stand(version, need, rows, needs, mounted)
        return found

    def used(self, versions: Collection[str]) -> None:
        """These copies are used now."""
        if versions:
            with self._platform.database.transaction() as connection:
                for version in versions:
                    dataset_mounts.change_copy(connection, NODE, version, used_at=utc_now())

    def close(self) -> None:
        """Give up all that is being made; what is here is kept for the next process."""
        for fill in self._fills.values():
            fill.give_up()
        for fill in self._fills.values():
            fill.thread.join(5)

    # ------------------------------------------------------------------------------------

    def _rows(self) -> dict[str, Copy]:
        with self._platform.database.reading() as connection:
            return {copy.version: copy for copy in dataset_mounts.copies(connection, NODE)}

    def _forget(
        self, rows: dict[str, Copy], needs: Mapping[str, Need], mounted: Collection[str]
    ) -> None:
        """Nobody waits for a copy that is not complete: it goes at once, and so does what no
        row knows."""
        for version, fill in list(self._fills.items()):
            if version not in needs:
                fill.give_up()
                if not fill.thread.is_alive():
                    del self._fills[version]
            elif not fill.thread.is_alive() and fill.state.stand is Stand.COMPLETE:
                del self._fills[version]
        purged = self._purged(rows)
        for version, copy in list(rows.items()):
            if version in needs or version in mounted or version in self._fills:
                continue
            whole = copy.state == "complete" and self._places.copy(version).is_dir()
            if not whole or version in purged:
                self._drop(version)
                del rows[version]
        for name in self._here():
            version = name.partition(".")[0]
            if version not in rows and version not in needs and version not in self._fills:
                remove(self._places.copies / name)

    def _purged(self, rows: Mapping[str, Copy]) -> set[str]:
        """Versions that are not there any more: nobody is to find their files on a disk."""
        now = time.monotonic()
        if not rows or now - self._looked_at < PURGED_SECONDS:
            return set()
        self._looked_at = now
        with self._platform.database.reading() as connection:
            return set(rows) - set(datasets.get_versions(connection, list(rows)))

    def _here(self) -> list[str]:
        try:
            return os.listdir(self._places.copies)
        except FileNotFoundError:
            return []

    def _stand(
        self,
        version: str,
        need: Need,
        rows: dict[str, Copy],
        needs: Mapping[str, Need],
        mounted: Collection[str],
    ) -> CopyState:
        fill = self._fills.get(version)
        if fill is not None:
            return fill.state
        if self._places.copy(version).is_dir():
            self._believe(need, rows)
            return CopyState(Stand.COMPLETE)
        if need.size_bytes > self._cache_bytes:
            return CopyState(
                Stand.TOO_LARGE,
                f"It has {_gib(need.size_bytes)}, and this host keeps copies of "
                f"{_gib(self._cache_bytes)} at the most.",
            )
        if sum(fill.thread.is_alive() for fill in self._fills.values()) >= AT_ONCE:
            return CopyState(Stand.WAITING, "Other datasets are copied first.")
        if not self._make_room(need, rows, needs, mounted):
            return CopyState(Stand.WAITING, "The cache is full of datasets that are in use.")
        now = utc_now()
        with self._platform.database.transaction() as connection:
            dataset_mounts.remove_copy(connection, NODE, version)
            dataset_mounts.add_copy(connection, NODE, version, need.size_bytes, now)
        # The next one of this turn must see its place taken.
        rows[version] = Copy(NODE, version, "filling", 0, need.size_bytes, "", now, now)
        self._places.copies.mkdir(exist_ok=True, mode=0o700)
        fill = self._fills[version] = _Fill(self._platform, self._places, need)
        return fill.state

    def _believe(self, need: Need, rows: Mapping[str, Copy]) -> None:
        """A folder under this name is complete, whatever its row still says."""
        row = rows.get(need.version)
        if row is not None and row.state == "complete":
            return
        with self._platform.database.transaction() as connection:
            if row is None:
                dataset_mounts.add_copy(connection, NODE, need.version, need.size_bytes, utc_now())
            dataset_mounts.change_copy(
                connection, NODE, need.version, state="complete", done_bytes=need.size_bytes
            )

    def _make_room(
        self,
        need: Need,
        rows: dict[str, Copy],
        needs: Mapping[str, Need],
        mounted: Collection[str],
    ) -> bool:
        """Remove what was not used for longest until this one fits; False when it cannot."""
        held = {version: copy.total_bytes for version, copy in rows.items()}
        held.pop(need.version, None)
        idle = [
            version
            for version, copy in rows.items()  # the least recently used first
            if copy.state == "complete" and version not in needs and version not in mounted
        ]
        here = _bytes_below(self._places.filling(need.version))
        to_come = sum(
            copy.total_bytes - copy.done_bytes
            for version, copy in rows.items()
            if copy.state == "filling" and version != need.version
        )

        def missing() -> bool:
            free = shutil.disk_usage(self._platform.settings.state).free - to_come
            too_little = free + here < need.size_bytes + KEPT_FREE_BYTES
            return too_little or sum(held.values()) + need.size_bytes > self._cache_bytes

        while missing():
            if not idle:
                return False
            version = idle.pop(0)
            self._drop(version)
            del held[version]
            del rows[version]
        return True

    def _drop(self, version: str) -> None:
        with self._platform.database.transaction() as connection:
            dataset_mounts.change_copy(connection, NODE, version, state="leaving")
        remove(self._places.copy(version))
        remove(self._places.filling(version))
        with self._platform.database.transaction() as connection:
            dataset_mounts.remove_copy(connection, NODE, version)


def _bytes_below(folder: object) -> int:
    return sum(
        os.lstat(os.path.join(path, name)).st_size
        for path, _, names in os.walk(str(folder))
        for name in names
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.3g} GiB"
