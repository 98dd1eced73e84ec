"""The command ``dcloud``. Each command is thin: read the deployment, call one function.

Exit codes: 0 done, 1 the platform says no or something is broken, 2 the command was misspelt.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from dcloud_spawner.errors import DCloudError, UserError
from hub_services.cli import deployment as deployments
from hub_services.cli import doctor as doctors
from hub_services.cli import down as downs
from hub_services.cli import images, servers, status
from hub_services.cli import ledger as ledgers
from hub_services.cli import plan as plans
from hub_services.cli import up as ups
from hub_services.cli.checks import CHECKS
from hub_services.cli.way_in import way_in
from hub_services.data_client.commands import main as data_command
from hub_services.planning.question import Question

console = Console()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def dcloud(context: click.Context) -> None:
    """Self-service GPU notebooks for a lab."""
    context.obj = Path.cwd()
    deployments.anchor()


@dcloud.command()
@click.option(
    "--simulated-gpus",
    type=click.IntRange(0, 16),
    metavar="N",
    help="Try it without hardware: N simulated GPUs, kept until another number; 0 ends it.",
)
@click.option("--forget", is_flag=True, help="Drop the DCLOUD_* variables of the last up.")
@click.option(
    "--install/--no-install",
    default=True,
    help="Install OS packages and start the Docker engine where root may (the default).",
)
def up(simulated_gpus: int | None, forget: bool, install: bool) -> None:
    """Start everything that does not run and print the address."""
    ups.up(console, simulated_gpus=simulated_gpus, forget=forget, install=install)


@dcloud.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def data(stood: Path, arguments: tuple[str, ...]) -> None:
    """Datasets from the command line: put, get, ls, share, publish."""
    os.chdir(stood)  # its files are somebody's own, not the checkout's
    sys.exit(data_command(arguments))


@dcloud.command()
@click.option("--servers", "with_servers", is_flag=True, help="Stop users' servers too.")
def down(with_servers: bool) -> None:
    """Stop all programs. Users' servers keep running unless --servers."""
    downs.down(console, deployments.open_deployment(), servers=with_servers)


@dcloud.command()
@click.argument("programs", nargs=-1)
def restart(programs: tuple[str, ...]) -> None:
    """Restart PROGRAMS (hub, controller, web and data if none); users' servers keep running."""
    downs.restart(console, deployments.open_deployment(), programs)


@dcloud.command("status")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def show_status(as_json: bool) -> None:
    """Engine, GPUs and who holds them, the queue and the servers."""
    found = status.gather(deployments.open_deployment())
    if as_json:
        click.echo(json.dumps(status.as_json(found), default=_json, indent=1))
    else:
        status.show(console, found)


@dcloud.command()
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def doctor(as_json: bool) -> None:
    """Check the machine and the deployment; each finding with its mend. 1 if broken."""
    findings = doctors.examine(deployments.open_deployment(), CHECKS)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        doctors.show(console, findings)
    if doctors.any_broken(findings):
        raise SystemExit(1)


@dcloud.command()
@click.argument("server", metavar="USER[/SERVER]")
def stop(server: str) -> None:
    """Stop a user's server; its GPUs are free when this returns."""
    servers.stop(console, deployments.open_deployment(), server)


@dcloud.command()
@click.argument("server", metavar="USER[/SERVER]")
def cancel(server: str) -> None:
    """Take a waiting request from the queue."""
    servers.cancel(console, deployments.open_deployment(), server)


@dcloud.command()
@click.argument("server", metavar="USER[/SERVER]")
@click.option("--memory-gib", type=click.FloatRange(0, min_open=True), metavar="GIB")
@click.option("--cpus", type=click.FloatRange(0, min_open=True), metavar="CORES")
def resize(server: str, memory_gib: float | None, cpus: float | None) -> None:
    """Change memory and cores of a running server, without a restart."""
    if memory_gib is None and cpus is None:
        raise click.UsageError("Name at least one of --memory-gib and --cpus.")
    servers.resize(console, deployments.open_deployment(), server, memory_gib=memory_gib, cpus=cpus)


@dcloud.command("images")
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Build afresh what is up to date too.")
def build_images(names: tuple[str, ...], force: bool) -> None:
    """Build the images NAMES, or all that the profiles name; 1 if one failed."""
    if not images.build(console, deployments.open_deployment(), names, force=force):
        raise SystemExit(1)


@dcloud.group(invoke_without_command=True)
@click.pass_context
def homes(context: click.Context) -> None:
    """List home volumes, deleted users' too."""
    if context.invoked_subcommand is None:
        servers.list_homes(console, deployments.open_deployment())


@homes.command()
@click.argument("user")
def adopt(user: str) -> None:
    """Hand the home a deleted user left to the user who has that name now."""
    servers.adopt_home(console, deployments.open_deployment(), user)


@dcloud.group()
def ledger() -> None:
    """What was charged, and whether it is right."""


@ledger.command("verify")
def verify_ledger() -> None:
    """Recompute every balance and every session; says what differs. 1 if anything does."""
    if not ledgers.verify_ledger(console, deployments.open_deployment()):
        raise SystemExit(1)


@dcloud.command("purge-home")
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge_home(user: str, yes: bool) -> None:
    """Delete a user's home volume for good."""
    deployment = deployments.open_deployment()
    servers.require_home(deployment, user)
    if not yes:
        click.confirm(f"Delete everything {user} has stored? This cannot be undone", abort=True)
    servers.purge_home(console, deployment, user)


@dcloud.command("admin-link")
@click.argument("name", default="")
def admin_link(name: str) -> None:
    """Print a one-time link at which administrator NAME sets a new password."""
    settings = deployments.open_deployment().settings
    link = way_in(settings, name, again=True)
    if link is not None:
        click.echo(link)


@dcloud.command()
@click.option("--users", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(0.05, 24 * 60), default=5.0, show_default=True, metavar="M"
)
@click.option("--seed", default=1, show_default=True, help="The same seed, the same people.")
@click.option("--profile", "profiles", multiple=True, help="Only this one; may be repeated.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for the report.")
@click.option("--yes", is_flag=True, help="Also where other people's servers run or wait.")
@click.option("--clean", is_flag=True, help="Only remove what a killed load test left.")
@click.pass_obj
def loadtest(
    started_in: Path,
    users: int,
    minutes: float,
    seed: int,
    profiles: tuple[str, ...],
    report: Path | None,
    yes: bool,
    clean: bool,
) -> None:
    """Let simulated people use the real hub and engine of this machine; writes a report.

    Ctrl-C ends it early, with a report. 1 if a GPU was in two hands or something is left.
    """
    from hub_services.cli import loadtest as loadtests  # the hub's own code: slow to import

    deployment = deployments.open_deployment()
    if clean:
        done = loadtests.tidy(console, deployment)
    else:
        done = loadtests.run(
            console,
            deployment,
            users=users,
            minutes=minutes,
            seed=seed,
            profiles=profiles,
            report=started_in / report if report else None,
            among_others=yes,
        )
    if not done:
        raise SystemExit(1)


@dcloud.command()
@click.option("--gpus", default=0, metavar="+N", help="So many more GPUs; -N for fewer.")
@click.option("--model", default="", help="Of which model; a part of the name suffices.")
@click.option("--nodes", default=0, metavar="+N", help="So many more nodes; -N for fewer.")
@click.option("--constants", default="", metavar="NAME=VALUE,...", help="Other rules of the order.")
@click.option("--policy", default="due", help="due, or easy: first come, first served.")
@click.option("--days", type=float, metavar="D", help="How much history (30); of a trace: all.")
@click.option("--trace", type=click.Path(path_type=Path), help="A CSV file, not the own history.")
@click.option("--pool", default="", metavar="NODESxGPUS", help="Begin with this, not with ours.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.pass_obj
def plan(
    started_in: Path,
    gpus: int,
    model: str,
    nodes: int,
    constants: str,
    policy: str,
    days: float | None,
    trace: Path | None,
    pool: str,
    as_json: bool,
) -> None:
    """What if there were more GPUs, or other rules? Replays the lab's own history both ways."""
    plans.run(
        console,
        deployments.open_deployment(),
        Question(gpus, model, nodes, constants, policy, 30.0 if days is None else days),
        trace=started_in / trace if trace else None,
        trace_days=days,
        pool=pool,
        as_json=as_json,
    )


def _json(value: object) -> str:
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat()) if isoformat else str(value)


def main() -> None:
    """Entry point of ``[project.scripts]``: errors of ours end in a sentence, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        dcloud.main(prog_name="dcloud", standalone_mode=True)
    except UserError as error:
        _fail(error.message, error.hint)
    except DCloudError as error:
        _fail(str(error))
    except SQLAlchemyError as error:
        # Only the driver's own words: a statement may hold what users wrote.
        words = str(getattr(error, "orig", None) or type(error).__name__).strip()
        _fail(f"The database says: {words}", "`dcloud doctor` looks at it.")
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None


def _fail(message: str, hint: str = "") -> None:
    click.echo(click.style("dcloud: ", fg="red") + message, err=True)
    if hint:
        click.echo(hint, err=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
