"""Configuration of a real JupyterHub with the real spawner, queue and pages on an engine in memory.

Simulated: only the engine and the server inside it (a page on a free port), so that hundreds can
wait and start on any machine. ``DCLOUD_STAGE_NODES`` says what hardware there is, as JSON:
``{"gpu-01": [4, "NVIDIA A100-SXM4-80GB", 80]}`` is GPUs, model, GiB of each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jupyterhub.auth import DummyAuthenticator
from jupyterhub.spawner import Spawner
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from dcloud_spawner.engines.base import AcceleratorFacts, ContainerFacts, ContainerSpec, NodeFacts
from dcloud_spawner.form.handlers import form_handlers
from dcloud_spawner.form.view import TEMPLATES, template_vars
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.spawners.acts import noting_acts
from dcloud_spawner.spawners.handlers import with_handlers
from dcloud_spawner.spawners.mixin import PlatformSpawner
from dcloud_spawner.store.workloads import Workload
from tests.memory_engine import MemoryEngine
from tests.no_limits import NO_HURRY, NO_LIMITS

STAGE = Path(os.environ["DCLOUD_STAGE"])
HERE = Path(__file__).parent
GIB = 2**30
NODES: dict[str, tuple[int, str, int]] = json.loads(os.environ["DCLOUD_STAGE_NODES"])

for name in [name for name in os.environ if name.startswith("DCLOUD_") and "STAGE" not in name]:
    del os.environ[name]


def hardware() -> tuple[NodeFacts, ...]:
    return tuple(
        NodeFacts(
            node,
            64_000,
            512 * GIB,
            tuple(
                AcceleratorFacts(f"GPU-{node}-{index}", index, model, gib * GIB)
                for index in range(count)
            ),
        )
        for node, (count, model, gib) in NODES.items()
    )


class Page(web.RequestHandler):
    """Stands for the user's server."""

    def get(self) -> None:
        self.set_header("X-JupyterHub-Version", "6.1.1")
        self.finish(f"<title>The server</title><h1>The server</h1><p>{self.request.path}</p>")


class QueueSpawner(PlatformSpawner, Spawner):  # type: ignore[misc]
    http: HTTPServer | None = None

    async def launch(self, spec: ContainerSpec) -> str:
        await self.platform.in_engine_thread(self.platform.engine.launch, spec)
        sockets = bind_sockets(0, "127.0.0.1")
        self.http = HTTPServer(web.Application([(".*", Page)]))
        self.http.add_sockets(sockets)
        return f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    async def _until_ready(self, workload: Workload, url: str) -> ContainerFacts:
        return await self._alive(workload.id)

    async def stop(self, now: bool = False) -> None:
        if self.http:
            self.http.stop()
            self.http = None
        await super().stop(now)


settings = Settings(
    state=STAGE / "state",
    profiles_dir=HERE / "profiles",
    reserve_memory_gib=0,
    cpu_overcommit=1,
    schedule_seconds=1,
    simulated_gpus=True,
    roles=NO_LIMITS,
    **NO_HURRY,
)
platform = Platform(settings, engine=MemoryEngine(*hardware()))
platform.refresh_inventory()
PlatformSpawner.plug_in(platform)

c: Any = get_config()  # type: ignore[name-defined]  # noqa: F821
c.JupyterHub.spawner_class = QueueSpawner
c.JupyterHub.authenticator_class = with_handlers(DummyAuthenticator)
c.DummyAuthenticator.password = os.environ["DCLOUD_STAGE_PASSWORD"]
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin-a"}
c.JupyterHub.db_url = f"sqlite:///{STAGE / 'hub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STAGE / "cookie_secret")
c.JupyterHub.bind_url = os.environ["DCLOUD_STAGE_URL"]
c.JupyterHub.hub_bind_url = os.environ["DCLOUD_STAGE_HUB"]
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["DCLOUD_STAGE_PROXY"]
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 3
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0, "log_function": noting_acts(platform)}
c.Spawner.consecutive_failure_limit = 0
c.Spawner.poll_interval = 10
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.template_vars = template_vars(simulated=True)
c.JupyterHub.extra_handlers = form_handlers()
c.JupyterHub.load_roles = [
    {
        "name": "tester",
        "services": ["tester"],
        "scopes": ["admin:users", "admin:servers", "tokens", "access:servers"],
    }
]
c.JupyterHub.services = [{"name": "tester", "api_token": os.environ["DCLOUD_STAGE_TOKEN"]}]
