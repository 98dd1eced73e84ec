"""What one person may spend and use: who may pay for them, at which rates, within which limits.

Values only; :mod:`dcloud_spawner.live.ledger` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from dcloud_spawner.ledger.rates import GIB, MILLI, RateBook, Resource
from dcloud_spawner.store.accounts import Budget

OWN = ""
"""Name of one's own account in a choice."""

ANY_MODEL = ""
"""Value of a choice that names no GPU model."""

FAR = timedelta(days=366)
"""What lasts longer is not reckoned: nobody needs the day."""


@dataclass(frozen=True)
class Payer:
    """One account that may pay. Amounts in micro-credits."""

    name: str
    """As a choice names it."""
    title: str
    budget: Budget
    balance_microcredits: int
    available_microcredits: int
    """Without what admissions have set aside."""
    burn_microcredits: Fraction = Fraction(0)
    """What runs on it now costs so much an hour."""

    @property
    def shown(self) -> bool:
        """Whether its balance says anything: without a budget and any credits it does not."""
        return self.budget is not Budget.NONE or self.balance_microcredits > 0

    def lasts(self, price: Fraction) -> timedelta | None:
        """How long it lasts when something of this price an hour runs besides; None when it
        does not end, or not within :data:`FAR`."""
        burn = self.burn_microcredits + price
        if self.budget is Budget.NONE or burn <= 0:
            return None
        hours = Fraction(max(self.balance_microcredits, 0)) / burn
        if hours > FAR // timedelta(hours=1):
            return None
        return timedelta(hours=float(hours))


@dataclass(frozen=True)
class Bound:
    """A limit on one field of a choice."""

    most: float
    used: Mapping[str, float] = field(default_factory=dict)
    """By the name of one's own server: what it has of this. Empty where each server has its own
    limit."""

    @property
    def left(self) -> float:
        """What may be asked for now."""
        return self.most - sum(self.used.values())


@dataclass(frozen=True)
class Rolling:
    """GPU-hours in a window that rolls along."""

    most: float
    used: float
    words: str
    """The beginning of a sentence about it."""

    @property
    def left(self) -> float:
        """So many hours may be asked for."""
        return self.most - self.used


@dataclass(frozen=True)
class Rates:
    """Micro-credits an hour, for one tier at one time."""

    gpu: Mapping[str, int]
    """By model; the empty name is for what is not known."""
    cpu_core: int = 0
    memory_gib: int = 0

    def price(
        self, models: Sequence[str], gpus: int, memory_bytes: int, cpu_millicores: int
    ) -> tuple[Fraction, Fraction]:
        """An hour of a choice that may get any one of these models: the least and the most."""
        rest = Fraction(self.cpu_core * cpu_millicores, MILLI)
        rest += Fraction(self.memory_gib * memory_bytes, GIB)
        each = [self.gpu.get(model, self.gpu[""]) * gpus for model in models or ("",)]
        return min(each) + rest, max(each) + rest


def rates_of(book: RateBook, models: Iterable[str], tier: str, at: datetime) -> Rates:
    """What a tier pays at a time."""
    return Rates(
        {model: book.of(Resource.GPU, model, tier, at) for model in ("", *models)},
        book.of(Resource.CPU_CORE, "", tier, at),
        book.of(Resource.MEMORY_GIB, "", tier, at),
    )


@dataclass(frozen=True)
class Purse:
    """Everything of one person that the start page needs besides the pool."""

    payers: tuple[Payer, ...]
    """Their own first."""
    rates: Rates
    hold_seconds: int | None = 3600
    """For so long the price is set aside at admission; None: for the whole time asked for."""
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    """By field of a choice: gpus, memory_gib, cpus, hours. What is not in it has no limit."""
    closed_models: Mapping[str, str] = field(default_factory=dict)
    """GPU models that are not for them, each with the reason."""
    rolling: tuple[Rolling, ...] = ()
    refused: str = ""
    """Why nothing can be asked for now; empty when something can."""

    def payer(self, name: object) -> Payer:
        """The one of this name, or their own."""
        return next((found for found in self.payers if found.name == name), self.payers[0])
