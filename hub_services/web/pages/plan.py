"""The page of what-if: what there is now, and the answer to one question."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.form.words import listed
from dcloud_spawner.live.availability import model_words
from hub_services.charts import Bar, bar_chart
from hub_services.planning.constants import TIER, names
from hub_services.planning.whatif import Comparison
from hub_services.planning.words import Row, duration, rows
from hub_services.web.board import Board
from hub_services.web.pages.handlers import PageHandler
from hub_services.web.service import Service
from hub_services.web.viewer import Viewer


@dataclass(frozen=True)
class Constant:
    """One constant of the order, as the form asks for it."""

    name: str
    label: str
    value: float


@dataclass(frozen=True)
class PlanPage:
    """Everything around the answer."""

    viewer: Viewer
    have: str
    """What there is, in a sentence."""
    constants: tuple[Constant, ...]
    tab: str = "What if"
    news: str = ""


@dataclass(frozen=True)
class PlanAnswer:
    """One answer as it is shown."""

    found: Comparison
    rows: tuple[Row, ...]
    chart: Markup
    notes: tuple[str, ...]
    command: str


def plan_page(board: Board, viewer: Viewer, service: Service) -> PlanPage:
    """The page; only administrators see it."""
    models = Counter(model_words(row.model) for row in board.state.accelerators.values())
    gpus = listed([f"{count} × {model}" for model, count in sorted(models.items())])
    nodes = len(board.nodes)
    where = f"{nodes} node{'' if nodes == 1 else 's'}"
    return PlanPage(
        viewer=viewer,
        have=f"Today: {gpus or 'no GPU'} on {where}.",
        constants=tuple(
            Constant(name, _label(name), value)
            for name, value in names(service.platform.policy).items()
        ),
    )


def _label(name: str) -> str:
    known = {
        "slack_cap_hours": "Slack at most, h",
        "slack_bend_hours": "Full slack up to, h",
        "slack_doubling_hours": "Then for each doubling, h",
        "slack_gpus": "GPUs per hour of slack",
        "fair_cap_hours": "Fair part at most, h",
    }
    if name.startswith(TIER):
        return f"Factor of {name.removeprefix(TIER)}"
    return known.get(name) or name.replace("_", " ")


def answer_view(found: Comparison, notes: tuple[str, ...], command: str) -> PlanAnswer:
    """Put an answer into words and a chart."""
    groups = [
        (
            name,
            [
                Bar("today", before, duration(before)),
                Bar("changed", after, duration(after), main=True),
            ],
        )
        for name, before, after in (
            ("mean", found.today.wait.mean, found.changed.wait.mean),
            ("9 of 10", found.today.wait.p90, found.changed.wait.p90),
            ("longest", found.today.wait.largest, found.changed.wait.largest),
        )
    ]
    # Ours: every word in it is escaped there.
    chart = Markup(bar_chart("Waits today and changed", groups))
    return PlanAnswer(found, tuple(rows(found)), chart, notes, command)


class ShowAnswer(PageHandler):
    """The part of the page that shows one answer."""

    def get(self, identifier: str) -> None:
        """Drawn once it is there; until then there is nothing to draw."""
        assert self.viewer is not None
        if not self.viewer.administrator:
            raise NotAllowed("Only administrators see this page.")
        replay = self.service.planner.find(identifier)
        if replay.answer is None:
            self.set_status(204)
            return
        shown = answer_view(replay.answer, replay.notes, replay.question.command)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(self.render_template("plan_answer.html", q=shown))
