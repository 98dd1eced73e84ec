"""Whether the account that pays can pay: asked before a request is taken and before it starts, and
what is set aside when it does.

A start sets aside what its first hour costs (or all of the time asked for, by setting). It may
start when that is there beside what others have set aside. All of it happens in the transaction
of the pass, so of two starts against a budget for one exactly one passes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.budgets import HOUR_SECONDS, credits_words, hold_microcredits
from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.ledger.rates import RateBook
from dcloud_spawner.scheduler.verdicts import Block
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import accounts, budgets, meters, queue, rates
from dcloud_spawner.store.accounts import USER, Account, Budget
from dcloud_spawner.store.queue import Waiting
from dcloud_spawner.store.workloads import NewWorkload, Workload

CODE = "budget"
"""Of a refusal, of a block, and of an end."""

CLOSED_DO = "Leave the queue, and choose another account."

ASK = "Ask for more on the page Requests, or choose another account."


@dataclass(frozen=True)
class HoldRule:
    """How long a start sets its price aside."""

    seconds: int | None = HOUR_SECONDS
    """None: for the whole time asked for."""

    def time(self, limit_seconds: int) -> int:
        """Seconds of a request."""
        return limit_seconds if self.seconds is None else min(self.seconds, limit_seconds)

    @property
    def words(self) -> str:
        """As a sentence names it."""
        return "its whole time" if self.seconds is None else "the first hour"


def rule_of(settings: Settings) -> HoldRule:
    """The rule of a deployment."""
    return HoldRule(None if settings.budget_hold == "asked" else HOUR_SECONDS)


@dataclass(frozen=True)
class Prices:
    """What requests cost at one time."""

    book: RateBook
    models: Collection[str]
    """GPU models of the pool: who does not care may get the dearest."""
    rule: HoldRule
    at: datetime

    def hold(self, row: Waiting | NewWorkload) -> int:
        """What a request sets aside at most, in micro-credits."""
        models = (row.gpu_model,) if row.gpu_model else tuple(self.models) or ("",)
        return max(
            hold_microcredits(
                self.book,
                {model: row.gpus} if row.gpus else {},
                row.cpu_millicores,
                row.memory_bytes,
                row.tier,
                self.rule.time(row.limit_seconds),
                self.at,
            )
            for model in models
        )


def prices(connection: Connection, rule: HoldRule, at: datetime) -> Prices:
    """Read what things cost."""
    return Prices(rates.read_book(connection), budgets.gpu_models(connection), rule, at)


class BudgetGate:
    """The gate of a pass: a hard budget lets in what it can pay for, a closed account nothing."""

    def __init__(self, connection: Connection, at: datetime, rule: HoldRule) -> None:
        self._accounts: Mapping[str, Account] = {
            found.id: found
            for found in budgets.accounts_of_queue(connection)
            if found.budget is Budget.HARD or found.closed_at is not None
        }
        self._left: dict[str, int] = {}
        self._held: Mapping[str, int] = {}
        if self._accounts:
            self._prices = prices(connection, rule, at)
            self._held = accounts.held_microcredits(connection, self._accounts.keys())
            self._left = {
                key: found.balance_microcredits - self._held.get(key, 0)
                for key, found in self._accounts.items()
            }

    def blocks(self, row: Waiting) -> Block | None:
        """Why its account cannot pay for it now."""
        account = self._accounts.get(row.account or "")
        if account is None:
            return None
        if account.closed_at is not None:
            return Block(CODE, f"{_name(account)} is closed. {CLOSED_DO}")
        hold, left = self._prices.hold(row), self._left[account.id]
        if hold <= 0 or left >= hold:
            return None
        aside = account.balance_microcredits > left and account.balance_microcredits >= hold
        return Block(CODE, short_words(account, left, hold, self._prices.rule, aside=aside))

    def let_in(self, row: Waiting) -> None:
        """It sets its part aside."""
        if row.account in self._left:
            self._left[row.account] -= self._prices.hold(row)


def refuse_unpayable(
    connection: Connection, account: Account, new: NewWorkload, rule: HoldRule, now: datetime
) -> None:
    """Raise NotAllowed when a hard budget could not pay for this even if nothing else ran."""
    if account.budget is not Budget.HARD:
        return
    hold = prices(connection, rule, now).hold(new)
    if hold > 0 and account.balance_microcredits < hold:
        words = short_words(account, account.balance_microcredits, hold, rule, aside=False)
        raise NotAllowed(f"account: {words}", hint=ASK, code=CODE, field="account")


def place_in_line(
    connection: Connection, payers: Collection[Account], rule: HoldRule, now: datetime
) -> int:
    """Put those last in line for whom a soft budget cannot pay now, and take those back for whom
    it can; returns how many changed places."""
    soft = {found.id: found for found in payers if found.budget is Budget.SOFT}
    waiting = queue.of_accounts(connection, soft) if soft else []
    if not waiting:
        return 0
    held, price = accounts.held_microcredits(connection, soft), prices(connection, rule, now)
    changed = 0
    for row in sorted(waiting, key=lambda row: row.sequence):
        left = soft[row.account or ""].balance_microcredits - held.get(row.account or "", 0)
        hold = price.hold(row)
        last = hold > 0 and left < hold
        if last != row.last:
            queue.put_last(connection, row.id, last=last)
            changed += 1
    return changed


def set_aside(
    connection: Connection, admitted: Collection[str], rule: HoldRule, now: datetime
) -> None:
    """Write what those who were just admitted set aside, by the GPUs that they really got. What
    was set aside is free again, charged or not, once their meter is settled."""
    if not admitted:
        return
    book = rates.read_book(connection)
    for found in budgets.admitted(connection, admitted):
        hold = hold_microcredits(
            book,
            found.gpu_models,
            found.cpu_millicores,
            found.memory_bytes,
            found.tier,
            rule.time(found.limit_seconds),
            now,
        )
        meters.set_values(connection, found.workload, held_microcredits=hold)


def set_more_aside(
    connection: Connection,
    workload: Workload,
    memory_bytes: int,
    cpu_millicores: int,
    rule: HoldRule,
    now: datetime,
) -> None:
    """What a running server costs more that grows to these limits is set aside too. Raises
    NotAllowed when a hard budget has not that much."""
    meter = meters.find(connection, workload.id)
    if meter is None or meter.settled_at is not None:
        return
    more = hold_microcredits(
        rates.read_book(connection),
        {},
        cpu_millicores - workload.cpu_millicores,
        memory_bytes - workload.memory_bytes,
        workload.tier,
        rule.time(workload.limit_seconds),
        now,
    )
    if more <= 0:
        return
    account = accounts.get(connection, meter.account)
    left = accounts.available_microcredits(connection, account)
    if account.budget is Budget.HARD and left < more:
        words = f"{_name(account)} has {credits_words(left)} left"
        raise NotAllowed(
            f"account: {words}, and {credits_words(more)} more would be set aside.",
            hint=ASK,
            code=CODE,
            field="account",
        )
    # What was charged so far has used up as much of what was set aside.
    held = max(meter.held_microcredits, meter.charged_microcredits) + more
    meters.set_values(connection, workload.id, held_microcredits=held)


def short_words(account: Account, left: int, hold: int, rule: HoldRule, *, aside: bool) -> str:
    """Why an account cannot pay; ``aside``: because of what others have set aside."""
    beside = " beside what its running servers have set aside" if aside else ""
    then = " Ask for more, or wait until one of them ends." if aside else " Ask for more."
    costs = credits_words(hold).removesuffix(" credits")
    has = f"{_name(account)} has {credits_words(left)} left{beside}"
    return f"{has}, {rule.words} costs {costs}.{then}"


def _name(account: Account) -> str:
    return "Your account" if account.kind == USER else account.shown_name
