"""``dcloud down`` and ``restart``: end or renew the programs, by default not users' servers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console

from dcloud_spawner import lifecycle
from dcloud_spawner.errors import ConfigurationError, EngineError
from dcloud_spawner.mounts.keeper import Keeper
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import workloads
from hub_services.cli.deployment import Deployment
from hub_services.cli.processes import listed, long_running
from hub_services.cli.servers import cli_actor
from hub_services.cli.stored import database_exists, running_servers
from hub_services.cli.supervision import Supervisor
from hub_services.cli.up import wait_until_ready

KEPT = ("proxy", "storage", "gate")
"""Restarted by name only: servers are reached and uploads are under way through them."""


def down(console: Console, deployment: Deployment, *, servers: bool) -> None:
    """Stop the programs; with ``servers`` then every user's server too."""
    # The programs first: while the hub runs it would start the next one in the queue.
    names = listed(deployment.settings)
    with console.status(f"stopping {names}"):
        stopped = Supervisor(deployment).stop()
    if servers:
        _stop_servers(console, deployment)
    console.print(f"stopped {names}" if stopped else "nothing was running")
    left = running_servers(deployment.settings)
    if left and not servers:
        console.print(
            f"{len(left)} users' servers keep running and are there after the next `dcloud up`: "
            f"{', '.join(each.server for each in left)}\n"
            "`dcloud down --servers` stops them too.",
            highlight=False,
        )


def restart(console: Console, deployment: Deployment, names: Sequence[str]) -> None:
    """Restart some programs, all but the proxy when none is named."""
    supervisor = Supervisor(deployment)
    if not supervisor.pid():
        raise ConfigurationError("Nothing runs here. Run: dcloud up")
    known = long_running(deployment.settings)
    wanted = list(names) or [each for each in known if each not in KEPT]
    unknown = sorted(set(wanted) - set(known) - {"images"})
    if unknown:
        raise ConfigurationError(f"No program {unknown[0]}; there are {', '.join(known)}.")
    supervisor.restart(wanted)
    if set(wanted) & set(known):
        wait_until_ready(console, deployment, supervisor)
    console.print(f"restarted {', '.join(wanted)}; users' servers keep running", highlight=False)


def _stop_servers(console: Console, deployment: Deployment) -> None:
    """End every workload, waiting ones too, each confirmed by the engine."""
    if not database_exists(deployment.settings):
        return
    platform = Platform(deployment.settings)
    try:
        with platform.database.reading() as connection:
            left = list(workloads.open_workloads(connection))
        for each in reversed(left):  # the queue from its end, so that nothing moves up
            with console.status(f"stopping {each.server}"):
                try:
                    lifecycle.stop(platform, each.id, "platform stopped", cli_actor())
                except EngineError as error:
                    console.print(f"[red]{each.server} could not be stopped:[/red] {error}")
                    continue
            console.print(f"stopped {each.server}", highlight=False)
        if os.geteuid() == 0:
            # The process that unmounts is down already: one turn without waiting for anything.
            keeper = Keeper(platform)
            keeper.turn()
            keeper.close()
    finally:
        platform.close()
