"""The programs of a deployment and the supervisord configuration that runs them.

supervisord starts each one through :mod:`hub_services.cli.launch`, which adds secrets and
settings to the environment: neither the configuration nor any command line holds a secret.
The proxy is a program of its own, so users' servers stay reachable while the hub restarts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcloud_spawner.settings import Settings, config_file
from dcloud_spawner.storage import default
from dcloud_spawner.storage.access import access_of, default_folder, is_default
from hub_services.cli import gate, secrets
from hub_services.cli.deployment import CHECKOUT, Deployment
from hub_services.cli.files import write_private
from hub_services.cli.node import proxy_command

LOG_BYTES = "10MB"
LOG_COPIES = 5


@dataclass(frozen=True)
class Program:
    """One process under supervisord."""

    name: str
    command: Callable[[Deployment], list[str]]
    secrets: Mapping[str, str]
    """Environment variable to the secret file that it is read from."""
    recognise: str
    """A part of the command line by which an orphan is known."""
    priority: int
    wanted: Callable[[Settings], bool] = lambda settings: True
    """Whether a deployment with these settings has it."""
    extra_environment: Callable[[Deployment], Mapping[str, str]] = lambda deployment: {}
    """More of its environment; secrets too, which no single file holds as they are needed."""
    umask: int | None = None
    """What its files are closed to; None as it comes."""
    once: bool = False
    """Runs to its end and is not started again."""
    stop_seconds: int = 30
    steady_seconds: int = 1
    """Alive for so long, it counts as running and no longer as starting."""


def _proxy(deployment: Deployment) -> list[str]:
    settings = deployment.settings
    return [
        *proxy_command(deployment.cache),
        f"--ip={settings.host}",
        f"--port={settings.port}",
        "--api-ip=127.0.0.1",
        f"--api-port={settings.proxy_api_port}",
        f"--error-path={CHECKOUT / 'deploy' / 'errors'}",
        "--log-level=warn",
    ]


def _hub(deployment: Deployment) -> list[str]:
    return [sys.executable, "-m", "jupyterhub", "-f", str(CHECKOUT / "jupyterhub_config.py")]


def _controller(deployment: Deployment) -> list[str]:
    return [sys.executable, "-m", "hub_services.controller"]


def _web(deployment: Deployment) -> list[str]:
    return [sys.executable, "-m", "hub_services.web"]


def _data(deployment: Deployment) -> list[str]:
    return [sys.executable, "-m", "hub_services.datasets"]


def _images(deployment: Deployment) -> list[str]:
    return [sys.executable, "-m", "dcloud_spawner.images"]


def _storage(deployment: Deployment) -> list[str]:
    settings = deployment.settings
    folder = default_folder(settings)
    for each in (folder, folder / settings.storage_bucket):
        each.mkdir(mode=0o700, exist_ok=True)
    default.sweep(folder, deployment.run_dir / "storage.started")
    return default.command(folder, settings.storage_port)


def _storage_environment(deployment: Deployment) -> Mapping[str, str]:
    access = access_of(deployment.settings)
    return default.environment(access.access_key, access.secret_key)


PROGRAMS = (
    Program(
        "storage",
        _storage,
        {},
        default.RECOGNISE,
        5,
        stop_seconds=10,
        wanted=is_default,
        umask=0o077,
        extra_environment=_storage_environment,
    ),
    Program(
        "gate",
        lambda deployment: gate.gate_command(),
        {},
        gate.RECOGNISE,
        6,
        stop_seconds=5,
        extra_environment=lambda deployment: gate.gate_environment(deployment.settings),
    ),
    Program(
        "proxy",
        _proxy,
        {"CONFIGPROXY_AUTH_TOKEN": secrets.PROXY_TOKEN},
        "configurable-http-proxy",
        10,
        stop_seconds=5,
    ),
    Program(
        "hub",
        _hub,
        {
            "CONFIGPROXY_AUTH_TOKEN": secrets.PROXY_TOKEN,
            "JUPYTERHUB_CRYPT_KEY": secrets.CRYPT_KEY,
        },
        "-m jupyterhub -f",
        20,
        steady_seconds=5,
    ),
    Program(
        "controller",
        _controller,
        {},
        "hub_services.controller",
        30,
        stop_seconds=15,
        steady_seconds=3,
    ),
    Program("web", _web, {}, "hub_services.web", 30, stop_seconds=5, steady_seconds=3),
    Program("data", _data, {}, "hub_services.datasets", 30, stop_seconds=20, steady_seconds=3),
    Program("images", _images, {}, "dcloud_spawner.images", 40, once=True, stop_seconds=5),
)


def programs_of(settings: Settings) -> tuple[Program, ...]:
    """The programs that a deployment with these settings has."""
    return tuple(each for each in PROGRAMS if each.wanted(settings))


def long_running(settings: Settings) -> tuple[str, ...]:
    """Names of those that run all the time."""
    return tuple(each.name for each in programs_of(settings) if not each.once)


def listed(settings: Settings) -> str:
    """Those names in words."""
    *others, last = long_running(settings)
    return f"{', '.join(others)} and {last}"


def program(name: str) -> Program:
    """The program of that name; KeyError when there is none."""
    return {each.name: each for each in PROGRAMS}[name]


def loopback(host: str) -> str:
    """An address of this machine at which a server bound to ``host`` answers."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(host, host)


def pid_file(deployment: Deployment, name: str) -> Path:
    """Where the launcher writes the program's process id and start time."""
    return deployment.run_dir / f"{name}.pid"


def configuration_path(deployment: Deployment) -> Path:
    """The generated file."""
    return deployment.run_dir / "supervisord.conf"


def write_configuration(deployment: Deployment) -> None:
    """Write the supervisord configuration, 0600."""
    write_private(configuration_path(deployment), configuration(deployment))


def configuration(deployment: Deployment) -> str:
    """The supervisord configuration as text."""
    logs = deployment.settings.logs_dir.absolute()
    sections: list[tuple[str, dict[str, object]]] = [
        ("unix_http_server", {"file": deployment.socket, "chmod": "0700"}),
        (
            "supervisord",
            {
                "logfile": logs / "supervisord.log",
                "logfile_maxbytes": LOG_BYTES,
                "logfile_backups": LOG_COPIES,
                "pidfile": deployment.run_dir / "supervisord.pid",
                "childlogdir": logs,
                "directory": CHECKOUT,
                "identifier": f"dcloud-{deployment.settings.deployment}",
                **({"user": "root"} if os.getuid() == 0 else {}),
            },
        ),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
    ]
    digest = settings_digest(deployment)
    sections += [
        (f"program:{p.name}", _section(deployment, p, digest))
        for p in programs_of(deployment.settings)
    ]
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={_escape(value)}\n" for key, value in values.items())
        for name, values in sections
    )


def _section(deployment: Deployment, each: Program, digest: str) -> dict[str, object]:
    launcher = [sys.executable, "-m", "hub_services.cli.launch", each.name]
    environment = {"DCLOUD_STATE": str(deployment.state), "DCLOUD_SETTINGS_DIGEST": digest}
    return {
        "command": shlex.join(launcher),
        "directory": CHECKOUT,
        "priority": each.priority,
        "autostart": "false" if each.once else "true",
        "autorestart": "false" if each.once else "true",
        "startsecs": 0 if each.once else each.steady_seconds,
        # Each retry waits a second longer: a database that is away for an hour is waited for.
        "startretries": 100,
        "stopsignal": "TERM",
        "stopwaitsecs": each.stop_seconds,
        # Users' sandboxes may be children of the hub: only ever signal the program itself.
        "stopasgroup": "false",
        "killasgroup": "false",
        "redirect_stderr": "true",
        "stdout_logfile": deployment.settings.logs_dir.absolute() / f"{each.name}.log",
        "stdout_logfile_maxbytes": LOG_BYTES,
        "stdout_logfile_backups": LOG_COPIES,
        "environment": ",".join(f'{name}="{value}"' for name, value in environment.items()),
    }


def settings_digest(deployment: Deployment) -> str:
    """Changes when a setting does, so that supervisord restarts what runs with old ones."""
    text = json.dumps(deployment.settings.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{config_file()}\n{text}".encode()).hexdigest()[:16]


def _escape(value: object) -> str:
    return str(value).replace("%", "%%")
