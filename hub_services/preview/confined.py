"""What the reader of Parquet files sees of this machine, where bubblewrap works: the interpreter,
the system's libraries and its own two modules, read-only, and nothing else."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dcloud_spawner.engines.sandbox_command import python_folders

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""Where ``hub_services`` is."""

_SYSTEM = ("usr", "lib", "lib32", "lib64", "libx32")
_SETTINGS = ("/etc/ld.so.cache", "/etc/localtime")
_OWN = ("hub_services/__init__.py", "hub_services/preview")
_TRIED = "import hub_services.preview.parquet_worker, pyarrow.parquet"


@functools.cache
def confined() -> Sequence[str]:
    """What a command begins with, so that it sees no more; empty where that does not work. Tried
    out once; blocks for a moment then."""
    command = _command()
    if not command:
        return ()
    try:
        subprocess.run(
            [*command, sys.executable, "-c", _TRIED],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", b"") or b""
        log.warning(
            "Parquet files are read without bubblewrap: %s %s", error, why.decode().strip()[-300:]
        )
        return ()
    return command


def environment() -> dict[str, str]:
    """Of whatever is run so."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        # The default one reserves more address space than the limit leaves.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
    }


def _command() -> tuple[str, ...]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return ()
    arguments = [bwrap, "--die-with-parent", "--new-session"]
    arguments += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    if os.geteuid() != 0:
        arguments += ["--unshare-user", "--cap-drop", "ALL"]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for file in _SETTINGS:
        arguments += ["--ro-bind-try", file, file]
    for source, target in python_folders():
        arguments += _bind(source, target)
    for part in _OWN:
        arguments += _bind(str(ROOT / part), str(ROOT / part))
    return (*arguments, "--remount-ro", "/", "--chdir", "/", "--")


def _bind(source: str, target: str) -> list[str]:
    # By itself bwrap makes the folders above for root's eyes only.
    above = [str(folder) for folder in reversed(Path(target).parents)]
    return [word for folder in above[1:] for word in ("--dir", folder)] + [
        "--ro-bind",
        source,
        target,
    ]
