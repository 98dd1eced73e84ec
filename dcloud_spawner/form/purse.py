"""Prices, payers and limits on the start page: the words of the server, the data of the script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from dcloud_spawner.form.fit import Fit, figure, reason
from dcloud_spawner.form.words import credits_figure, left_figure, listed
from dcloud_spawner.live.purse import OWN, Bound, Payer, Purse
from dcloud_spawner.profiles import Profile
from dcloud_spawner.store.accounts import Budget

UNITS = {"gpus": "GPUs", "memory_gib": "GiB", "cpus": "cores", "hours": "hours"}
"""Noun of each field that may have a limit."""


@dataclass(frozen=True)
class PriceWords:
    """The price of the choice with which the page opens."""

    an_hour: str
    parts: str
    total: str
    left: str
    """``412.60 → 391.80``, or why there is no such figure."""
    until: datetime | None
    short: str
    """Why it cannot be paid; empty when it can."""
    aside: str
    """Why it cannot be paid before something else ends."""


def price_words(
    purse: Purse,
    payer: Payer,
    models: tuple[str, ...],
    asked: tuple[int, float, float, float],
    at: datetime,
) -> PriceWords:
    """Words for GPUs, GiB, cores and hours of a choice that may get any one of these models."""
    gpus, memory_gib, cpus, hours = asked
    low, high = purse.rates.price(models, gpus, int(memory_gib * 2**30), round(cpus * 1000))
    rest = purse.rates.price((), 0, int(memory_gib * 2**30), round(cpus * 1000))[0]
    total = high * Fraction(hours)
    lasts = payer.lasts(high)
    short, aside = short_words(purse, payer, high, hours)
    return PriceWords(
        an_hour=_range(low, high),
        parts=f"GPUs {_range(low - rest, high - rest)}, memory and cores {credits_figure(rest)}"
        if gpus and rest
        else "",
        total=credits_figure(total),
        left=left_words(payer, total),
        until=at + lasts if lasts else None,
        short=short,
        aside=aside,
    )


def _range(low: Fraction, high: Fraction) -> str:
    one, two = credits_figure(low), credits_figure(high)
    return one if one == two else f"{one}–{two}"


def left_words(payer: Payer, total: Fraction) -> str:
    """What is left before and after."""
    if payer.budget is Budget.NONE:
        return "only counted"
    before = payer.available_microcredits
    after = before - total
    if payer.budget is Budget.HARD:  # then it is stopped
        after = max(after, Fraction(min(before, 0)))
    return f"{left_figure(before)} → {left_figure(after)}"


def needed(purse: Purse, price: Fraction, hours: float) -> Fraction:
    """What is set aside at admission, in micro-credits."""
    seconds = hours * 3600 if purse.hold_seconds is None else purse.hold_seconds
    return price * Fraction(seconds) / 3600


def short_words(purse: Purse, payer: Payer, price: Fraction, hours: float) -> tuple[str, str]:
    """Why this account cannot pay, and why it cannot pay now; empty when it can. It would be
    refused for the first, and would wait for the second."""
    set_aside = needed(purse, price, hours)
    if payer.budget is not Budget.HARD or payer.available_microcredits >= set_aside:
        return "", ""
    aside = payer.balance_microcredits >= set_aside
    beside = " beside what its running servers have set aside" if aside else ""
    said = (
        f"{payer_words(payer)} has {left_figure(payer.available_microcredits)} credits left"
        f"{beside}, {hold_words(purse)} costs {credits_figure(set_aside)}."
    )
    return ("", said) if aside else (said, "")


def hold_words(purse: Purse) -> str:
    """For which time something is set aside."""
    return "its whole time" if purse.hold_seconds is None else "the first hour"


def payer_words(payer: Payer) -> str:
    """As a sentence begins with it."""
    return "Your account" if payer.name == OWN else payer.title


def payer_note(payer: Payer) -> str:
    """What stands beside it in the list."""
    if payer.budget is Budget.NONE:
        return "only counted"
    return f"{left_figure(payer.available_microcredits)} credits"


def balance_words(payers: Iterable[Payer]) -> dict[str, str] | None:
    """What the bar shows: one's own account, or else the project with most; None where no
    balance says anything."""
    shown = [payer for payer in payers if payer.shown]
    if not shown:
        return None
    found = max(shown, key=lambda payer: (payer.name == OWN, payer.balance_microcredits))
    of = "Balance" if found.name == OWN else f"Balance of {found.title}"
    return {"of": of, "figure": left_figure(found.balance_microcredits, 1)}


# ---------------------------------------------------------------------------- limits


def limited(fits: Mapping[str, Fit], field: str, purse: Purse | None) -> dict[str, Fit]:
    """The choices with what this person's limits make of them."""
    mine = own_fits(fits, field, purse)
    return {
        value: mine.get(value, fit) if fit.state != "no" else fit for value, fit in fits.items()
    }


def own_fits(values: Iterable[str], field: str, purse: Purse | None) -> dict[str, Fit]:
    """Those values of a field that this person may not have, or not now."""
    if purse is None:
        return {}
    bound = purse.bounds.get(field)
    if bound is None:
        return {}
    return {value: fit for value in values if (fit := _beyond(bound, value)) is not None}


def _beyond(bound: Bound, value: str) -> Fit | None:
    wanted = float(value)
    if wanted > bound.most:
        why = f"your limit is {figure(bound.most)}"
        return Fit("no", why, why)
    if wanted > 0 and wanted > bound.left:
        return Fit("mine", "in use", f"{used_words(bound)} of your {figure(bound.most)}")
    return None


def used_words(bound: Bound) -> str:
    """``“train” uses 2 and your default server uses 1``."""
    return listed(
        [
            f"{f'“{name}”' if name else 'your default server'} uses {amount:g}"
            for name, amount in sorted(bound.used.items())
            if amount
        ]
    )


def limits_hint(fits: Mapping[str, Fit], field: str) -> str:
    """Why these values are not to be had, for under the choice."""
    return reason(fits, UNITS[field])


def hours_most(profile: Profile, purse: Purse | None) -> int:
    """The longest time that may be asked for."""
    bound = purse.bounds.get("hours") if purse else None
    return max(1, min(profile.hours.most, int(bound.most))) if bound else profile.hours.most


# ---------------------------------------------------------------------------- for the script


def live_purse(purse: Purse | None, profiles: Iterable[Profile]) -> object:
    """The personal part of the start page as JSON. Amounts are texts, as numbers of a script
    are not exact beyond 2**53."""
    if purse is None:
        return None
    rates = purse.rates
    return {
        "rates": {
            "gpu": {model: str(rate) for model, rate in rates.gpu.items()},
            "cpu_core": str(rates.cpu_core),
            "memory_gib": str(rates.memory_gib),
        },
        "hold_seconds": purse.hold_seconds,
        "hold_words": hold_words(purse),
        "payers": [
            {
                "name": payer.name,
                "title": payer_words(payer),
                "budget": payer.budget.value,
                "note": payer_note(payer),
                "balance": str(payer.balance_microcredits),
                "available": str(payer.available_microcredits),
                "burn": str(int(payer.burn_microcredits)),
            }
            for payer in purse.payers
        ],
        "limits": {profile.name: _live_limits(profile, purse) for profile in profiles},
        "models": dict(purse.closed_models),
        "rolling": [{"left": each.left, "words": each.words} for each in purse.rolling],
        "refused": purse.refused,
    }


def _live_limits(profile: Profile, purse: Purse) -> dict[str, object]:
    offered = {
        "gpus": [str(count) for count in profile.gpus.choices],
        "memory_gib": [f"{amount:g}" for amount in profile.memory_gib.choices],
        "cpus": [f"{amount:g}" for amount in profile.cpus.choices],
    }
    found: dict[str, object] = {"hours": hours_most(profile, purse)}
    for field, values in offered.items():
        fits = own_fits(values, field, purse)
        found[field] = {
            "fits": {
                value: {
                    "state": fit.state,
                    "mark": fit.mark,
                    "reason": reason({value: fit}, UNITS[field]),
                }
                for value, fit in fits.items()
            },
            "hint": limits_hint(fits, field),
        }
    return found
