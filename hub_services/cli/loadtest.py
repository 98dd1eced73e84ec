"""``dcloud loadtest``: people who are not there, on the hub and the engine that are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console

from dcloud_spawner.errors import Conflict, Unavailable
from dcloud_spawner.platform import Platform
from hub_services.cli.deployment import Deployment
from hub_services.cli.processes import loopback
from hub_services.cli.servers import cli_actor, opened
from hub_services.cli.up import hub_answers
from hub_services.loadtest.bounds import decide, refuse_among_others
from hub_services.loadtest.figures import Figures, figures
from hub_services.loadtest.names import folder
from hub_services.loadtest.report import seconds, write
from hub_services.loadtest.run import Wanted, clean, run_load_test
from hub_services.loadtest.view import TerminalView


def run(
    console: Console,
    deployment: Deployment,
    *,
    users: int,
    minutes: float,
    seed: int,
    profiles: Sequence[str],
    report: Path | None,
    among_others: bool,
) -> bool:
    """Run a load test and write its report; whether nothing was promised and not kept."""
    _require_hub(deployment)
    with opened(deployment) as platform:
        if not among_others:
            refuse_among_others(platform)
        bounds = decide(
            platform,
            profiles,
            cores=os.cpu_count() or 1,
            available_bytes=psutil.virtual_memory().available,
        )
        for sentence in bounds.sentences:
            console.print(f"  {sentence}", highlight=False)
        wanted = Wanted(users, minutes * 60, seed, cli_actor())
        try:
            outcome = asyncio.run(
                run_load_test(
                    platform,
                    _url(deployment),
                    wanted,
                    bounds,
                    lambda text: console.print(f"  {text}", highlight=False),
                    TerminalView(console),
                )
            )
        except asyncio.CancelledError:
            raise Conflict(
                "Ended before everything was tidied up.",
                hint="`dcloud loadtest --clean` removes what is left.",
            ) from None
    found = figures(outcome)
    where = report or folder(deployment.state) / f"{outcome.began_at:%Y-%m-%d-%H%M%S}"
    page = write(found, where)
    _summary(console, found)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    return not found.used_twice and not found.left_behind


def tidy(console: Console, deployment: Deployment) -> bool:
    """Remove what killed load tests left behind; whether nothing is left."""
    _require_hub(deployment)

    async def work(platform: Platform) -> str:
        left = await clean(
            platform,
            _url(deployment),
            cli_actor(),
            lambda text: console.print(f"  {text}", highlight=False),
        )
        return left.sentence()

    with opened(deployment) as platform:
        left = asyncio.run(work(platform))
    console.print(f"[red]left:[/red] {left}" if left else "nothing is left", highlight=False)
    return not left


def _require_hub(deployment: Deployment) -> None:
    if not hub_answers(deployment):
        raise Unavailable(f"The hub does not answer at {_url(deployment)}.", hint="Run: dcloud up")


def _url(deployment: Deployment) -> str:
    settings = deployment.settings
    return f"http://{loopback(settings.host)}:{settings.port}"


def _summary(console: Console, found: Figures) -> None:
    wait, start = found.all_sizes.wait, found.all_sizes.start
    said = [
        f"{found.asked} asked, {found.served} served, {found.cancelled} left the queue, "
        f"{found.still_waiting} still waited, "
        f"{sum(count for _, _, count in found.failures)} failures"
    ]
    if wait is not None:
        said.append(f"wait: median {seconds(wait.median)}, p99 {seconds(wait.p99)}")
    if start is not None:
        said.append(f"start: median {seconds(start.median)}, p99 {seconds(start.p99)}")
    said.append(
        f"{found.leases_checked} leases and {found.containers_checked} looks at the containers: "
        + ("; ".join(found.used_twice) or "no GPU in two hands")
    )
    for text in said:
        console.print(text, highlight=False, style="red" if text and found.used_twice else "")
