"""The templates, and drawings that are kept: most rows are the same for everybody who looks."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache, lru_cache
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dcloud_spawner.form.view import TEMPLATES as HUB_TEMPLATES
from dcloud_spawner.form.words import credits_figure, size_words
from hub_services.preview.markdown import first_words
from hub_services.web.api.wire_types import credits_text
from hub_services.web.pages.figures import balance_figure, gpu_hours, kwh, percent, signed, when

TEMPLATES = Path(__file__).parents[1] / "templates"

KEPT = 8192
"""Drawings of rows."""


@cache
def environment() -> Environment:
    """Our templates, and the parts of the hub's that both have: the bar, icons, times."""
    made = Environment(
        loader=ChoiceLoader([FileSystemLoader(TEMPLATES), FileSystemLoader(HUB_TEMPLATES)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["drawn"] = drawn
    made.filters.update(
        credits=credits_figure,
        exact=credits_text,
        balance=balance_figure,
        signed=signed,
        when=when,
        gpu_hours=gpu_hours,
        kwh=kwh,
        percent=percent,
        size=size_words,
        first_words=first_words,
    )
    return made


@lru_cache(KEPT)
def drawn(template: str, row: Hashable, *more: Hashable) -> Markup:
    """A part that depends on nothing but ``row`` and ``more``; in templates ``drawn(...)``."""
    return Markup(environment().get_template(template).render(row=row, more=more))
