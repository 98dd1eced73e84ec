"""Start, ask and stop supervisord over its Unix socket (its XML-RPC interface)."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli.deployment import CHECKOUT, Deployment
from hub_services.cli.orphans import end, find_orphans
from hub_services.cli.processes import (
    configuration_path,
    listed,
    program,
    write_configuration,
)

CALL_SECONDS = 90.0
_START_SECONDS = 15.0
IDLE = {"STOPPED", "FATAL", "EXITED"}
"""supervisord's words for a program without a process, which it will not start by itself."""


@dataclass(frozen=True)
class ProgramState:
    """What supervisord says about one program; times are Unix seconds, 0 for never."""

    name: str
    state: str
    """supervisord's own word: RUNNING, STARTING, BACKOFF, EXITED, FATAL, STOPPED."""
    pid: int
    started: int
    ended: int
    exit_status: int

    @property
    def running(self) -> bool:
        """Whether a process exists that supervisord is content with."""
        return self.state == "RUNNING"


class Supervisor:
    """One deployment's supervisord."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._rpc = xmlrpc.client.ServerProxy(
            "http://supervisor/RPC2", transport=_UnixTransport(deployment.socket)
        ).supervisor

    def pid(self) -> int:
        """The process id of a supervisord that answers, else 0."""
        try:
            answer = self._rpc.getPID()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return 0
        return answer if isinstance(answer, int) else 0

    def programs(self) -> dict[str, ProgramState]:
        """All programs by name; empty when supervisord does not answer."""
        try:
            answer = self._rpc.getAllProcessInfo()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return {}
        assert isinstance(answer, list)
        return {row["name"]: _program_state(row) for row in answer if isinstance(row, dict)}

    def start(self) -> list[str]:
        """Start supervisord with the configuration of now, or bring a running one up to it.

        Returns what was done, as sentences; empty when all ran already. Orphans of a killed
        supervisord are ended first.
        """
        write_configuration(self._deployment)
        if self.pid():
            return self._update()
        done = []
        orphans = find_orphans(self._deployment)
        if orphans:
            end([orphan.process for orphan in orphans])
            names = ", ".join(f"{orphan.program} ({orphan.process.pid})" for orphan in orphans)
            done.append(f"ended what a killed supervisord left behind: {names}")
        self._spawn()
        return [*done, f"started {listed(self._deployment.settings)}"]

    def start_once(self, name: str) -> None:
        """Start a program that runs to its end, unless it runs already."""
        state = self.programs().get(name)
        if state is not None and state.state in IDLE:
            self._rpc.startProcess(name, False)

    def restart(self, names: Sequence[str]) -> None:
        """Stop and start programs; users' servers keep running."""
        known = self.programs()
        for name in names:
            if known[name].state in {"RUNNING", "STARTING", "BACKOFF"}:
                self._rpc.stopProcess(name)
        for name in names:
            self._rpc.startProcess(name, False)

    def stop(self) -> bool:
        """Stop all programs and supervisord; False when nothing was running."""
        pid = self.pid()
        if not pid:
            orphans = find_orphans(self._deployment)
            end([orphan.process for orphan in orphans])
            return bool(orphans)
        try:
            process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return True
        self._rpc.shutdown()
        try:
            process.wait(timeout=CALL_SECONDS)
        except psutil.TimeoutExpired:
            end([process, *process.children()])
        return True

    def _update(self) -> list[str]:
        """As ``supervisorctl update``, and start what had stopped."""
        answer = self._rpc.reloadConfig()
        assert isinstance(answer, list)
        added, changed, removed = answer[0]
        for name in [*changed, *removed]:
            self._rpc.stopProcessGroup(name)
            self._rpc.removeProcessGroup(name)
        for name in [*changed, *added]:
            self._rpc.addProcessGroup(name)
        done = [f"restarted {name} with changed settings" for name in changed]
        for state in self.programs().values():
            if state.state in IDLE and not program(state.name).once:
                self._rpc.startProcess(state.name, False)
                done.append(f"started {state.name}")
        return done

    def _spawn(self) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord"]
        done = subprocess.run(
            [*command, "-c", str(configuration_path(self._deployment))],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            env={**os.environ, "DCLOUD_PROGRAM": "supervisord"},
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self.pid():
            if done.returncode or time.monotonic() > deadline:
                raise ConfigurationError(
                    "supervisord did not start. It said:\n"
                    f"{(done.stdout + done.stderr).strip() or 'nothing'}\n"
                    f"Its log: {self._deployment.settings.logs_dir / 'supervisord.log'}"
                )
            time.sleep(0.05)


def _program_state(row: dict[str, object]) -> ProgramState:
    def number(key: str) -> int:
        value = row.get(key, 0)
        return value if isinstance(value, int) else 0

    return ProgramState(
        name=str(row["name"]),
        state=str(row.get("statename", "UNKNOWN")),
        pid=number("pid"),
        started=number("start"),
        ended=number("stop"),
        exit_status=number("exitstatus"),
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("supervisor", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)
