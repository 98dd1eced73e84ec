"""``dcloud up``: everything that is missing, then every program, then the way in.

Each step may be repeated: what is there stays, what runs is said to run.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from dcloud_spawner.errors import ConfigurationError, DCloudError
from dcloud_spawner.profiles import ProfileBook
from dcloud_spawner.settings import load_settings
from dcloud_spawner.storage.access import access_of
from dcloud_spawner.storage.store import ObjectStore
from dcloud_spawner.store.database import Database
from hub_services.cli import machine, ports
from hub_services.cli.deployment import (
    ENGINE_WISH,
    SIMULATED,
    Deployment,
    open_deployment,
    present_variables,
    remember,
)
from hub_services.cli.node import (
    install_charts,
    install_proxy,
    install_uploader,
    proxy_installed,
)
from hub_services.cli.orphans import find_orphans
from hub_services.cli.preparation import images_in_preparation
from hub_services.cli.processes import listed, long_running, loopback
from hub_services.cli.secrets import PROXY_TOKEN, ensure_secrets, read_secret
from hub_services.cli.simulated import simulated_variables
from hub_services.cli.stored import running_servers
from hub_services.cli.supervision import ProgramState, Supervisor
from hub_services.cli.way_in import first_admin, way_in

READY_SECONDS = 90.0
TRIES = 3
"""Starts of one program after which ``up`` stops hoping; supervisord goes on trying."""


def up(console: Console, *, simulated_gpus: int | None, forget: bool, install: bool) -> None:
    """Start the deployment and print its address; raises ConfigurationError."""
    deployment = open_deployment(forget=forget)
    deployment.make_folders()
    with _only_one(console, deployment):
        _up(console, deployment, simulated_gpus, forget=forget, install=install)


def _up(
    console: Console,
    deployment: Deployment,
    simulated_gpus: int | None,
    *,
    forget: bool,
    install: bool,
) -> None:
    _tell_remembered(console, deployment, forget)
    with _step(console, "secrets"):
        ensure_secrets(deployment.settings.secrets_dir)
    if not proxy_installed(deployment.cache):
        with _step(console, "proxy (configurable-http-proxy, from the npm lock)"):
            install_proxy(deployment.cache)
    _bring_libraries(console, deployment)
    deployment = prepare(console, deployment, simulated_gpus, install=install)
    supervisor = Supervisor(deployment)
    if not supervisor.pid():
        _check_ports(deployment)
    with _step(console, "database"):
        _migrate(deployment)
    ProfileBook(deployment.settings.profiles_dir)
    done = supervisor.start()
    for sentence in done or [f"already running: {listed(deployment.settings)}"]:
        console.print(f"  {sentence}", highlight=False)
    wait_until_ready(console, deployment, supervisor)
    _prepare_storage(console, deployment)
    supervisor.start_once("images")  # after the hub, with which it would fight for the processor
    _greet(console, deployment)


def _bring_libraries(console: Console, deployment: Deployment) -> None:
    """What some pages load; each does without, and says what else there is."""
    for install, without in (
        (install_charts, "no charts on the usage pages, only their tables"),
        (install_uploader, "no uploads by drag and drop, only by dcloud data put"),
    ):
        try:
            install(deployment.cache, deployment.settings.assets_dir)
        except (ConfigurationError, OSError) as error:
            said = str(error).splitlines()[0]
            console.print(f"  {without}: {said}", highlight=False)


def prepare(
    console: Console, deployment: Deployment, simulated_gpus: int | None, *, install: bool
) -> Deployment:
    """Have the engine and the simulated GPUs ready, and write down what later commands need."""

    def say(text: str) -> None:
        console.print(f"  {text}", highlight=False)

    log = deployment.settings.logs_dir / "dockerd.log"
    wish = _engine_wish(deployment)
    update: dict[str, object] = {}
    # With servers running the engine stays what it is: another would know nothing of them.
    if not running_servers(deployment.settings):
        update = {"engine": wish or _configured_engine()}
    settings = deployment.settings.model_copy(update=update)
    engine = machine.prepare_engine(settings, log, say, may_change=install)
    machine.prepare_mounts(say, may_change=install)
    count = deployment.simulated_gpus if simulated_gpus is None else simulated_gpus
    variables = present_variables()
    # Chosen here: a hub that starts while dockerd is away must wait for it, not change engines.
    variables.update({"DCLOUD_ENGINE": engine, ENGINE_WISH: wish})
    for name, value in simulated_variables(deployment, engine, count, say).items():
        variables.pop(name, None)
        if value:
            variables[name] = value
    variables[SIMULATED] = str(count)
    remember(deployment.state, variables)
    for name in [name for name in os.environ if name.startswith("DCLOUD_")]:
        if name not in variables and name in deployment.remembered:
            del os.environ[name]
    os.environ.update(variables)
    return open_deployment()


def _engine_wish(deployment: Deployment) -> str:
    """The engine asked for by a shell, now or at an earlier ``up``; empty when none did."""
    if "DCLOUD_ENGINE" in deployment.recalled:
        return deployment.remembered.get(ENGINE_WISH, "")
    return os.environ.get("DCLOUD_ENGINE", "")


def _configured_engine() -> str:
    """The engine of dcloud.toml, or the default."""
    chosen = os.environ.pop("DCLOUD_ENGINE", None)
    try:
        return load_settings().engine
    finally:
        if chosen is not None:
            os.environ["DCLOUD_ENGINE"] = chosen


@contextmanager
def _only_one(console: Console, deployment: Deployment) -> Iterator[None]:
    """Let one ``up`` after the other work on a state folder."""
    with (deployment.run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("  waiting for another dcloud up to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _step(console: Console, name: str) -> Iterator[None]:
    with console.status(name):
        yield


def _tell_remembered(console: Console, deployment: Deployment, forget: bool) -> None:
    names = sorted(deployment.recalled - _OWN)
    if names and not forget:
        console.print(
            f"  settings of the last up still hold: {', '.join(names)} (--forget drops them)",
            highlight=False,
            style="dim",
        )


_OWN = {
    SIMULATED,
    ENGINE_WISH,
    "DCLOUD_CONFIG",
    "DCLOUD_CACHE",
    "DCLOUD_ENGINE",
    "DCLOUD_NVML_LIBRARY",
    "DCLOUD_SIMULATED_GPUS",
    "DCLOUD_GPU_PASSING",
    "DCLOUD_GPU_RUNTIME",
}


def _check_ports(deployment: Deployment) -> None:
    """Raise ConfigurationError if a port is taken by something that is not an orphan of ours."""
    ours = {orphan.program for orphan in find_orphans(deployment)}
    for use in ports.ports_of(deployment.settings):
        if use.program not in ours and not ports.is_free(use.host, use.port):
            raise ConfigurationError(
                f"Port {use.port} ({use.purpose}) is taken by {ports.holder(use.port)}. "
                f"End that, or choose another: {use.setting}={use.port + 1000} dcloud up"
            )


def _prepare_storage(console: Console, deployment: Deployment) -> None:
    """Have the bucket. Everything but datasets works without it, so this stops nothing."""
    try:
        store = ObjectStore(access_of(deployment.settings), again=0)
        try:
            store.ensure_bucket()
        finally:
            store.close()
    except DCloudError as error:
        console.print(
            f"  [yellow]no datasets for now:[/yellow] {error} (dcloud doctor)", highlight=False
        )


def _migrate(deployment: Deployment) -> None:
    database = Database(deployment.settings.store_url)
    try:
        database.migrate()
    finally:
        database.close()


def wait_until_ready(console: Console, deployment: Deployment, supervisor: Supervisor) -> None:
    """Wait until the hub answers through the proxy; raises with the log of what keeps failing."""
    began = time.monotonic()
    names = long_running(deployment.settings)
    starts: dict[str, set[int]] = {name: set() for name in names}
    with console.status("waiting for the hub") as status:
        while not (_hub_is_routed(deployment) and hub_answers(deployment)):
            states = supervisor.programs()
            failing = _keeps_failing(states, starts)
            waited = time.monotonic() - began
            if failing or waited > READY_SECONDS:
                name = failing or "hub"
                raise ConfigurationError(
                    f"The {name} does not start. The last lines of its log "
                    f"({_log(deployment, name)}):\n{tail(_log(deployment, name))}\n"
                    "Mend that, then `dcloud up` again; `dcloud doctor` may know more."
                )
            words = ", ".join(f"{n} {states[n].state.lower()}" for n in names if n in states)
            status.update(f"waiting for the hub ({waited:.0f} s: {words})")
            time.sleep(0.25)


def _hub_is_routed(deployment: Deployment) -> bool:
    """Whether the hub has told the proxy of itself. Asking the proxy's users' side before that
    would fill its log with errors."""
    settings = deployment.settings
    token = read_secret(settings.secrets_dir, PROXY_TOKEN)
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{settings.proxy_api_port}/api/routes",
            headers={"Authorization": f"token {token}"},
            timeout=5,
            trust_env=False,
        )
        return answer.status_code == 200 and "/" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


def hub_answers(deployment: Deployment) -> bool:
    """Whether the hub answers through the proxy, as a browser would ask."""
    settings = deployment.settings
    try:
        answer = httpx.get(
            f"http://{loopback(settings.host)}:{settings.port}/hub/health",
            timeout=5,
            trust_env=False,
        )
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def _keeps_failing(states: Mapping[str, ProgramState], starts: dict[str, set[int]]) -> str:
    """Name of a program that was started several times and still does not run, else empty."""
    for name, seen in starts.items():
        state = states.get(name)
        if state is None:
            continue
        seen.add(state.started)
        if state.state == "FATAL" or (len(seen) > TRIES and not state.running):
            return name
    return ""


def _log(deployment: Deployment, name: str) -> Path:
    return deployment.settings.logs_dir.absolute() / f"{name}.log"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a file, indented; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


def _greet(console: Console, deployment: Deployment) -> None:
    settings = deployment.settings
    console.print(f"\n[bold]DCloud is up: {settings.bind_url}[/bold]", highlight=False)
    weaker = ", a weaker isolation than containers" if settings.engine == "sandbox" else ""
    console.print(f"  engine: {settings.engine}{weaker}", highlight=False)
    if deployment.simulated_gpus:
        console.print(f"  GPUs: {deployment.simulated_gpus}, simulated", highlight=False)
    waiting = images_in_preparation(settings) if settings.engine == "docker" else ()
    if waiting:
        names = ", ".join(each.image for each in waiting)
        console.print(f"  images being prepared: {names} (dcloud status)", highlight=False)
    link = way_in(settings)
    if link is not None:
        console.print(
            f"\nThe first administrator, {first_admin(settings)}, sets a password here "
            f"(once, within {settings.reset_link_hours:g} hours):",
            highlight=False,
        )
        # Not wrapped: it has to stay one address when it is copied.
        console.print(link, soft_wrap=True, markup=False)
    console.print("  next: dcloud status, dcloud doctor, dcloud down", highlight=False, style="dim")
