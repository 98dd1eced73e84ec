"""The files of one sandbox, and whether its processes still live.

    STATE/sandboxes/NAME/
        plan.json      what was asked for; written once by the engine, without the environment
        record.json    what happened; written by the supervisor only
        heartbeat      touched by the supervisor: the last moment known alive
        output.log     what the sandbox wrote (output.log.1: the part before)
        tmp/           its /tmp

Standard library only: the supervisor imports this module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dcloud_spawner.engines.cgroups import Cgroup, Limits, group_from_record

HEARTBEAT_SECONDS = 20.0
"""A sandbox that died with its supervisor, or with the machine, ended at most this much later
than its record says."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that a reused pid is never mistaken for."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat."""

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """None when there is no such process, or when it is dead and merely not reaped."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The command's name may hold spaces and brackets; the fields begin after the last one.
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def open(self) -> int | None:
        """A pidfd of this very process, or None when it is gone; the caller closes it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():  # asked after opening: the descriptor cannot mean a later process
            return descriptor
        os.close(descriptor)
        return None

    def send(self, number: signal.Signals) -> None:
        """Signal this very process; already gone is success."""
        descriptor = self.open()
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            os.close(descriptor)


@dataclass(frozen=True)
class Plan:
    """What the engine asked of a sandbox. No environment: that may hold tokens."""

    name: str
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    """bwrap with its options, and the interpreter that loads the user's command inside."""
    devices: tuple[str, ...]
    """UUIDs of the GPUs whose nodes are in the sandbox's /dev."""
    url: str
    port: int
    writable_folders: tuple[str, ...]
    """Host folders the sandbox writes to: a home that is here is in use."""
    limits: Limits
    cgroup: Mapping[str, object]
    shelters: tuple[str, ...]
    """Groups the supervisor moves to, out of the hub's."""
    boot_id: str


@dataclass(frozen=True)
class Record:
    """What the supervisor saw."""

    supervisor: ProcessIdentity
    init: ProcessIdentity | None = None
    """Process 1 of the sandbox's pid namespace, by its number outside. Its death is the death
    of everything inside."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    oom_killed: bool = False


class SandboxFolder:
    """The files of one sandbox. Reading a folder that is gone raises FileNotFoundError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "output.log"
        self.old_log = path / "output.log.1"
        self.heartbeat_file = path / "heartbeat"
        self.tmp = path / "tmp"

    def write_plan(self, plan: Plan) -> None:
        write_atomically(self.path / "plan.json", json.dumps(asdict(plan), indent=1))

    def read_plan(self) -> Plan:
        data = json.loads((self.path / "plan.json").read_text())
        limits = data["limits"] | {"devices": tuple(data["limits"]["devices"])}
        return Plan(
            **data
            | {
                "arguments": tuple(data["arguments"]),
                "devices": tuple(data["devices"]),
                "shelters": tuple(data["shelters"]),
                "writable_folders": tuple(data["writable_folders"]),
                "limits": Limits(**limits),
            }
        )

    def write_record(self, record: Record) -> None:
        write_atomically(self.path / "record.json", json.dumps(asdict(record), default=str))

    def read_record(self) -> Record | None:
        """None before the supervisor's first word."""
        try:
            data = json.loads((self.path / "record.json").read_text())
        except FileNotFoundError:
            return None
        return Record(
            supervisor=ProcessIdentity(**data["supervisor"]),
            init=ProcessIdentity(**data["init"]) if data["init"] else None,
            started_at=_moment(data["started_at"]),
            finished_at=_moment(data["finished_at"]),
            exit_code=data["exit_code"],
            oom_killed=data["oom_killed"],
        )

    def beat(self) -> None:
        """Say that the sandbox is alive now."""
        self.heartbeat_file.touch(mode=0o600)

    def last_beat(self) -> datetime | None:
        """The last moment the sandbox was known alive, aware UTC."""
        try:
            return datetime.fromtimestamp(self.heartbeat_file.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None


def still_running(plan: Plan, record: Record | None, cgroup: Cgroup | None) -> bool:
    """Whether any process of the sandbox may still run.

    The supervisor alone decides nothing: when it was killed and processes are left in the
    group, they still hold their GPUs.
    """
    if plan.boot_id != boot_id() or record is None:
        # A supervisor starts nothing before its record is written and the engine has answered.
        return False
    if record.supervisor.alive() or (record.init is not None and record.init.alive()):
        return True
    return cgroup is not None and bool(cgroup.pids())


def wait_until_gone(identity: ProcessIdentity, timeout_seconds: float) -> bool:
    """Wait for the end of a process that need not be our child; False when it outlives the time."""
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = 0.005
    while identity.alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_seconds)
        pause_seconds = min(0.05, pause_seconds * 1.5)
    return True


def plan_cgroup(plan: Plan) -> Cgroup | None:
    """The group a plan names, None where none could be had."""
    return group_from_record(plan.cgroup)


def boot_id() -> str:
    """Differs after every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(file: Path, text: str) -> None:
    """Replace a file, mode 0600; whoever reads sees the old text or the new, also after a crash."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def finished(record: Record, at: datetime | None, exit_code: int | None, oom: bool) -> Record:
    """The record with its end."""
    return replace(record, finished_at=at, exit_code=exit_code, oom_killed=oom)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
