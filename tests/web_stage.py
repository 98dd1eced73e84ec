"""The web service behind a real proxy and a real hub, over a store that the test arranges.

Real: proxy, hub, sign-in, tokens, the service's own code (in a thread of the test), the store and
the scheduler. Simulated: the engine (``MemoryEngine``), so that no container has to start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from dcloud_spawner import drains, lifecycle, reservations
from dcloud_spawner.engines.base import NodeFacts
from dcloud_spawner.platform import Platform
from dcloud_spawner.store import nodes, workloads
from dcloud_spawner.store import reservations as reservation_rows
from dcloud_spawner.store.events import Actor
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_charts, install_proxy, proxy_command
from hub_services.web.application import make_application
from hub_services.web.service import open_service
from tests import platforms
from tests.memory_engine import MemoryEngine, node
from tests.patience import patient
from tests.services import free_port

ROOT = Path(__file__).parents[1]
ADMINISTRATOR = "admin-a"


class WebStage:
    """Use as a context manager; ``platform`` is what the service shows."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        hub_database_url: str,
        nodes: tuple[NodeFacts, ...] = (node(),),
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.password = self.token = secrets.token_hex(16)
        self.settings = platforms.settings_for(
            database_url,
            folder,
            hub_database_url=hub_database_url,
            port=free_port(),
            hub_port=free_port(),
            proxy_api_port=free_port(),
            web_port=free_port(),
            simulated_gpus=True,
            **{"storage_port": free_port(), "storage_gate_port": free_port(), **settings},
        )
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.engine = MemoryEngine(*nodes)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tokens: dict[str, str] = {}
        self.server_environment: dict[str, str] = {}
        """What servers of people need, where a test starts any (tests/storage/stage.py)."""

    def __enter__(self) -> WebStage:
        install_proxy(cache_dir())
        install_charts(cache_dir(), self.settings.assets_dir)
        folder = self.settings.secrets_dir
        folder.mkdir(parents=True, mode=0o700)
        for name in ("cookie_secret", "web.token"):
            (folder / name).write_text(secrets.token_hex(32))
            (folder / name).chmod(0o600)
        self.platform = Platform(self.settings, engine=self.engine)
        self.platform.refresh_inventory()
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        environment = {
            **os.environ,
            "DCLOUD_TEST_TOKEN": self.token,
            "DCLOUD_CONFIG": os.devnull,
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
            "PYTHONPATH": str(ROOT),
            **{
                f"DCLOUD_{name.upper()}": str(getattr(self.settings, name))
                for name in (
                    *("state", "port", "hub_port", "proxy_api_port", "web_port"),
                    *("storage_bucket", "storage_gate_port"),
                )
            },
            "DCLOUD_HUB_DATABASE_URL": self.settings.hub_store_url,
            "DCLOUD_SIMULATED_GPUS": "true",
            **self.server_environment,
        }
        proxy = ["--ip=127.0.0.1", f"--port={self.settings.port}", "--api-ip=127.0.0.1"]
        api = f"--api-port={self.settings.proxy_api_port}"
        self._start("proxy", [*proxy_command(cache_dir()), *proxy, api], environment)
        config = str(ROOT / "tests" / "config" / "hub_of_web.py")
        self._start("hub", [sys.executable, "-m", "jupyterhub", "-f", config], environment)
        self._wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(15)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self.platform.close()

    async def _listen(self) -> None:
        service = open_service(self.platform, "127.0.0.1")
        self._server = make_application(service).listen(self.settings.web_port, "127.0.0.1")
        service.pool.keep_fresh()

    def stop_web(self) -> None:
        """The web service goes away, with every page that follows it."""

        async def stop() -> None:
            self._server.stop()
            await self._server.close_all_connections()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(30)

    def start_web(self) -> None:
        """It comes back."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + patient(60)
        while time.monotonic() < deadline and self._processes[1].poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/hub/api", trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        log = (self.folder / "hub.log").read_text(errors="replace")
        raise RuntimeError("The hub did not come up:\n" + log[-5000:])

    def end(self, user: str) -> None:
        """Everything of one user ends."""
        with self.platform.database.reading() as connection:
            found = [row for row in workloads.open_workloads(connection) if row.user == user]
        for row in found:
            lifecycle.stop(self.platform, row.id, "test over", Actor("test"))

    def clear(self) -> None:
        """Nobody runs or waits, nothing is drained or reserved."""
        platforms.end_all(self.platform)
        actor = Actor("test")
        with self.platform.database.reading() as connection:
            drained = [row for row in nodes.all_nodes(connection) if row.drained]
            gpus = [row for row in nodes.all_accelerators(connection) if row.drained]
            reserved = reservation_rows.open_reservations(connection)
        for node_row in drained:
            drains.undrain_node(self.platform, node_row.name, actor)
        for gpu in gpus:
            drains.undrain_accelerator(self.platform, gpu.uuid, actor)
        for found in reserved:
            reservations.cancel_reservation(self.platform, found.id, actor)

    def token_of(self, user: str, **body: Any) -> str:
        """A token with the user's own rights; one that is kept, unless ``body`` says more."""
        if user not in self._tokens or body:
            headers = {"Authorization": f"token {self.token}"}
            with httpx.Client(base_url=f"{self.url}/hub/api", headers=headers) as hub:
                admin = {"admin": user == ADMINISTRATOR}
                hub.post("/users", json={"usernames": [user], **admin})
                answer = hub.post(f"/users/{user}/tokens", json=body)
                answer.raise_for_status()
            if body:
                return str(answer.json()["token"])
            self._tokens[user] = str(answer.json()["token"])
        return self._tokens[user]

    def join(self, user: str, group: str) -> None:
        """Put a user into a group of the hub."""
        self.token_of(user)
        headers = {"Authorization": f"token {self.token}"}
        with httpx.Client(base_url=f"{self.url}/hub/api", headers=headers) as hub:
            hub.post(f"/groups/{group}")
            hub.post(f"/groups/{group}/users", json={"users": [user]}).raise_for_status()

    def api(self, user: str | None, **body: Any) -> httpx.Client:
        """A client of the API as a user, or as nobody."""
        headers = {"Authorization": f"token {self.token_of(user, **body)}"} if user else {}
        return httpx.Client(
            base_url=f"{self.url}/services/dcloud/api/v1",
            headers=headers,
            trust_env=False,
            timeout=30,
        )
