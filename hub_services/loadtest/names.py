"""Names of simulated people, and the note of each run that lets a later command tidy up.

A run writes its note before it makes its first user and takes it away after its last one is
gone. So whatever kills it, ``dcloud loadtest --clean`` knows whose things are simulated: only
names of a noted run, never one that merely looks like it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

PREFIX = "loadtest-"
MOST_USERS = 1000

_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{6}}-[0-9]{{3}}( \(deleted, [0-9a-f]{{8}}\))?")


def is_simulated(user: str) -> bool:
    """Whether a name has the shape that only a load test gives, or had before its user was deleted;
    history leaves such people out."""
    return _NAME.fullmatch(user) is not None


@dataclass(frozen=True)
class Run:
    """One load test: its identifier, six hexadecimal digits, and how many people it has."""

    id: str
    users: int

    @property
    def names(self) -> Sequence[str]:
        """The user names of its people."""
        return [f"{PREFIX}{self.id}-{number:03d}" for number in range(self.users)]


def folder(state: Path) -> Path:
    """Where runs are noted and reports are written by default."""
    return state / "loadtest"


def note_run(state: Path, users: int, at: datetime) -> Run:
    """Begin a run: choose its identifier and write it down."""
    run = Run(secrets.token_hex(3), users)
    where = folder(state)
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {"id": run.id, "users": users, "started_at": at.isoformat()}
    _path(state, run).write_text(json.dumps(body))
    return run


def noted_runs(state: Path) -> Sequence[Run]:
    """Runs that have not been tidied up, also those of a killed command."""
    found = []
    for path in sorted(folder(state).glob("run-*.json")):
        match = re.fullmatch(r"run-([0-9a-f]{6})\.json", path.name)
        if match:
            found.append(Run(match[1], _users(path)))
    return found


def _users(path: Path) -> int:
    """How many people a noted run had; a note that was only half written counts as the most."""
    try:
        return min(MOST_USERS, int(json.loads(path.read_text())["users"]))
    except (ValueError, KeyError, TypeError):
        return MOST_USERS


def forget_run(state: Path, run: Run) -> None:
    """Everything of the run is gone."""
    _path(state, run).unlink(missing_ok=True)


def _path(state: Path, run: Run) -> Path:
    return folder(state) / f"run-{run.id}.json"
