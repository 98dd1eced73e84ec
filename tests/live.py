"""A real deployment for tests: proxy, hub and controller as processes, on free ports, in a
temporary state folder. Programs are killed and started again by their ids."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from dcloud_spawner.engines.docker import DockerEngine
from dcloud_spawner.errors import EngineError
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_proxy, proxy_command
from tests.no_limits import NO_HURRY, NO_LIMITS
from tests.patience import patient
from tests.services import free_port

ROOT = Path(__file__).parents[1]


FAULTS = (
    "Uncaught exception",
    "never retrieved",
    "never awaited",
    "A turn failed",
    "NoResultFound",
)
"""What no log of a program of ours may say."""

OF_THE_HUB = "coroutine 'User.spawn' was never awaited"
"""JupyterHub's own: a start that is cancelled before its first step leaves the inner coroutine
(``finish_user_spawn`` awaits ``spawn_future``). Nothing was begun, and nothing is left."""


class Deployment:
    """One deployment under test; use as a context manager."""

    def __init__(self, state: Path, **settings: Any) -> None:
        self.state = state
        self.token = secrets.token_hex(16)
        self.proxy_token = secrets.token_hex(16)
        values: dict[str, Any] = {
            "deployment": f"t{secrets.token_hex(4)}",
            "state": state,
            "port": free_port(),
            "hub_port": free_port(),
            "proxy_api_port": free_port(),
            "web_port": free_port(),
            "storage_port": free_port(),
            "storage_gate_port": free_port(),
            "profiles_dir": ROOT / "tests" / "config" / "profiles",
            "images_dir": ROOT / "images",
            "stop_grace_seconds": 1,
            "schedule_seconds": 2,
            "reconcile_seconds": 3,
            "inventory_seconds": 2,
            "resume_seconds": 0.5,
            "reserve_memory_gib": 1,
            "cpu_overcommit": 16,
            "roles": NO_LIMITS,
            **NO_HURRY,
            **settings,
        }
        self.settings = Settings(**values)
        self.environment = {
            **os.environ,
            "DCLOUD_CONFIG": os.devnull,
            "DCLOUD_TEST_TOKEN": self.token,
            "CONFIGPROXY_AUTH_TOKEN": self.proxy_token,
            **{f"DCLOUD_{key.upper()}": _text(value) for key, value in values.items()},
        }
        self.hub_host = ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.platform: Platform | None = None

    # -- programs ------------------------------------------------------------------------------

    def __enter__(self) -> Deployment:
        secrets_dir = self.settings.secrets_dir
        secrets_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        for name in ("controller.token", "web.token", "cookie_secret"):
            path = secrets_dir / name
            path.write_text(secrets.token_hex(32))
            path.chmod(0o600)
        self.settings.logs_dir.mkdir(exist_ok=True)
        install_proxy(cache_dir())
        self.platform = Platform(self.settings)
        self.platform.refresh_inventory()
        self.hub_host = self.platform.engine.hub_address()
        self.start("proxy")
        self.start("web")
        self.start("hub")
        self.start("controller")
        self.wait_for_hub()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in ("controller", "web", "hub", "proxy"):
            self.kill(name, signal.SIGTERM)
        assert self.platform is not None
        with contextlib.suppress(Exception):
            for found in self.platform.engine.observe():
                self.platform.engine.stop(found.workload_id, 0)
            for home in self.platform.engine.homes():
                self.platform.engine.purge_home(home)
        if isinstance(self.platform.engine, DockerEngine):
            with contextlib.suppress(EngineError):
                self.platform.engine.remove_network()
        self.platform.close()

    def command(self, name: str) -> list[str]:
        """The command line of one program."""
        if name == "proxy":
            return [
                *proxy_command(cache_dir()),
                "--ip=127.0.0.1",
                f"--port={self.settings.port}",
                "--api-ip=127.0.0.1",
                f"--api-port={self.settings.proxy_api_port}",
                f"--error-target=http://{self.hub_host}:{self.settings.hub_port}/hub/error",
            ]
        if name == "hub":
            return [
                sys.executable,
                "-m",
                "jupyterhub",
                "-f",
                str(ROOT / "tests" / "config" / "hub_under_test.py"),
            ]
        return [sys.executable, "-m", f"hub_services.{name}"]

    def start(self, name: str) -> None:
        """Start a program; its output goes to the log folder."""
        with (self.settings.logs_dir / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                cwd=self.state,
                env={**self.environment, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a program by its id and wait for it."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, name: str) -> None:
        """kill -9 and a new process."""
        self.kill(name)
        self.start(name)
        if name == "hub":
            self.wait_for_hub()

    def wait_for_hub(self, seconds: float = 30) -> None:
        """Return when the hub answers through the proxy."""
        deadline = time.monotonic() + patient(seconds)
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/hub/api", trust_env=False).status_code == 200:
                    return
            if self.processes["hub"].poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError("The hub did not come up:\n" + self.log("hub")[-5000:])

    def log(self, name: str) -> str:
        """Everything a program wrote."""
        return (self.settings.logs_dir / f"{name}.log").read_text(errors="replace")

    def faults(self, name: str) -> str:
        """The first thing in a program's log that must never be there, with what stands around
        it; empty when there is none."""
        log = self.log(name).replace(OF_THE_HUB, "")
        at = min((log.index(fault) for fault in FAULTS if fault in log), default=-1)
        return "" if at < 0 else log[max(0, at - 500) :][:4000]

    # -- people --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The public address, without a slash."""
        return f"http://127.0.0.1:{self.settings.port}"

    def api(self, token: str | None = None) -> httpx.Client:
        """A client of the hub's REST API; by default with the tester's rights."""
        return httpx.Client(
            base_url=f"{self.url}/hub/api",
            headers={"Authorization": f"token {token or self.token}"},
            timeout=60,
            trust_env=False,
        )

    def user(self, name: str, groups: tuple[str, ...] = ()) -> str:
        """Make a user; returns a token with their own rights."""
        with self.api() as api:
            api.post(f"/users/{name}")
            for group in groups:
                api.post(f"/groups/{group}")
                api.post(f"/groups/{group}/users", json={"users": [name]}).raise_for_status()
            response = api.post(f"/users/{name}/tokens", json={"note": "test"})
            response.raise_for_status()
            return str(response.json()["token"])

    def start_server(self, user: str, choice: dict[str, Any], server: str = "") -> httpx.Response:
        """Ask for a server as the tester."""
        with self.api() as api:
            return api.post(server_path(user, server), json=choice)

    def stop_server(self, user: str, server: str = "") -> httpx.Response:
        """Stop a server or leave the queue."""
        with self.api() as api:
            return api.delete(server_path(user, server))

    def server(self, user: str, server: str = "") -> dict[str, Any]:
        """The hub's model of a server; empty when it is not active."""
        with self.api() as api:
            model = api.get(f"/users/{user}").json()
        found: dict[str, Any] = (model.get("servers") or {}).get(server, {})
        return found

    def wait_ready(self, user: str, server: str = "", seconds: float = 30) -> float:
        """Return the seconds until a server is ready; fails with the hub's log."""
        start = time.monotonic()
        while time.monotonic() - start < patient(seconds):
            if self.server(user, server).get("ready"):
                return time.monotonic() - start
            time.sleep(0.05)
        raise AssertionError(f"{user}/{server} is not ready:\n" + self.log("hub")[-4000:])


def server_path(user: str, server: str = "") -> str:
    """Path of a server in the hub's API."""
    if server:
        return f"/users/{quote(user, safe='')}/servers/{quote(server, safe='')}"
    return f"/users/{quote(user, safe='')}/server"


def _text(value: object) -> str:
    import json

    return json.dumps(value) if isinstance(value, (list, tuple, dict, bool)) else str(value)
