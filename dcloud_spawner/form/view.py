"""The start page: what it is given, and the HTML of its form. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dcloud_spawner.datasets.choose import Shelf
from dcloud_spawner.datasets.wishes import DatasetWish
from dcloud_spawner.form.datasets import dataset_lines, dataset_part, wished_datasets
from dcloud_spawner.form.fit import figure
from dcloud_spawner.form.panels import Panel, live_panel, panel
from dcloud_spawner.form.purse import PriceWords, live_purse, payer_note, payer_words, price_words
from dcloud_spawner.form.servers import PageWords
from dcloud_spawner.live.availability import Availability
from dcloud_spawner.live.purse import OWN, Payer, Purse
from dcloud_spawner.profiles import Profile

TEMPLATES = Path(__file__).parent / "templates"
"""For ``c.JupyterHub.template_paths``."""

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class ImageStatus:
    """Whether a profile's image can be started from."""

    state: Literal["ready", "preparing", "missing", "failed"] = "ready"
    progress: float = 0.0
    """0 to 1, while it is being prepared."""
    message: str = ""


@dataclass(frozen=True)
class Offer:
    """One profile as it is shown to one user."""

    profile: Profile
    image: ImageStatus = field(default_factory=ImageStatus)
    blocked: str = ""
    """Why this user may not choose it; empty when they may."""

    @property
    def closed(self) -> str:
        """Why it cannot be chosen now; empty when it can."""
        if self.blocked or self.profile.image_pattern is not None:
            return self.blocked
        if self.image.state == "failed":
            return f"The image could not be prepared. {self.image.message}".strip()
        if self.image.state == "missing":
            return self.image.message or "The image is not on this machine yet."
        return ""

    @property
    def preparing(self) -> str:
        """A line about the image while it is being prepared; empty otherwise."""
        if self.image.state != "preparing":
            return ""
        said = f": {self.image.message}" if self.image.message else ""
        return f"The image is being prepared, {round(self.image.progress * 100)} %{said}"


@dataclass(frozen=True)
class SpawnFormView:
    """Everything the form is made of."""

    user: str
    offers: tuple[Offer, ...]
    availability: Availability
    server: str = ""
    """Name of the server the page is about; empty is the default server."""
    last_choice: Mapping[str, object] | None = None
    entered: Mapping[str, object] | None = None
    """What was just posted and refused: shown again instead of the last choice."""
    error: str = ""
    """Why it was refused. The page shows the hub's own error message; this one is used when
    the form is rendered alone."""
    error_field: str = ""
    """The field of the choice that was wrong."""
    named_servers: bool = True
    active_servers: tuple[str, ...] = ()
    """Names that are running, starting or stopping now."""
    purse: Purse | None = None
    """Who may pay, at which price, within which limits; None where nothing is charged."""
    ask_url: str = ""
    """Where one asks for more."""
    shelf: Shelf | None = None
    """Datasets that may be chosen; None where there are no datasets."""
    datasets_url: str = ""
    """The list of all."""


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_spawn_form(view: SpawnFormView) -> str:
    """The inner HTML of the form, for ``Spawner.options_form``."""
    start = _start_with(view)
    panels = tuple(
        panel(offer.profile, view.availability, _values(view, offer.profile.name), view.purse)
        for offer in view.offers
    )
    chosen = _panel_of(panels, start)
    payer = _payer(view)
    return (
        _environment()
        .get_template("spawn_form.html")
        .render(
            view=view,
            pool=view.availability,
            rows=tuple(zip(view.offers, panels, strict=True)),
            chosen=start,
            panel=chosen,
            live=live_data(view),
            words=verdict_words(view.availability),
            payer=payer,
            payers=[(each, payer_words(each), payer_note(each)) for each in _payers(view)],
            payer_of=payer_words,
            price=_price(view, chosen, payer),
            mine=mine_data(view),
            data=dataset_part(view.shelf) if view.shelf else None,
            brings=brings,
        )
    )


def brings(profile: Profile, shelf: Shelf | None) -> list[tuple[str, str, str]]:
    """What a profile brings of the datasets on the page: value, version and mode in the form."""
    brought = {wish.name.removeprefix("project:"): wish for wish in profile.datasets}
    found = []
    for offer in shelf.offers if shelf else ():
        wish = brought.get(offer.value.removeprefix("project:"))
        if wish is not None:
            mode = wish.mode if wish.mode and wish.mode != offer.mode else ""
            found.append((offer.value, f"{wish.version or ''}", mode))
    return found


def start_datasets(view: SpawnFormView) -> tuple[DatasetWish, ...]:
    """What is ticked when the page opens."""
    start = _start_with(view)
    profile = next((each.profile for each in view.offers if each.profile.name == start), None)
    return wished_datasets(view.entered, view.last_choice, profile)


def found_datasets(shelf: Shelf) -> dict[str, object]:
    """The answer to a search on the page."""
    lines = dataset_lines(shelf)
    html = render_part("dataset_lines.html", lines=lines)
    return {"html": html, "shown": len(lines), "total": shelf.total}


def mine_data(view: SpawnFormView) -> object:
    """What is one person's own on the start page, as JSON: sent by itself, so that the rest is
    the same for everybody."""
    return live_purse(view.purse, [offer.profile for offer in view.offers])


def _payers(view: SpawnFormView) -> tuple[Payer, ...]:
    return view.purse.payers if view.purse else ()


def _payer(view: SpawnFormView) -> Payer | None:
    """Who pays when the page opens."""
    if view.purse is None:
        return None
    wish = view.entered if view.entered is not None else view.last_choice or {}
    return view.purse.payer(wish.get("account", OWN))


def _price(view: SpawnFormView, chosen: Panel | None, payer: Payer | None) -> PriceWords | None:
    if view.purse is None or payer is None or chosen is None:
        return None
    hours = float(chosen.hours) if chosen.hours.isdecimal() else 0.0
    memory, cpus = float(chosen.memory.chosen), float(chosen.cpus.chosen)
    asked = int(chosen.gpus), memory, cpus, hours
    return price_words(view.purse, payer, chosen.model.models, asked, view.availability.at)


def render_part(template: str, **values: object) -> str:
    """A part of a page that is drawn alone."""
    return _environment().get_template(template).render(**values)


def live_data(view: SpawnFormView) -> dict[str, object]:
    """What changes while the page is open, as JSON; asked for again every few seconds."""
    pool = view.availability
    return {
        "at": pool.at.isoformat(),
        "pool": {
            "models": {
                found.model: {"free": found.free, "text": free_text(found.free, found.total)}
                for found in pool.models
            },
            # What is free together: GPUs by model, memory in bytes, thousandths of a core.
            "room": None
            if pool.room is None
            else [[dict(n.counts), n.memory_bytes, n.cpu_millicores] for n in pool.room],
            "memory": f"{figure(pool.memory_free_gib)} GiB free",
            "cpus": f"{figure(pool.cpus_free)} free",
            "queue": queue_text(pool.queue_length),
        },
        "words": verdict_words(pool),
        "offers": {
            offer.profile.name: {
                "closed": offer.closed,
                "preparing": offer.preparing,
                "progress": round(offer.image.progress * 100),
                **live_panel(offer.profile, pool),
            }
            for offer in view.offers
        },
    }


def verdict_words(pool: Availability) -> dict[str, dict[str, str]]:
    """Title, text and button of each verdict about the whole choice."""
    queue = pool.queue_length
    ahead = "1 request waits" if queue == 1 else f"{queue} requests wait"
    return {
        "now": {
            "title": "Starts now",
            "text": f"{ahead}. Yours starts at once if it does not delay them."
            if queue
            else "What you choose is yours alone until the server stops.",
            "button": "Start server",
        },
        "waits": {
            # Behind others the place depends on the size of what is asked for.
            "title": "Joins the queue" if queue else "Joins the queue at place 1",
            "text": f"{ahead}. Yours starts by itself in its turn."
            if queue
            else "It starts by itself when they are free.",
            "button": "Join the queue",
        },
        "mine": {
            "title": "Waits for your own servers",
            "text": "It starts by itself when they give enough back.",
            "button": "Join the queue",
        },
        "image": {
            "title": "The image is being prepared",
            "text": "You can start as soon as it is ready. This page says when.",
            "button": "Start server",
        },
        "no": {"title": "Not possible", "text": "", "button": "Start server"},
        "short": {"title": "Not enough credits", "text": "", "button": "Start server"},
        "aside": {
            "title": "Waits for credits",
            "text": "It starts by itself when one of them ends or more is given.",
            "button": "Join the queue",
        },
    }


def free_text(free: int, total: int) -> str:
    """``3 of 8 free``."""
    return f"{free} of {total} free"


def queue_text(length: int) -> str:
    """The queue in words."""
    return "empty" if length == 0 else f"{length} waiting"


def template_vars(
    *, simulated: bool, isolation_note: str = "", approvals: bool = False
) -> dict[str, object]:
    """Variables of every page, for ``c.JupyterHub.template_vars``.

    ``simulated``: the GPUs are; ``isolation_note``: a sentence about a weaker engine;
    ``approvals``: sign-ups are approved on a page of ours.
    """
    return {
        "dcloud_simulated": simulated,
        "dcloud_isolation_note": isolation_note,
        "dcloud_approvals": approvals,
        "dcloud": PageWords(),
    }


def _start_with(view: SpawnFormView) -> str:
    """The profile that is chosen when the page opens."""
    open_ones = [offer.profile.name for offer in view.offers if not offer.closed]
    for wish in (view.entered, view.last_choice):
        if wish and wish.get("profile") in open_ones:
            return str(wish["profile"])
    ready = [
        offer.profile.name
        for offer in view.offers
        if not offer.closed and offer.image.state == "ready"
    ]
    return next(iter(ready or open_ones), "")


def _values(view: SpawnFormView, profile: str) -> Mapping[str, object]:
    for wish in (view.entered, view.last_choice):
        if wish and wish.get("profile") == profile:
            return wish
    return {}


def _panel_of(panels: tuple[Panel, ...], name: str) -> Panel | None:
    return next((found for found in panels if found.name == name), None)
