"""Keeps the ends that budgets set: when the servers of an account have to stop, who goes on last in
line, and one line in the action log for each warning.

A turn looks at the store only; the loop of the limits stops what is past its end. Credits that
come in time move the end away at the next turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.budget_funds import Funds, read_funds
from dcloud_spawner.budget_gate import place_in_line
from dcloud_spawner.budgets import Level
from dcloud_spawner.granting import give_due_grants
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import budgets, events, workloads
from dcloud_spawner.store.accounts import Budget
from dcloud_spawner.store.events import Actor, Line

ACTOR = Actor("budget")

NEAR = timedelta(days=2)
"""An end that is further away is not written: it will be another one by then."""

SAME = timedelta(seconds=2)
"""Ends that differ by less are the same: not every turn has to write."""


class BudgetKeeper:
    """One for the controller; it remembers which warnings it has logged."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._logged: dict[str, Level | None] = {}

    def turn(self) -> None:
        """Write what has changed. Blocks."""
        # What is due must not come a tick after the end; what expires is in the runway already.
        give_due_grants(self._platform, expire=False)
        now = utc_now()
        database = self._platform.database
        with database.reading() as connection:
            ends, lines = self._look(connection, now)
            waits = any(
                found.budget is Budget.SOFT for found in budgets.accounts_of_queue(connection)
            )
            if not (ends or lines or waits):
                return
        with database.transaction() as connection:
            ends, lines = self._look(connection, now)
            for workload, end in ends:
                workloads.set_values(connection, workload, budget_ends_at=end)
            payers = budgets.accounts_of_queue(connection)
            place_in_line(connection, payers, self._platform.hold_rule, now)
            if lines:
                events.note_all(connection, lines, at=now)
        self._logged.update({line.target: _level(line.detail["level"]) for line in lines})

    def _look(
        self, connection: Connection, now: datetime
    ) -> tuple[list[tuple[str, datetime | None]], list[Line]]:
        """Ends to write, and lines."""
        funds = read_funds(connection, now)
        known = {found.account.id for found in funds}
        ends = [change for found in funds for change in _ends(found, now)]
        ends += [(workload, None) for workload in budgets.with_end(connection, known)]
        lines = [line for found in funds if (line := self._line(connection, found)) is not None]
        for account, level in self._logged.items():
            if account not in known and level is not None:
                lines.append(Line(ACTOR, "budget.well", account, detail={"level": None}))
        return ends, lines

    def _line(self, connection: Connection, found: Funds) -> Line | None:
        """What is new about one account."""
        account, level = found.account, found.runway.level
        if account.id not in self._logged:
            self._logged[account.id] = _level(budgets.last_warning(connection, account.id))
        if level == self._logged[account.id]:
            return None
        if level is None:
            return Line(ACTOR, "budget.well", account.id, detail={"level": None})
        ends_at = found.runway.ends_at
        detail = {
            "level": level.value,
            "account": account.name,
            "left_microcredits": found.runway.left_microcredits,
            "ends_at": ends_at.isoformat() if ends_at else None,
        }
        return Line(ACTOR, "budget.warning", account.id, detail=detail)


def _level(value: object) -> Level | None:
    return Level(value) if isinstance(value, str) and value in set(Level) else None


def _ends(found: Funds, now: datetime) -> Sequence[tuple[str, datetime | None]]:
    """Of a hard budget: the end that all its servers share which use credits."""
    end = found.runway.ends_at if found.account.budget is Budget.HARD else None
    if found.account.budget is Budget.HARD and found.runway.left_microcredits <= 0:
        end = now
    if end is not None and end - now > NEAR:
        end = None
    changes = []
    for session in found.sessions:
        due, written = end if session.costs else None, session.metered.budget_ends_at
        if _differ(due, written, now):
            changes.append((session.metered.workload, due))
    return changes


def _differ(due: datetime | None, written: datetime | None, now: datetime) -> bool:
    if due is None or written is None:
        return due is not written
    if due <= now and written <= now:
        return False  # it is over, and that is written
    return abs(due - written) > SAME
