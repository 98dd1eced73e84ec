"""Step 2 of a pass: limits of people and budgets, each a gate that a start has to pass.

The gates are asked along the plan, head first, for only then it is known what was let in before:
two requests that each fit a limit may not fit it together. Whom a gate refuses is marked as
blocked, with a code and a reason, and passed over: nothing is kept free for it and nobody waits
behind it. Each pass asks again about everybody who is blocked.

Every gate refuses the more the more it has let in; so what it refuses now it would refuse later
in the same pass, too. And it refuses whoever asks for more when it refuses whoever asks for less,
of the same user, account, GPU model and tier: so one question is enough to leave many blocked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from dcloud_spawner.scheduler.snapshot import Request
from dcloud_spawner.store import queue
from dcloud_spawner.store.queue import Waiting

RENEWED = 500
"""Requests that are blocked, the oldest first, whose reason a pass renews: another server of their
user may be in the way meanwhile. Others are told again when something of theirs may start."""

MANY = 1000
"""Users; rows of more are read by reading those of all."""

LONGEST_CODE = 32
"""Characters of a code."""


@dataclass(frozen=True, slots=True)
class Block:
    """Why a request that would fit may not start now."""

    code: str
    """For programs: ``limit:gpus``, ``budget``."""
    reason: str
    """For its owner: what is in the way, and what to do."""


class Gate(Protocol):
    """One kind of verdict, made anew for each pass from its transaction and its time."""

    def blocks(self, row: Waiting) -> Block | None:
        """What is against its start beside all that holds something and all that was let in."""

    def let_in(self, row: Waiting) -> None:
        """It starts now, and counts from here on."""


GateMaker = Callable[[Connection, datetime], Gate]
"""Makes a gate of a pass, from its connection and its time."""


class Verdicts:
    """All gates in one walk along the queue; a ``plan.Door``."""

    def __init__(self, gates: Sequence[Gate], rows: Iterable[Waiting] = ()) -> None:
        self._gates = gates
        self._rows: Mapping[str, Waiting] = {row.id: row for row in rows}
        self.refused: dict[str, Block] = {}
        """Who was refused, by id."""
        self.most_of_a_class = 0
        """The most that were refused of those who ask for the same."""
        self._classes: Counter[tuple[object, ...]] = Counter()

    def block(self, row: Waiting) -> Block | None:
        """The first thing that is against its start."""
        return next((found for gate in self._gates if (found := gate.blocks(row))), None)

    def refuses(self, request: Request) -> bool:
        """Whether a gate refuses it; then it is noted."""
        row = self._rows[request.id]
        found = self.block(row)
        if found is None:
            return False
        self.refused[row.id] = found
        self._classes[row.kind] += 1
        self.most_of_a_class = max(self.most_of_a_class, self._classes[row.kind])
        return True

    def let_in(self, request: Request) -> None:
        """Tell all gates."""
        for gate in self._gates:
            gate.let_in(self._rows[request.id])


def gates_of(makers: Sequence[GateMaker], connection: Connection, now: datetime) -> list[Gate]:
    """The gates of one walk."""
    return [make(connection, now) for make in makers]


def look_again(connection: Connection, gates: Sequence[Gate]) -> None:
    """Let those wait again in whose way nothing is any more, and renew what the first of the
    others are told."""
    verdicts = Verdicts(gates)
    least = queue.least_of_blocked(connection)
    users = {row.user for row in least if verdicts.block(row) is None}
    some = queue.blocked(connection, first=RENEWED) if least else []
    if users:
        some += queue.blocked(connection, users=users if len(users) < MANY else None)
    changed = []
    for row, code, reason in {found.row.id: found for found in some}.values():
        found = verdicts.block(row) or Block("", "")
        if (found.code, found.reason) != (code, reason):
            changed.append((row.id, found.code, found.reason))
    queue.block(connection, changed)


def look_at(
    connection: Connection, makers: Sequence[GateMaker], identifier: str, now: datetime
) -> bool:
    """Say at once to somebody who has just begun to wait what is against their start; returns
    whether something is."""
    if not makers:
        return False
    found = Verdicts(gates_of(makers, connection, now)).block(queue.find(connection, identifier))
    if found is not None:
        queue.block(connection, [(identifier, found.code, found.reason)])
    return found is not None


def write(
    connection: Connection, verdicts: Verdicts, started: Sequence[Request], head: str
) -> None:
    """Mark as blocked who was refused, and what else those wait for who start now and may have
    no more beside it; but not the ``head``, for which a pass has kept something."""
    refused = dict(verdicts.refused)
    begun = {request.id for request in started}
    if started:
        for row in queue.of_users(connection, {request.user for request in started}):
            if row.id not in begun and row.id not in refused and row.id != head:
                found = verdicts.block(row)
                if found is not None:
                    refused[row.id] = found
    queue.block(connection, [(row, found.code, found.reason) for row, found in refused.items()])
