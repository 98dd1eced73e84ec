"""The gate of a pass that keeps everybody within their own limits."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.limit_check import beside, gpu_hours, never
from dcloud_spawner.limits import Standing, standing_of
from dcloud_spawner.scheduler.verdicts import Block
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import limits as rows
from dcloud_spawner.store import people
from dcloud_spawner.store.limits import HeldBy, Override, Part
from dcloud_spawner.store.people import Person
from dcloud_spawner.store.queue import Waiting
from dcloud_spawner.store.schema import State

SEVERAL = 50
"""Of more people it is quicker to read everybody."""


class LimitGate:
    """Reads what it needs when it is first asked for it, and then no more in the same pass."""

    def __init__(self, connection: Connection, at: datetime, settings: Settings) -> None:
        self._connection, self._at, self._settings = connection, at, settings
        self._standings: dict[str, Standing] = {}
        self._overrides: dict[str, list[Override]] | None = None
        self._people: dict[str, Person] | None = None
        self._parts: dict[str, list[Part]] | None = None
        self._let_in: dict[str, list[HeldBy]] = defaultdict(list)
        self._models: frozenset[str] | None = None

    def blocks(self, row: Waiting) -> Block | None:
        """What of its user's limits is in the way."""
        found = self._standing(row.user)
        if found.free:
            return None
        limits, held = found.limits, [*self._held_by(row.user), *self._let_in.get(row.user, ())]
        models = self._known_models() if limits.gpu_models is not None else frozenset()
        against = never(limits, row, models) or beside(limits, row, held)
        if against is None and (limits.gpu_hours_week, limits.gpu_hours_month) != (None, None):
            timed = [*rows.held(self._connection, row.user), *self._let_in.get(row.user, ())]
            against = gpu_hours(self._connection, found, row, timed, self._at, running=True)
        if against is None:
            return None
        return Block(against.code, f"{against.words} {against.do}. Ask for more.")

    def let_in(self, row: Waiting) -> None:
        """It holds from now on."""
        self._let_in[row.user].append(
            HeldBy(
                row.user,
                row.server_name,
                row.gpus,
                row.memory_bytes,
                row.cpu_millicores,
                row.limit_seconds,
                State.ADMITTED.value,
                self._at,
                None,
                row.id,
            )
        )

    def _standing(self, user: str) -> Standing:
        found = self._standings.get(user)
        if found is None:
            if self._overrides is None:
                self._overrides = defaultdict(list)
                for row in rows.active_overrides(self._connection, self._at):
                    self._overrides[row.user].append(row)
            mine = self._overrides.get(user, [])
            found = standing_of(self._settings, user, self._person(user), mine)
            self._standings[user] = found
        return found

    def _person(self, user: str) -> Person | None:
        if self._people is None and len(self._standings) < SEVERAL:
            return people.find(self._connection, user)
        if self._people is None:
            self._people = {row.user: row for row in people.everybody(self._connection)}
        return self._people.get(user)

    def _held_by(self, user: str) -> list[Part]:
        if self._parts is None:
            self._parts = defaultdict(list)
            for row in rows.parts(self._connection):
                self._parts[row.user].append(row)
        return self._parts.get(user, [])

    def _known_models(self) -> frozenset[str]:
        if self._models is None:
            self._models = rows.gpu_models(self._connection)
        return self._models
