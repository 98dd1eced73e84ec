"""``dcloud ledger verify``: recomputes the whole ledger and says what differs."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dcloud_spawner.errors import Conflict
from dcloud_spawner.ledger_verify import verify
from dcloud_spawner.store import ledger_rows
from hub_services.cli.deployment import Deployment
from hub_services.cli.stored import database_exists, reading

BAR_AFTER_SECONDS = 1.0


def verify_ledger(console: Console, deployment: Deployment) -> bool:
    """Print one sentence for each difference; True when there is none.

    Reads one consistent state of the database, while everything goes on.
    """
    if not database_exists(deployment.settings):
        raise Conflict("This deployment has never run.", hint="Run: dcloud up")
    found = 0
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    began = time.monotonic()
    with reading(deployment.settings) as connection:
        entries, sessions = ledger_rows.count(connection)
        # A session is looked at with all its entries: each of them is seen twice.
        task = bar.add_task("verifying", total=2 * entries + sessions)

        def seen(rows: int) -> None:
            bar.update(task, advance=rows)
            if not bar.live.is_started and time.monotonic() - began > BAR_AFTER_SECONDS:
                bar.start()

        try:
            for sentence in verify(connection, seen):
                found += 1
                console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        finally:
            bar.stop()
    counted = f"{entries:,} entries and {sessions:,} sessions"
    if found:
        differences = "1 difference" if found == 1 else f"{found:,} differences"
        console.print(f"[red]{differences}[/red] in {counted}.", highlight=False)
    else:
        console.print(f"The ledger is right: {counted} were recomputed.", highlight=False)
    return not found
