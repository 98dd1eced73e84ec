"""Commands on one server or home: stop, cancel, resize, homes, purge-home."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from dcloud_spawner import lifecycle, resizing, user_homes
from dcloud_spawner.errors import Conflict, EngineError, NotFound
from dcloud_spawner.form.words import size_words
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import homes, workloads
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload
from hub_services.cli.deployment import Deployment

GIB = 2**30


def cli_actor() -> Actor:
    """The person at this shell, as the action log names them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        name = f"uid {os.getuid()}"
    return Actor(name, "command line")


@contextmanager
def opened(deployment: Deployment) -> Iterator[Platform]:
    """A platform of this process, closed afterwards."""
    platform = Platform(deployment.settings)
    try:
        yield platform
    finally:
        platform.close()


def find(platform: Platform, server: str) -> Workload:
    """The open workload of ``USER`` or ``USER/SERVER``; raises NotFound."""
    user, _, name = server.partition("/")
    with platform.database.reading() as connection:
        found = workloads.find_open(connection, user, name)
        others = [each.server for each in workloads.open_workloads(connection)]
    if found is None:
        raise NotFound(
            f"{server} neither runs nor waits.",
            hint=f"There are: {', '.join(others)}." if others else "Nothing runs or waits.",
        )
    return found


def stop(console: Console, deployment: Deployment, server: str) -> None:
    """Stop a server, or take it from the queue; returns when its GPUs are free again."""
    with opened(deployment) as platform:
        workload = find(platform, server)
        with console.status(f"stopping {server}"):
            lifecycle.stop(platform, workload.id, "stopped by an administrator", cli_actor())
    console.print(f"stopped {server}", highlight=False)


def cancel(console: Console, deployment: Deployment, server: str) -> None:
    """Take a waiting request from the queue; raises Conflict when it already started."""
    with opened(deployment) as platform:
        workload = find(platform, server)
        if workload.state is not State.QUEUED:
            raise Conflict(
                f"{server} does not wait, it is {workload.state.value.lower()}.",
                hint=f"`dcloud stop {server}` ends it.",
            )
        lifecycle.cancel(platform, workload.id, "cancelled by an administrator", cli_actor())
    console.print(f"took {server} from the queue", highlight=False)


def resize(
    console: Console,
    deployment: Deployment,
    server: str,
    *,
    memory_gib: float | None,
    cpus: float | None,
) -> None:
    """Change the limits of a running server without a restart."""
    with opened(deployment) as platform:
        workload = find(platform, server)
        resized = resizing.change_limits(
            platform,
            workload.id,
            workload.memory_bytes if memory_gib is None else int(memory_gib * GIB),
            workload.cpu_millicores if cpus is None else int(cpus * 1000),
            cli_actor(),
        )
    console.print(
        f"{server} now has {resized.memory_bytes / GIB:g} GiB and "
        f"{resized.cpu_millicores / 1000:g} cores",
        highlight=False,
    )


def list_homes(console: Console, deployment: Deployment) -> None:
    """Print every home volume: whose, how large, and whether its user still exists."""
    with opened(deployment) as platform:
        try:
            sizes = platform.engine.homes()
        except EngineError as error:
            console.print(f"[yellow]sizes are not known:[/yellow] {error}")
            sizes = {}
        with platform.database.reading() as connection:
            rows = homes.all_homes(connection)
    table = Table("user", "volume", "size", "user deleted", box=None, pad_edge=False)
    for row in rows:
        size = sizes.get(row.volume, row.size_bytes if row.size_bytes is not None else -1)
        deleted = f"{row.user_deleted_at:%Y-%m-%d}" if row.user_deleted_at else ""
        table.add_row(row.user, row.volume, _size(size), deleted)
    console.print(table if rows else "No homes yet.")


def adopt_home(console: Console, deployment: Deployment, user: str) -> None:
    """Hand the home that a deleted user left to whoever has that name now."""
    with opened(deployment) as platform:
        if not user_homes.adopt_home(platform, user, cli_actor()):
            raise NotFound(
                f"No deleted user {user} left a home here.", hint="`dcloud homes` lists them."
            )
    console.print(f"the home of {user} is theirs again", highlight=False)


def require_home(deployment: Deployment, user: str) -> None:
    """Raise NotFound when that user has no home, before anybody is asked about it."""
    with opened(deployment) as platform, platform.database.reading() as connection:
        if homes.of_user(connection, user) is None:
            raise NotFound(f"There is no home of {user}.", hint="`dcloud homes` lists them.")


def purge_home(console: Console, deployment: Deployment, user: str) -> None:
    """Delete a home volume for good; raises Conflict while a server of that user is open."""
    with opened(deployment) as platform:
        if not user_homes.purge_home(platform, user, cli_actor()):
            raise NotFound(f"There is no home of {user}.", hint="`dcloud homes` lists them.")
    console.print(f"deleted the home of {user}", highlight=False)


def _size(size_bytes: int) -> str:
    return "unknown" if size_bytes < 0 else size_words(size_bytes)
