"""A load test on the terminal while it runs: people, pool, pulse of the hub, last failures."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hub_services.loadtest.figures import PULSE, spread
from hub_services.loadtest.journal import Doing, Journal
from hub_services.loadtest.person import Shared
from hub_services.loadtest.run import Outcome, Viewing

REFRESH_SECONDS = 0.5
LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""
RECENT_SECONDS = 10.0
BAR = 40


class TerminalView(Viewing):
    """Redraws in place on a terminal; elsewhere writes a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, outcome: Outcome, shared: Shared) -> None:
        """Until the run closes."""
        if not self._console.is_terminal:
            while await shared.pause(LINE_SECONDS):
                self._console.print(line(outcome), highlight=False)
            return
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                live.update(picture(outcome), refresh=True)
                if not await shared.pause(REFRESH_SECONDS):
                    return


def line(outcome: Outcome) -> str:
    """The state of things in one line."""
    journal = outcome.journal
    counts = journal.counts()
    said = [f"{journal.now():4.0f} s", f"{counts[Doing.WAITING]} wait"]
    said += [f"{counts[Doing.WORKING]} work", f"{journal.served} served"]
    if journal.pool:
        said.append(f"{journal.pool[-1].gpus_used} of {journal.pool[-1].gpus} GPUs")
    said.append(f"hub {_pulse(journal)}")
    said.append(f"{len(journal.failures)} failures")
    return ", ".join(said)


def picture(outcome: Outcome) -> RenderableType:
    """The whole view."""
    journal, wanted = outcome.journal, outcome.wanted
    time = Table.grid(padding=(0, 2))
    time.add_row(
        Text("time", style="dim"),
        _bar(wanted.seconds, journal.now()),
        f"{journal.now():.0f} of {wanted.seconds:.0f} s   Ctrl-C ends it and tidies up",
    )
    parts: list[RenderableType] = [time, Text(), _people(journal, wanted.users), Text()]
    parts.append(_platform(journal))
    if journal.used_twice:
        parts.append(Text("A GPU is in two hands: " + journal.used_twice[-1], style="bold red"))
    for failure in journal.failures[-3:]:
        parts.append(Text(f"{failure.step}: {failure.reason}", style="yellow", no_wrap=True))
    return Group(*parts)


def _bar(total: float, completed: float) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=completed,
        width=BAR,
        complete_style="cyan",
        finished_style="cyan",
    )


def _people(journal: Journal, users: int) -> Table:
    counts = journal.counts()
    table = Table.grid(padding=(0, 2))
    for doing in Doing:
        if doing is not Doing.GONE:
            table.add_row(
                Text(doing.value, style="dim"),
                _bar(users, counts[doing]),
                str(counts[doing]),
            )
    return table


def _platform(journal: Journal) -> Table:
    table = Table.grid(padding=(0, 2))
    if journal.pool:
        last = journal.pool[-1]
        table.add_row(
            Text("GPUs in use", style="dim"),
            _bar(last.gpus, last.gpus_used),
            f"{last.gpus_used} of {last.gpus}, {last.queued} in the queue",
        )
    table.add_row(Text("hub", style="dim"), _pulse(journal), "")
    table.add_row(
        Text("so far", style="dim"),
        f"{journal.asked} asked, {journal.served} served, {journal.cancelled} left the queue, "
        f"{len(journal.failures)} failures",
        "",
    )
    return table


def _pulse(journal: Journal) -> str:
    since = journal.now() - RECENT_SECONDS
    recent = []
    for call in reversed(journal.calls):
        if call.at < since:
            break
        if call.kind in PULSE:
            recent.append(call.seconds)
    found = spread(recent)
    if found is None:
        return "no answer yet"
    return f"p50 {found.median * 1000:.0f} ms, p95 {found.p95 * 1000:.0f} ms"
