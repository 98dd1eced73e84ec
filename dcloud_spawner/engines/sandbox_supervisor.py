"""The little process that outlives the hub: one a sandbox, from its start to its end.

It makes the control group, starts bubblewrap in it, keeps the log, beats every 20 s, and writes
how it ended. Killing it kills the sandbox (bwrap --die-with-parent). Run by
:func:`dcloud_spawner.engines.sandbox_start.start_supervisor`, with one argument: the folder.

The conversation on its standard input and output, so that a hub killed at any moment leaves
either nothing or a sandbox with a record:

    supervisor  record.json is written, then  {"ready": true}
    hub         {"command": [...], "environment": {...}}   end of file instead: nothing is started
    supervisor  {"started": true}  or  {"error": "..."}
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO

from dcloud_spawner.engines.cgroups import Cgroup
from dcloud_spawner.engines.sandbox_records import (
    HEARTBEAT_SECONDS,
    Plan,
    ProcessIdentity,
    Record,
    SandboxFolder,
    finished,
    plan_cgroup,
)
from dcloud_spawner.engines.sandbox_seccomp import seccomp_program

LOG_PART_BYTES = 8 * 2**20
"""Of the log, at least the last part and at most the last two are kept."""

# Runs inside, already as the unprivileged user. The environment arrives only here: an LD_PRELOAD
# in it must not reach bwrap or setpriv, which still are root. Descriptor argv[1] closes at exec,
# so its reader sees "+" and the end when the command really runs, "+" and a reason when not.
_LOADER = (
    "import json,os,sys\n"
    "fd=int(sys.argv[1]);os.set_inheritable(fd,False);os.write(fd,b'+')\n"
    "data=json.load(sys.stdin.buffer);null=os.open('/dev/null',os.O_RDONLY);os.dup2(null,0)\n"
    "command=data['command'];os.umask(0o22)\n"
    "try: os.execvpe(command[0],command,data['environment'])\n"
    "except OSError as error: os.write(fd,f'{command[0]}: {error.strerror}'.encode())\n"
    "sys.exit(127)\n"
)


@dataclass
class _Sandbox:
    process: subprocess.Popen[bytes]
    init: ProcessIdentity | None
    orders: IO[bytes]
    output: IO[bytes]
    status: IO[bytes]
    """bwrap writes here until its end, so it stays open."""
    running: IO[bytes]


def supervise(folder: SandboxFolder) -> None:
    """Run one sandbox to its end. Talks on descriptors 0 and 1, as the module says."""
    plan = folder.read_plan()
    cgroup = plan_cgroup(plan)
    for shelter in plan.shelters:
        with contextlib.suppress(OSError):
            Path(shelter).mkdir(parents=True, exist_ok=True)
            Path(shelter, "cgroup.procs").write_text("0", encoding="ascii")
    myself = ProcessIdentity.of(os.getpid())
    assert myself is not None
    record = Record(supervisor=myself)
    folder.write_record(record)
    _say(ready=True)
    orders = sys.stdin.buffer.readline()
    if not orders.endswith(b"\n"):
        return  # the hub is gone, and nobody knows of this sandbox yet
    sandbox: _Sandbox | None = None
    try:
        if cgroup is not None:
            cgroup.kill(2.0)
            cgroup.remove()  # one left behind would have its old counts
            cgroup.create(plan.limits)
        started_at = _now()
        sandbox = _spawn(plan, cgroup)
        # Written before the command gets its orders: nothing of the user's runs without a start.
        record = replace(record, started_at=started_at, init=sandbox.init)
        folder.write_record(record)
        folder.beat()
        _stop_politely_on_sigterm(sandbox)
        _run(sandbox, orders)
    except (OSError, _NotStarted) as error:
        _end_all(sandbox, cgroup)
        folder.write_record(finished(record, _now(), None, False))
        _say(error=str(error))
        return
    _say(started=True)
    _silence()
    exit_code = _watch(sandbox, folder)
    at = _now()
    oom = cgroup is not None and cgroup.oom_kills() > 0
    folder.write_record(finished(record, at, exit_code, oom))
    _end_all(sandbox, cgroup)


class _NotStarted(Exception):
    """The command never ran; the text says why."""


def _spawn(plan: Plan, cgroup: Cgroup | None) -> _Sandbox:
    """Start bwrap in the group; inside, the loader waits for its orders."""
    running_read, running_write = os.pipe()
    status_read, status_write = os.pipe()
    filter_file = _memory_file(seccomp_program())
    own_options = ["--json-status-fd", str(status_write)]
    passed = [running_write, status_write]
    if filter_file is not None:
        own_options += ["--seccomp", str(filter_file)]
        passed.append(filter_file)

    def join() -> None:
        if cgroup is not None:
            cgroup.add(os.getpid())

    process = subprocess.Popen(
        [
            *(plan.arguments[0], *own_options, *plan.arguments[1:]),
            *("-I", "-S", "-c", _LOADER, str(running_write)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        cwd="/",
        pass_fds=passed,
        preexec_fn=join,
    )
    for descriptor in passed:
        os.close(descriptor)
    assert process.stdin is not None and process.stdout is not None
    status, running = os.fdopen(status_read, "rb"), os.fdopen(running_read, "rb")
    init = _init(status.readline())
    return _Sandbox(process, init, process.stdin, process.stdout, status, running)


def _run(sandbox: _Sandbox, orders: bytes) -> None:
    """Give the loader its orders; returns once the command itself runs."""
    with contextlib.suppress(BrokenPipeError):
        sandbox.orders.write(orders)
        sandbox.orders.close()
    said = sandbox.running.read()
    sandbox.running.close()
    if said != b"+":
        sandbox.process.kill()
        reason = said[1:].decode(errors="replace") or _first_output(sandbox.output)
        raise _NotStarted(reason or "the sandbox ended before its command ran")


def _init(status_line: bytes) -> ProcessIdentity | None:
    try:
        return ProcessIdentity.of(int(json.loads(status_line)["child-pid"]))
    except (ValueError, KeyError):
        return None  # bwrap failed first and says why on its standard error


def _stop_politely_on_sigterm(sandbox: _Sandbox) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        main = _main_process(sandbox.init)
        if main is not None:
            main.send(signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)


def _main_process(init: ProcessIdentity | None) -> ProcessIdentity | None:
    """The user's command: process 2 of the sandbox. Process 1 is bwrap's, which reaps."""
    if init is None:
        return None
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = dict(
                line.split(":", 1)
                for line in (entry / "status").read_text().splitlines()
                if line.startswith(("PPid:", "NSpid:"))
            )
            if int(fields["PPid"]) == init.pid and fields["NSpid"].split()[-1] == "2":
                return ProcessIdentity.of(int(entry.name))
    return None


def _watch(sandbox: _Sandbox, folder: SandboxFolder) -> int:
    """Keep the log and beat until the sandbox ends; its exit code, 128 + N for signal N."""
    output = sandbox.output.fileno()
    os.set_blocking(output, False)
    ended = os.pidfd_open(sandbox.process.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(output, select.POLLIN)
    log = _Log(folder)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(HEARTBEAT_SECONDS * 1000)}
        if output in ready and not log.take(output):
            poll.unregister(output)
        if ended in ready:
            break
        folder.beat()
    log.take(output)
    code = sandbox.process.wait()
    return 128 - code if code < 0 else code


class _Log:
    """The output of a sandbox, in two parts of bounded size, so that no user fills the disk."""

    def __init__(self, folder: SandboxFolder) -> None:
        self._folder = folder
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def take(self, descriptor: int) -> bool:
        """Move what is there into the log; False at the end of the output."""
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return True
        # A full disk must not end the sandbox: what cannot be kept is dropped.
        with contextlib.suppress(OSError):
            os.write(self._file, data)
            self._size += len(data)
            if self._size > LOG_PART_BYTES:
                os.close(self._file)
                self._folder.log.replace(self._folder.old_log)
                self._open()
        return bool(data)


def _end_all(sandbox: _Sandbox | None, cgroup: Cgroup | None) -> None:
    if sandbox is not None and sandbox.process.poll() is None:
        sandbox.process.kill()
        sandbox.process.wait()
    if cgroup is not None:
        cgroup.kill(2.0)


def _first_output(output: IO[bytes]) -> str:
    os.set_blocking(output.fileno(), False)
    return (output.read(4096) or b"").decode(errors="replace").strip()


def _memory_file(data: bytes) -> int | None:
    if not data:
        return None
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _say(**message: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # a hub that died meanwhile; the record tells
        os.write(1, json.dumps(message).encode() + b"\n")


def _silence() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.close(null)


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Detach from the hub, so that it need not reap us, and supervise the folder named."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    os.chdir("/")
    supervise(SandboxFolder(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
