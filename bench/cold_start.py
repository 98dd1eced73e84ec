"""From POST to a ready server, and the hub's memory: DCloud beside plain DockerSpawner.

Both are real hubs on the same Docker engine with the same image; starts alternate, so that a
slow moment of the machine hits both.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import psutil

from bench.result import Result, paired
from tests.live import ROOT, Deployment

IMAGE = "dcloud/base:latest"
STARTS = int(os.environ.get("DCLOUD_BENCH_STARTS", "12"))

PLAIN_CONFIG = """
import os
c = get_config()
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = "{image}"
c.DockerSpawner.pull_policy = "never"
c.DockerSpawner.network_name = "{network}"
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.remove = True
c.DockerSpawner.mem_limit = "1G"
c.DockerSpawner.cpu_limit = 2
c.DockerSpawner.notebook_dir = "/home/dcloud"
c.DockerSpawner.volumes = {{"plain-{network}-{{username}}": "/home/dcloud"}}
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = "http://127.0.0.1:{port}/"
c.JupyterHub.hub_bind_url = "http://{host}:{hub_port}"
c.JupyterHub.db_url = "sqlite:///{state}/plain.sqlite"
c.JupyterHub.cookie_secret_file = "{state}/secrets/cookie_secret"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api_port}"
c.JupyterHub.cleanup_servers = True
c.JupyterHub.services = [{{"name": "tester", "api_token": os.environ["DCLOUD_TEST_TOKEN"]}}]
c.JupyterHub.load_roles = [
    {{
        "name": "tester",
        "services": ["tester"],
        "scopes": ["admin:users", "admin:servers", "tokens", "list:users"],
    }}
]
"""


class PlainDeployment(Deployment):
    """The same proxy and hub programs, with plain DockerSpawner and no controller."""

    def command(self, name: str) -> list[str]:
        """The hub reads a configuration without DCloud."""
        command = super().command(name)
        if name == "hub":
            path = self.state / "plain_config.py"
            path.write_text(
                PLAIN_CONFIG.format(
                    image=IMAGE,
                    network=f"{self.settings.deployment}-users",
                    port=self.settings.port,
                    host=self.hub_host,
                    hub_port=self.settings.hub_port,
                    proxy_api_port=self.settings.proxy_api_port,
                    state=self.state,
                )
            )
            command[-1] = str(path)
        return command

    def start(self, name: str) -> None:
        """No controller here."""
        if name != "controller":
            super().start(name)


def _one_start(deployment: Deployment, user: str, choice: dict[str, object]) -> float:
    begin = time.perf_counter()
    response = deployment.start_server(user, choice)
    assert response.status_code in (201, 202), response.text
    while not deployment.server(user).get("ready"):
        assert time.perf_counter() - begin < 120, deployment.log("hub")[-3000:]
        time.sleep(0.01)
    seconds = time.perf_counter() - begin
    deployment.stop_server(user)
    while deployment.server(user):
        time.sleep(0.05)
    return seconds


def _resident_mib(deployment: Deployment) -> float:
    process = psutil.Process(deployment.processes["hub"].pid)
    return float(process.memory_info().rss) / 2**20


def measure() -> dict[str, Result]:
    """Run both hubs and alternate starts."""
    folder = Path(tempfile.mkdtemp(prefix="dcloud-bench-"))
    ours: list[float] = []
    plain: list[float] = []
    choice: dict[str, object] = {"profile": "cpu", "memory_gib": 1, "cpus": 2}
    profiles = ROOT / "tests" / "config" / "profiles"
    with (
        Deployment(folder / "dcloud", engine="docker", profiles_dir=profiles) as dcloud,
        PlainDeployment(folder / "plain", engine="docker", profiles_dir=profiles) as peer,
    ):
        dcloud.user("bench")
        peer.user("bench")
        for turn in range(STARTS + 1):
            pair = (
                _one_start(dcloud, "bench", choice),
                _one_start(peer, "bench", {}),
            )
            if turn:  # the first pair warms caches
                ours.append(pair[0])
                plain.append(pair[1])
        memory = paired(
            [_resident_mib(dcloud)], [_resident_mib(peer)], "MiB", "the plain hub's process"
        )
    return {
        "cold_start": paired(ours, plain, "s", "plain DockerSpawner, same image, in turn"),
        "hub_memory": memory,
    }
