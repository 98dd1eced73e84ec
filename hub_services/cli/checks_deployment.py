"""The doctor's checks of one deployment: its files, database, profiles, ports and programs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from dcloud_spawner.engines.select import select_engine
from dcloud_spawner.errors import DCloudError
from dcloud_spawner.profiles import load_profiles
from dcloud_spawner.store import events
from hub_services.cli import ports, storage
from hub_services.cli.deployment import Deployment
from hub_services.cli.doctor import Finding, attention, broken, ok
from hub_services.cli.node import proxy_installed
from hub_services.cli.processes import long_running
from hub_services.cli.secrets import NAMES
from hub_services.cli.stored import database_exists, reading
from hub_services.cli.supervision import Supervisor
from hub_services.cli.up import hub_answers

UP = "dcloud up"


def check_state(deployment: Deployment) -> Iterator[Finding]:
    """Owner and mode of the state folder and of every secret."""
    if not deployment.state.exists():
        yield attention("state", f"{deployment.state} is not there yet", UP)
        return
    folders = (deployment.state, deployment.settings.secrets_dir, deployment.run_dir)
    wrong = [folder for folder in folders if folder.exists() and _mode(folder) & 0o077]
    if wrong:
        command = f"chmod 700 {' '.join(map(str, wrong))}"
        yield broken("state", "others may look into the state folder", command)
    elif deployment.state.stat().st_uid != os.getuid():
        yield attention("state", f"{deployment.state} belongs to another user", "run as its owner")
    else:
        yield ok("state", f"{deployment.state}, for its owner only")


def check_secrets(deployment: Deployment) -> Iterator[Finding]:
    """Every secret exists, holds something, and is closed to others."""
    folder = deployment.settings.secrets_dir
    if not folder.exists():
        return
    absent = [name for name in NAMES if not (folder / name).exists()]
    opened = [path for path in sorted(folder.iterdir()) if path.is_file() and _mode(path) & 0o077]
    if absent:
        yield broken("secrets", f"missing: {', '.join(absent)}", UP)
    if opened:
        command = f"chmod 600 {' '.join(map(str, opened))}"
        yield broken("secrets", "others may read secrets", command)
    if not absent and not opened:
        yield ok("secrets", f"{len(NAMES)} files, for their owner only")


def check_proxy(deployment: Deployment) -> Iterator[Finding]:
    """The locked proxy is installed."""
    if proxy_installed(deployment.cache):
        yield ok("proxy", "configurable-http-proxy is installed")
    else:
        yield attention("proxy", "configurable-http-proxy is not installed yet", UP)


def check_database(deployment: Deployment) -> Iterator[Finding]:
    """The database answers and its action log is unbroken."""
    settings = deployment.settings
    if not database_exists(settings):
        yield attention("database", "not made yet", UP)
        return
    try:
        with reading(settings) as connection:
            wrong = list(events.verify(connection))
    except SQLAlchemyError as error:
        # Only the driver's own words: the URL may hold a password.
        seen = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()[0]
        yield broken("database", seen, "start it, or mend database_url")
        return
    yield ok("database", "PostgreSQL" if settings.database_url.startswith("p") else "SQLite")
    if wrong:
        seen = f"{len(wrong)} rows are not as they were written; first: {wrong[0]}"
        yield broken("action log", seen, "somebody changed the database: compare with a backup")
    else:
        yield ok("action log", "unbroken")


def check_storage(deployment: Deployment) -> Iterator[Finding]:
    """The storage of datasets answers, takes our keys, and what it can and cannot."""
    if not deployment.settings.secrets_dir.exists():
        return
    seen = storage.look(deployment.settings)
    if seen.problem:
        yield broken("storage", seen.words, seen.mend)
        return
    yield ok("storage", seen.words)
    for remark, mend in storage.remarks(deployment.settings, seen):
        yield attention("storage", remark, mend)


def check_profiles(deployment: Deployment) -> Iterator[Finding]:
    """Every profile file is valid, and its image is there."""
    settings = deployment.settings
    try:
        found = load_profiles(settings.profiles_dir)
    except DCloudError as error:
        yield broken("profiles", str(error), f"edit {settings.profiles_dir}")
        return
    yield ok("profiles", ", ".join(found))
    try:
        engine = select_engine(settings)
        absent = sorted({p.image for p in found.values() if not engine.has_image(p.image)})
    except DCloudError:
        return  # the engine's own check says it
    if absent:
        mend = f"{UP}; progress in {settings.logs_dir / 'images.log'}"
        yield attention("images", f"not there yet: {', '.join(absent)}", mend)
    else:
        yield ok("images", "all there")


def check_programs(deployment: Deployment) -> Iterator[Finding]:
    """Hub, proxy, controller and web run; when they do not, their ports are free."""
    states = Supervisor(deployment).programs()
    if not states:
        for use in ports.ports_of(deployment.settings):
            if ports.is_free(use.host, use.port):
                yield ok("ports", f"{use.port} is free ({use.purpose})")
            else:
                seen = f"{use.port} ({use.purpose}) is taken by {ports.holder(use.port)}"
                mend = f"end that, or {use.setting}={use.port + 1000} {UP}"
                yield broken("ports", seen, mend)
        yield attention("programs", "nothing runs", UP)
        return
    names = long_running(deployment.settings)
    down = [name for name in names if name not in states or not states[name].running]
    for name in down:
        seen = f"{name} is {states[name].state.lower() if name in states else 'unknown'}"
        yield broken("programs", seen, f"tail {deployment.settings.logs_dir / name}.log; {UP}")
    if not down:
        yield ok("programs", f"{', '.join(names)} run")
    if hub_answers(deployment):
        yield ok("address", f"{deployment.settings.bind_url} answers")
    else:
        yield broken("address", f"{deployment.settings.bind_url} does not answer", "dcloud restart")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
