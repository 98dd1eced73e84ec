"""The resources of one profile: its choices, which one is chosen, and what each would mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dcloud_spawner.form.fit import NOT_TOGETHER, TURN, Fit, fit_amount, fit_gpus, reason
from dcloud_spawner.form.purse import UNITS, hours_most, limited, limits_hint, own_fits
from dcloud_spawner.live.availability import GIB, Availability, ModelAvailability
from dcloud_spawner.live.outlook import Wish
from dcloud_spawner.live.purse import Purse
from dcloud_spawner.profiles import AmountChoices, Profile

ANY = ""
"""Value of the choice "whichever is free first"; posted empty, it is no field at all."""


@dataclass(frozen=True)
class ModelOption:
    """One line of the list of GPU models."""

    value: str
    label: str
    text: str
    fits: Mapping[str, Fit]
    """By the number of GPUs, as text."""
    hint: str
    models: tuple[str, ...] = ()
    """Any of which it may be."""
    closed: str = ""
    """Why this person may not choose it; empty when they may."""


@dataclass(frozen=True)
class Amounts:
    """Memory or cores: what may be chosen, what is, and what each would mean."""

    chosen: str
    fits: Mapping[str, Fit]
    hint: str
    limits: str = ""
    """Why this person may not have some of them."""


@dataclass(frozen=True)
class Panel:
    """The resources of one profile, ready to be drawn."""

    name: str
    title: str
    gpus: str
    model: ModelOption
    models: tuple[ModelOption, ...]
    limits: str
    """Why this person may not have so many GPUs."""
    memory: Amounts
    cpus: Amounts
    hours: str
    hours_most: int
    image: str
    """What the user named; empty means the profile's own."""
    together: bool = True
    """Whether what is chosen is free on one node, and not only each for itself."""

    @property
    def _chosen(self) -> tuple[tuple[str, Fit, str], ...]:
        return (
            (self.gpus, self.model.fits[self.gpus], "GPUs"),
            (self.memory.chosen, self.memory.fits[self.memory.chosen], "GiB"),
            (self.cpus.chosen, self.cpus.fits[self.cpus.chosen], "cores"),
        )

    @property
    def state(self) -> str:
        """The worst of what the chosen values mean."""
        states = [fit.state for _, fit, _ in self._chosen]
        alone = next((state for state in ("no", "mine", "waits") if state in states), "now")
        return "waits" if alone == "now" and not self.together else alone

    @property
    def reasons(self) -> str:
        """Why it is not now."""
        said = " ".join(
            reason({amount: fit}, unit)
            for amount, fit, unit in self._chosen
            if fit.state == self.state and fit.why
        )
        return said or (NOT_TOGETHER if self.state == "waits" else "")


def panel(
    profile: Profile, pool: Availability, values: Mapping[str, object], purse: Purse | None = None
) -> Panel:
    """One profile's resources with these values chosen where they are offered, and with what
    the limits of the person leave of them."""
    options = model_options(profile, pool)
    models = tuple(_for(option, purse) for option in options)
    wanted = str(values.get("gpu_model") or "")
    model = _wanted_model(wanted, models)
    gpus = _key(values.get("gpus"), model.fits, f"{profile.gpus.default}")
    hours, most = values.get("hours"), hours_most(profile, purse)
    drawn = Panel(
        name=profile.name,
        title=profile.title,
        gpus=_possible(gpus, model.fits),
        model=model,
        models=models,
        limits=limits_hint(_asked(options[models.index(model)].fits, "gpus", purse), "gpus"),
        memory=_amounts(
            profile.memory_gib,
            values.get("memory_gib"),
            memory_fits(profile, pool),
            "memory_gib",
            purse,
        ),
        cpus=_amounts(profile.cpus, values.get("cpus"), cpu_fits(profile, pool), "cpus", purse),
        hours=f"{hours if isinstance(hours, int | str) else min(profile.hours.default, most)}",
        hours_most=most,
        image=str(values.get("image") or ""),
    )
    wish = Wish(
        int(drawn.gpus),
        drawn.model.value or None,
        int(float(drawn.memory.chosen) * GIB),
        round(float(drawn.cpus.chosen) * 1000),
        profile.hours.default * 3600,
    )
    return replace(drawn, together=pool.room is None or any(n.holds(wish) for n in pool.room))


def _for(option: ModelOption, purse: Purse | None) -> ModelOption:
    """A model as this person may have it."""
    closed = purse.closed_models.get(option.value, "") if purse and option.models else ""
    mine = limited(option.fits, "gpus", purse)
    return replace(option, fits=mine, hint=_hint(option.fits, "gpus", purse), closed=closed)


def _hint(fits: Mapping[str, Fit], field: str, purse: Purse | None) -> str:
    """What the pool has against some values; what a person's limits have against others is said
    beside it."""
    own = _asked(fits, field, purse)
    return reason({value: fit for value, fit in fits.items() if value not in own}, UNITS[field])


def _asked(fits: Mapping[str, Fit], field: str, purse: Purse | None) -> dict[str, Fit]:
    """What a person's limits have against values that a node could hold; for others a higher
    limit would not help."""
    return own_fits([value for value, fit in fits.items() if fit.state != "no"], field, purse)


def _wanted_model(wanted: str, models: tuple[ModelOption, ...]) -> ModelOption:
    possible = [found for found in models if not found.closed] or list(models)
    return next((found for found in possible if found.value == wanted), possible[0])


def live_panel(profile: Profile, pool: Availability) -> dict[str, object]:
    """What the choices of a profile mean now, as JSON."""
    memory, cpus = memory_fits(profile, pool), cpu_fits(profile, pool)
    return {
        "models": {
            option.value: {
                "label": option.label,
                "text": option.text,
                "fits": _plain(option.fits, "GPUs"),
                "hint": option.hint,
                "of": option.models,
            }
            for option in model_options(profile, pool)
        },
        "memory_gib": {"fits": _plain(memory, "GiB"), "hint": reason(memory, "GiB")},
        "cpus": {"fits": _plain(cpus, "cores"), "hint": reason(cpus, "cores")},
        # What the expected starts are reckoned with: another choice has another place.
        "usual": {
            "memory_gib": profile.memory_gib.default,
            "cpus": profile.cpus.default,
            "hours": profile.hours.default,
        },
    }


def model_options(profile: Profile, pool: Availability) -> tuple[ModelOption, ...]:
    """The GPU models to choose from, never empty.

    Where the profile names its models, one of them has to be chosen; else "any" comes first.
    """
    if profile.gpu_models:
        offered = [found for found in pool.models if found.model in profile.gpu_models]
    else:
        offered = list(pool.models)
    options = [_option(profile, pool, found.model, found.label, [found]) for found in offered]
    if len(offered) == 1:
        # A list of one is no choice: the request then names no model, as any other would do.
        only = options[0]
        value = only.value if profile.gpu_models else ANY
        return (replace(only, value=value),)
    if not profile.gpu_models or not offered:
        label = "Whichever is free first" if offered else "none here"
        options.insert(0, _option(profile, pool, ANY, label, offered))
    return tuple(options)


def _option(
    profile: Profile,
    pool: Availability,
    value: str,
    label: str,
    candidates: list[ModelAvailability],
) -> ModelOption:
    fits = {
        f"{count}": _with_range(fit_gpus(count, candidates), profile, pool, count, value)
        for count in profile.gpus.choices
    }
    free = sum(found.free for found in candidates)
    total = sum(found.total for found in candidates)
    text = f"{label}: {free} of {total} free" if candidates else label
    models = tuple(found.model for found in candidates)
    return ModelOption(value, label, text, fits, reason(fits, "GPUs"), models)


def _with_range(fit: Fit, profile: Profile, pool: Availability, gpus: int, model: str) -> Fit:
    """With the expected start of so many GPUs beside the profile's usual memory and cores. What
    fits waits all the same where it would delay somebody."""
    if fit.state == "no":
        return fit
    wish = Wish(
        gpus,
        model or None,
        int(profile.memory_gib.default * GIB),
        round(profile.cpus.default * 1000),
        profile.hours.default * 3600,
    )
    if fit.state == "now":
        if pool.room is None or not any(n.holds(wish) for n in pool.room) or pool.starts_now(wish):
            return fit
        fit = TURN
    return replace(fit, expected=pool.expected(wish))


def memory_fits(profile: Profile, pool: Availability) -> dict[str, Fit]:
    """What each choice of memory means now."""
    return {
        f"{wanted:g}": fit_amount(wanted, pool.memory_free_gib, pool.memory_total_gib)
        for wanted in profile.memory_gib.choices
    }


def cpu_fits(profile: Profile, pool: Availability) -> dict[str, Fit]:
    """What each choice of cores means now."""
    return {
        f"{wanted:g}": fit_amount(wanted, pool.cpus_free, pool.cpus_total)
        for wanted in profile.cpus.choices
    }


def _amounts(
    offered: AmountChoices,
    value: object,
    fits: Mapping[str, Fit],
    field: str,
    purse: Purse | None,
) -> Amounts:
    mine = limited(fits, field, purse)
    chosen = _key(value, fits, f"{offered.default:g}")
    limits = limits_hint(_asked(fits, field, purse), field)
    return Amounts(_possible(chosen, mine), mine, _hint(fits, field, purse), limits)


def _key(value: object, fits: Mapping[str, Fit], default: str) -> str:
    key = f"{value:g}" if isinstance(value, int | float) else str(value)
    return key if key in fits else default


def _possible(chosen: str, fits: Mapping[str, Fit]) -> str:
    """The chosen one, or, where that can never be, the largest that can."""
    if fits[chosen].state != "no":
        return chosen
    possible = [key for key, fit in fits.items() if fit.state != "no"]
    return max(possible, key=float) if possible else chosen


def _plain(fits: Mapping[str, Fit], unit: str) -> dict[str, dict[str, str]]:
    return {key: _plain_fit(key, fit, unit) for key, fit in fits.items()}


def _plain_fit(key: str, fit: Fit, unit: str) -> dict[str, str]:
    plain = {"state": fit.state, "mark": fit.mark, "reason": reason({key: fit}, unit)}
    if fit.why:
        plain["why"] = fit.why
    if fit.expected is not None:
        plain["from"] = fit.expected.earliest.isoformat()
        plain["to"] = fit.expected.latest.isoformat()
    return plain
