"""Become one program: ``python -m hub_services.cli.launch hub``. Started by supervisord.

Puts settings and secrets into the environment, writes the process id, and replaces itself,
so that the process supervisord knows is the program and a signal reaches it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil

from dcloud_spawner.errors import DCloudError
from hub_services.cli.deployment import CHECKOUT, Deployment, open_deployment, recall
from hub_services.cli.files import write_private
from hub_services.cli.processes import Program, pid_file, program
from hub_services.cli.secrets import read_secret


def main() -> None:
    """Entry point; exits 1 with a line in the program's log when it cannot start."""
    each = program(sys.argv[1])
    try:
        _forget_inherited_settings()
        deployment = open_deployment()
        command = each.command(deployment)
        environment = _environment(deployment, each)
        _write_pid(deployment, each)
    except DCloudError as error:
        print(f"{each.name} cannot start: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error
    os.chdir(CHECKOUT)
    if each.umask is not None:
        os.umask(each.umask)
    os.execve(command[0], command, environment)


def _forget_inherited_settings() -> None:
    """supervisord may have been started with other settings than the last ``up`` wrote down."""
    state = Path(os.environ["DCLOUD_STATE"])
    for name in [name for name in os.environ if name.startswith("DCLOUD_")]:
        del os.environ[name]
    os.environ.update(recall(state), DCLOUD_STATE=str(state))


def _environment(deployment: Deployment, each: Program) -> dict[str, str]:
    folder = deployment.settings.secrets_dir
    return {
        **os.environ,
        **{name: read_secret(folder, secret) for name, secret in each.secrets.items()},
        **each.extra_environment(deployment),
        "DCLOUD_PROGRAM": each.name,
        "PYTHONUNBUFFERED": "1",
    }


def _write_pid(deployment: Deployment, each: Program) -> None:
    started = psutil.Process().create_time()
    write_private(
        pid_file(deployment, each.name), json.dumps({"pid": os.getpid(), "started": started})
    )


if __name__ == "__main__":
    main()
