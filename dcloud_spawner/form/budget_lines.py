"""Warnings about budgets in words: a line on every page, a notice in JupyterLab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from dcloud_spawner.budgets import Level
from dcloud_spawner.form.words import left_figure
from dcloud_spawner.live.warnings import BudgetWarning, nearest_first
from dcloud_spawner.store.accounts import Budget

AT = "{at}"
"""Stands in a text for its time, which a page shows as its reader's clock does."""

STOPPED = "Its servers are stopped then; files in homes stay."
LAST_IN_LINE = "go on until somebody else needs their GPUs"


@dataclass(frozen=True)
class BudgetLine:
    """One warning."""

    key: str
    """The same as long as it is the same warning."""
    before: str
    at: datetime | None
    """A time that stands between ``before`` and ``after``."""
    after: str
    ask: str
    """Address where more credits are asked for."""
    urgent: bool

    @property
    def text(self) -> str:
        """The whole, with :data:`AT` for the time."""
        return f"{self.before}{AT if self.at else ''}{self.after}"


def budget_lines(warnings: Sequence[BudgetWarning], root: str) -> tuple[BudgetLine, ...]:
    """What a page of somebody says, the nearest end first; ``root`` is ``/`` or what the public
    address has behind the host."""
    return tuple(budget_line(found, root) for found in nearest_first(warnings))


def budget_line(found: BudgetWarning, root: str) -> BudgetLine:
    """One warning in words."""
    before, _, after = _text(found).partition(AT)
    asked = {"what": "credits", **({"account": found.account} if found.project else {})}
    return BudgetLine(
        key=f"budget:{found.account}:{found.level.value}",
        before=before,
        at=found.ends_at if AT in _text(found) else None,
        after=after,
        ask=f"{root}services/dcloud/requests?{urlencode(asked)}",
        urgent=found.level in (Level.NOW, Level.OUT),
    )


def _text(found: BudgetWarning) -> str:
    name = found.title if found.project else "Your account"
    if found.level is Level.OUT:
        return f"{name} has no credits left. {_out(found)}"
    left = f"{name} has {left_figure(found.left_microcredits)}"
    if found.level is Level.FEW:
        pace = f", enough until {AT} as it is used now" if found.ends_at else ""
        return f"{left} of {left_figure(found.granted_microcredits)} credits left{pace}."
    then = STOPPED if found.budget is Budget.HARD else f"Then its servers {LAST_IN_LINE}."
    return f"{left} credits left, enough until {AT}. {then}"


def _out(found: BudgetWarning) -> str:
    if found.budget is Budget.HARD:
        return (
            "Its servers are being stopped; files in homes stay."
            if found.runs
            else "It can start nothing that costs credits."
        )
    return (
        f"Its servers {LAST_IN_LINE}." if found.runs else "What it pays for waits behind everybody."
    )
