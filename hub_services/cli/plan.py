"""``dcloud plan``: what if there were other hardware, or other rules?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from dcloud_spawner.errors import ConfigurationError, Conflict
from dcloud_spawner.platform import utc_now
from hub_services.cli.deployment import Deployment
from hub_services.cli.servers import opened
from hub_services.cli.stored import database_exists
from hub_services.planning.hardware import Hardware, typed_pool
from hub_services.planning.history import read_hardware_now, read_history
from hub_services.planning.question import Question, worlds
from hub_services.planning.trace import read_trace
from hub_services.planning.whatif import Comparison, History, compare
from hub_services.planning.words import rows


def run(
    console: Console,
    deployment: Deployment,
    question: Question,
    *,
    trace: Path | None,
    trace_days: float | None,
    pool: str,
    as_json: bool,
) -> None:
    """Answer a question from the lab's history, or from a trace file; prints the answer."""
    if not database_exists(deployment.settings):
        raise Conflict("This deployment has never run.", hint="Run: dcloud up")
    with opened(deployment) as platform:
        now = utc_now()
        hardware: Hardware = typed_pool(pool) if pool else read_hardware_now(platform, now)
        today, changed, said = worlds(question, hardware, platform.policy)
        if trace is not None:
            history = _read(trace, trace_days)
        else:
            history = read_history(platform, question.days, now)
    with _bar(console, quiet=as_json) as bar:
        task = bar.add_task(f"replaying {history.counted} requests twice", total=1.0)
        found = compare(history, today, changed, lambda done: bar.update(task, completed=done))
    notes = (*said, *found.notes)
    if as_json:
        click.echo(json.dumps({**asdict(found), "notes": notes}, indent=1))
    else:
        show(console, found, notes)


def _read(path: Path, days: float | None) -> History:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return read_trace(lines, days)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _bar(console: Console, *, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet)


def show(console: Console, found: Comparison, notes: tuple[str, ...]) -> None:
    """Print the answer as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    really = found.really is not None
    for name in (*(["as it was"] if really else []), "today", found.changed.name, "difference"):
        table.add_column(name, justify="right")
    for row in rows(found):
        cells = (row.name, *([row.really] if really else []), row.today, row.changed)
        table.add_row(*cells, row.difference)
    console.print(
        f"{found.requests} requests of {found.days:.1f} days, replayed through the policy that "
        "decides here",
        highlight=False,
    )
    console.print(table)
    for note in notes:
        console.print(f"- {note}", highlight=False)
