"""Programs of this deployment that outlived a killed supervisord: found, and ended by id.

Known by the pid file the launcher wrote (id and start time, so a recycled id is not mistaken),
and, if that file is gone, by the marker in the environment together with the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass

import psutil

from hub_services.cli.deployment import Deployment
from hub_services.cli.processes import PROGRAMS, configuration_path, pid_file

_CLOCK_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Orphan:
    """A process of ours without a parent that looks after it."""

    program: str
    process: psutil.Process


def find_orphans(deployment: Deployment) -> list[Orphan]:
    """Every program of this deployment that runs. Meaningful when supervisord does not answer."""
    found: dict[int, Orphan] = {}
    for each in PROGRAMS:
        process = _by_pid_file(deployment, each.name)
        if process is not None:
            found[process.pid] = Orphan(each.name, process)
    for process in psutil.process_iter():
        name = _name_in_this_deployment(deployment, process)
        if name and process.pid != os.getpid():
            found.setdefault(process.pid, Orphan(name, process))
    # supervisord first: it would start again what ends beside it.
    return sorted(found.values(), key=lambda orphan: orphan.program != "supervisord")


def end(processes: list[psutil.Process], grace_seconds: float = 20.0) -> None:
    """Ask politely, then kill; returns when all are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in _wait(processes, grace_seconds):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(processes, 5.0)


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after so long. A zombie has ended: its parent need not have looked."""
    deadline = time.monotonic() + seconds
    while (alive := [each for each in processes if _runs(each)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _by_pid_file(deployment: Deployment, name: str) -> psutil.Process | None:
    try:
        noted = json.loads(pid_file(deployment, name).read_text())
        process = psutil.Process(int(noted["pid"]))
        same = abs(process.create_time() - float(noted["started"])) < _CLOCK_TOLERANCE_SECONDS
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process if same and _runs(process) else None


def _name_in_this_deployment(deployment: Deployment, process: psutil.Process) -> str:
    """Which program of this deployment a process is; empty for everything else.

    The environment alone proves nothing: a user's sandbox may have inherited the hub's.
    """
    try:
        line = " ".join(process.cmdline())
        if f"supervisord -c {configuration_path(deployment)}" in line:
            return "supervisord"
        name = next((each.name for each in PROGRAMS if each.recognise in line), "")
        if not name:
            return ""
        environment = process.environ()
    except psutil.Error:
        return ""
    ours = environment.get("DCLOUD_STATE") == str(deployment.state)
    return name if ours and environment.get("DCLOUD_PROGRAM") == name else ""
