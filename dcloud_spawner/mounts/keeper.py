"""One turn compares what workloads should have under ~/datasets with what this host has mounted,
in both directions, and mends. So whoever was killed, and whenever: the next turn puts it right.

    rows of open workloads -> sources (a copy bound read-only, or a stream) -> a bind for each

Nothing here waits for the storage: copies have threads of their own, a stream is a process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.mounts import kernel, mountinfo
from dcloud_spawner.mounts.copies import GIB, Copies, CopyState, Need, Stand
from dcloud_spawner.mounts.mountinfo import MountPoint
from dcloud_spawner.mounts.places import CACHED, STREAM, Places
from dcloud_spawner.mounts.pulse import PULSE_SECONDS, Pulses, StorageProbe
from dcloud_spawner.mounts.streams import Streams, can_stream
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.storage.access import access_of
from dcloud_spawner.store import dataset_mounts, datasets, events
from dcloud_spawner.store.dataset_mounts import MountState, Use
from dcloud_spawner.store.datasets import Version
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State

log = logging.getLogger("dcloud.data.mounts")

ACTOR = Actor("datasets")
OVER = (MountState.REVOKED, MountState.FAILED, MountState.GONE)
"""States in which nothing is mounted any more."""

START_SECONDS = 30.0
"""A stream that is not there after this time is started again."""
RESTART_SECONDS = 1.0
"""Between two starts of one that dies at once."""
NOT_ROOT = "This host cannot mount datasets: the platform does not run as root."
NO_FUSE = "This host has no streams (fuse3 is missing): mount it as a copy."
AWAY = "The storage does not answer: what was read before is still there, other reads wait."
AWAY_YET = "The storage does not answer; it is mounted when it does."
COMES_BACK = "Its mount is being made."

_OF_COPY = {
    Stand.FILLING: MountState.PREPARING,
    Stand.WAITING: MountState.WAITING,
    Stand.AWAY: MountState.AWAY,
    Stand.FAILED: MountState.FAILED,
}


@dataclass(frozen=True)
class Told:
    """What a row is to say, and from where its folder is bound once that is there."""

    state: MountState
    message: str = ""
    source: str = ""
    """VERSION.MODE; empty: there is nothing to bind yet."""


class Keeper:
    """The mounts of this host. One at a time: the process ``data`` sees to that."""

    def __init__(self, platform: Platform, *, pulse_seconds: float = PULSE_SECONDS) -> None:
        self._platform = platform
        self._places = Places(platform.settings)
        self._copies = Copies(platform, self._places)
        self._cache_bytes = int(platform.settings.stream_cache_gib * GIB)
        self._streams: Streams | None = None
        self._started: dict[str, float] = {}
        self._probe = StorageProbe(platform)
        self._pulses = Pulses(pulse_seconds)

    def turn(self) -> None:
        """Compare and mend. Blocks, but never for the storage."""
        uses, versions = self._read()
        if not uses and not self._places.left():
            return
        if os.geteuid() != 0:
            gone, no = Told(MountState.GONE), Told(MountState.FAILED, NOT_ROOT)
            ended = State.ENDED
            self._tell({_key(u): gone if u.workload_state is ended else no for u in uses}, uses)
            return
        wanted = [use for use in uses if _is_wanted(use)]
        if wanted:
            self._share()
        self._unbind({_path(use) for use in wanted})
        told = {}
        copies = self._copies.turn(*self._needs(wanted, versions))
        for use in wanted:
            try:
                told[_key(use)] = self._bound(use, self._source(use, versions, copies))
            except (OSError, ConfigurationError) as error:
                log.exception("Cannot mount %s", _path(use))
                kept = f"{use.mount.version}.{use.mount.mode}"
                told[_key(use)] = Told(MountState.AWAY, f"It cannot be mounted now: {error}", kept)
        self._drop_sources({found.source for found in told.values()})
        mounts = self._mounts()
        for use in uses:
            if use.workload_state is State.ENDED and _path(use) not in mounts:
                told[_key(use)] = Told(MountState.GONE)
        self._tell(told, uses)
        over = all(_key(use) in told and told[_key(use)].state is MountState.GONE for use in uses)
        if over and self._places.root.exists():
            release(self._places)

    def close(self) -> None:
        """Give up copies that are being made; what is mounted stays, for servers go on."""
        self._copies.close()
        self._probe.close()

    # ---------------------------------------------------------------------------- what there is

    def _read(self) -> tuple[Sequence[Use], Mapping[str, Version]]:
        with self._platform.database.reading() as connection:
            uses = dataset_mounts.open_uses(connection)
            uses = [use for use in uses if use.mount.state is not MountState.GONE]
            wanted = sorted({use.mount.version for use in uses})
            return uses, datasets.get_versions(connection, wanted)

    def _mounts(self) -> dict[str, list[MountPoint]]:
        return mountinfo.below(mountinfo.read(), self._places.root)

    def _share(self) -> None:
        """What containers are given lies in a mount of its own, whose news reach them."""
        self._places.root.mkdir(mode=0o711, exist_ok=True)
        point = str(self._places.root)
        own = [mount for mount in mountinfo.read() if mount.point == point]
        if not own:
            kernel.make_shared(self._places.root)
        elif not own[-1].shared:
            raise ConfigurationError(f"{point} is a mount that is not shared; unmount it")
        for folder in (self._places.versions, self._places.workloads):
            folder.mkdir(mode=0o711, exist_ok=True)

    # ---------------------------------------------------------------------------- sources

    def _needs(
        self, wanted: Sequence[Use], versions: Mapping[str, Version]
    ) -> tuple[dict[str, Need], set[str]]:
        """Copies that are wanted, and versions whose copies are mounted."""
        needs = {}
        for use in wanted:
            version = versions.get(use.mount.version)
            if use.mount.mode == CACHED and version is not None:
                needs[version.id] = Need(version.dataset, version.id, version.size_bytes)
        ending = f".{CACHED}"
        names = [name for name in self._mounts() if name.startswith("versions/")]
        held = {n.partition("/")[2].removesuffix(ending) for n in names if n.endswith(ending)}
        return needs, held

    def _source(
        self, use: Use, versions: Mapping[str, Version], copies: Mapping[str, CopyState]
    ) -> Told:
        """Have what a use is bound from; says how far that is."""
        version = use.mount.version
        if version not in versions:
            return Told(MountState.FAILED, "This version is not there any more.")
        if use.mount.mode != CACHED:
            return self._streamed(use, "")
        copy = copies[version]
        if copy.stand is Stand.TOO_LARGE:
            return self._streamed(use, copy.message)
        if copy.stand is not Stand.COMPLETE:
            return Told(_OF_COPY[copy.stand], copy.message)
        source = self._places.source(version, CACHED)
        if f"versions/{source.name}" not in self._mounts():
            source.mkdir(mode=0o700, exist_ok=True)
            kernel.bind_read_only(self._places.copy(version), source)
            self._copies.used([version])
        return Told(MountState.READY, source=source.name)

    def _streamed(self, use: Use, why: str) -> Told:
        version, name = use.mount.version, f"{use.mount.version}.{STREAM}"
        if not can_stream():
            return Told(MountState.FAILED, f"{why} {NO_FUSE}".strip())
        alive = self._of_streams().is_alive(version)
        there = f"versions/{name}" in self._mounts()
        if alive and there and self._pulses.is_lost(self._places.versions / name):
            log.error("The stream of %s does not answer any more", version)
            self._restart(use.mount.dataset, version)
        elif alive and there:
            self._started.pop(version, None)
            if self._probe.says_away():
                return Told(MountState.AWAY, AWAY, name)
            return Told(MountState.READY, why, name)
        began, now = self._started.get(version), time.monotonic()
        waited = now - began if began is not None else START_SECONDS + 1
        if waited > (START_SECONDS if alive else RESTART_SECONDS):
            if began is not None:
                words = self._of_streams().last_words(version)
                log.error("The stream of %s failed: %s", version, words)
            self._restart(use.mount.dataset, version)
        if self._probe.says_away():
            return Told(MountState.AWAY, AWAY_YET, name)
        was_there = use.mount.state in (MountState.READY, MountState.AWAY)
        return Told(MountState.AWAY if was_there else MountState.PREPARING, COMES_BACK, name)

    def _restart(self, dataset: str, version: str) -> None:
        streams = self._of_streams()
        streams.kill(version)
        _detach_all(self._mounts(), f"versions/{version}.{STREAM}", self._places)
        self._pulses.forget(self._places.source(version, STREAM))
        self._started[version] = time.monotonic()
        log.info("Starting the stream of %s", version)
        streams.start(dataset, version)

    def _of_streams(self) -> Streams:
        if self._streams is None:
            access = access_of(self._platform.settings)
            self._streams = Streams(self._places, access, self._cache_bytes)
        return self._streams

    def _drop_sources(self, kept: Collection[str]) -> None:
        """What nobody uses any more goes, whoever left it behind."""
        mounts = self._mounts()
        for name in _listed(self._places.versions):
            if name not in kept:
                _detach_all(mounts, f"versions/{name}", self._places)
                _remove_folder(self._places.versions / name)
                if name.endswith(f".{CACHED}"):
                    self._copies.used([name.removesuffix(f".{CACHED}")])
        for version in _listed(self._places.streams):
            if f"{version}.{STREAM}" not in kept:
                self._of_streams().end(version)
                self._started.pop(version, None)

    # ---------------------------------------------------------------------------- binds

    def _unbind(self, wanted: set[str]) -> None:
        """Take away what nobody is to have any more."""
        mounts = self._mounts()
        for workload in _listed(self._places.workloads):
            folder = self._places.workloads / workload
            for name in _listed(folder):
                path = f"workloads/{workload}/{name}"
                if path not in wanted:
                    _detach_all(mounts, path, self._places)
                    _remove_folder(folder / name)
            if not any(path.startswith(f"workloads/{workload}/") for path in wanted):
                _detach_all(mounts, f"workloads/{workload}", self._places)
                _remove_folder(folder)

    def _bound(self, use: Use, found: Told) -> Told:
        """See that a workload has exactly this source, mounted once, read-only."""
        mounts = self._mounts()
        source = mounts.get(f"versions/{found.source}") if found.source else None
        there = mounts.get(_path(use), [])
        if source is None or (len(there) == 1 and _same(there[0], source[-1])):
            # Where a stream died, what is bound says so to whoever reads: it is not empty.
            return found
        if found.source.endswith(STREAM) and not self._of_streams().is_alive(use.mount.version):
            return found
        folder = self._places.workload(use.mount.workload)
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        point = folder / use.mount.name
        # Closed: whoever comes between two mounts is refused and sees no empty dataset.
        with contextlib.suppress(FileExistsError):
            point.mkdir(mode=0)
        _detach_all(mounts, _path(use), self._places)
        kernel.bind(self._places.versions / found.source, point)
        bound = self._mounts().get(_path(use), [])
        if bound and bound[-1].read_only:
            return found
        _detach_all({_path(use): bound}, _path(use), self._places)
        return Told(MountState.FAILED, "It could not be mounted read-only.")

    # ---------------------------------------------------------------------------- rows

    def _tell(self, told: Mapping[tuple[str, str], Told], uses: Sequence[Use]) -> None:
        """Write what is new, with its line where somebody got or lost a dataset."""
        changed = [
            (use, told[_key(use)])
            for use in uses
            if _key(use) in told
            and (use.mount.state, use.mount.message)
            != (told[_key(use)].state, told[_key(use)].message)
        ]
        if not changed:
            return
        now = utc_now()
        with self._platform.database.transaction() as connection:
            latest = {
                (row.mount.workload, row.mount.name): row.mount.state
                for row in dataset_mounts.open_uses(connection)
            }
            sizes = datasets.get_versions(connection, [use.mount.version for use, _ in changed])
            for use, new in changed:
                before = latest.get(_key(use))
                if before is MountState.REVOKED and new.state is not MountState.GONE:
                    continue  # meanwhile
                dataset_mounts.set_state(
                    connection, use.mount.workload, use.mount.name, new.state, now, new.message
                )
                action = _action(use.mount.state, new.state)
                if action:
                    version = sizes.get(use.mount.version)
                    detail: dict[str, object] = {
                        "user": use.user,
                        "server": use.server_name,
                        "workload": use.mount.workload,
                        "name": use.mount.name,
                        "version": version.number if version else None,
                        "mode": use.mount.mode,
                        "bytes": version.size_bytes if version else None,
                        "message": new.message,
                    }
                    events.note(connection, ACTOR, action, use.mount.dataset, at=now, detail=detail)


def release(places: Places) -> None:
    """Take away all that is mounted and the mount that holds it: of a host without servers that
    have datasets. Streams end by themselves when they are unmounted."""
    for mount in reversed(mountinfo.read()):
        if mount.point == str(places.root) or mount.point.startswith(f"{places.root}/"):
            with contextlib.suppress(OSError):  # with what it lay on
                kernel.detach(Path(mount.point))
    for folder in (places.workloads, places.versions):
        for name in _listed(folder):
            for inner in _listed(folder / name):
                _remove_folder(folder / name / inner)
            _remove_folder(folder / name)
        _remove_folder(folder)
    _remove_folder(places.root)


def _is_wanted(use: Use) -> bool:
    return use.workload_state is not State.ENDED and use.mount.state not in OVER


def _action(before: MountState, after: MountState) -> str:
    if after is MountState.READY and before in (MountState.WAITING, MountState.PREPARING):
        return "dataset.mount"
    if after is MountState.FAILED:
        return "dataset.mount_failed"
    if after is MountState.AWAY and before is MountState.READY:
        return "dataset.mount_away"
    if after is MountState.READY:
        return "dataset.mount_back" if before is MountState.AWAY else ""
    return "dataset.unmount" if after is MountState.GONE else ""


def _key(use: Use) -> tuple[str, str]:
    return use.mount.workload, use.mount.name


def _path(use: Use) -> str:
    return f"workloads/{use.mount.workload}/{use.mount.name}"


def _same(bound: MountPoint, source: MountPoint) -> bool:
    return (bound.device, bound.root) == (source.device, source.root)


def _detach_all(mounts: Mapping[str, list[MountPoint]], path: str, places: Places) -> None:
    for _ in mounts.get(path, ()):
        with contextlib.suppress(OSError):  # gone meanwhile
            kernel.detach(places.root / path)


def _remove_folder(folder: os.PathLike[str]) -> None:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("Cannot remove %s: %s", folder, error)


def _listed(folder: os.PathLike[str]) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
