"""The hub's side of a sandbox's start: the conversation with its supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import dcloud_spawner
from dcloud_spawner.engines.sandbox_records import SandboxFolder
from dcloud_spawner.errors import EngineError, LaunchFailed


def start_supervisor(
    folder: SandboxFolder,
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_seconds: float,
) -> None:
    """Start a detached supervisor for a folder with a plan; returns once the command runs.

    Raises LaunchFailed with the reason when it cannot run, EngineError when nothing is said in
    time. The caller removes what may be left.
    """
    deadline = time.monotonic() + timeout_seconds
    package_root = Path(dcloud_spawner.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "dcloud_spawner.engines.sandbox_supervisor", str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Not the hub's environment: that has secrets, and this process lives in everybody's ps.
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        cwd=package_root,
        start_new_session=True,
        bufsize=0,
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin as orders, process.stdout as answers:
        process.wait()  # only the first half: it forks and ends at once
        _answer(answers.fileno(), deadline)
        message = {"command": list(command), "environment": dict(environment)}
        with contextlib.suppress(BrokenPipeError):
            orders.write(json.dumps(message).encode() + b"\n")
        _answer(answers.fileno(), deadline)


def _answer(descriptor: int, deadline: float) -> None:
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise EngineError("the sandbox's supervisor did not answer in time")
        data = os.read(descriptor, 65536)
        if not data:
            raise EngineError("the sandbox's supervisor ended without an answer")
        line += data
    message = json.loads(line)
    if "error" in message:
        raise LaunchFailed(f"The sandbox cannot run: {message['error']}")
