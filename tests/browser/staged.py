"""A real hub and proxy on free ports with the staged spawner, and a browser on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_proxy, node_binary, proxy_command
from tests.patience import patient
from tests.services import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class StagedHub:
    """Use as a context manager; ``stage()`` says what a server does."""

    config = "hub_of_stages.py"

    def __init__(self, folder: Path, *, simulated: bool = True, note: str = "") -> None:
        self.folder = folder
        self.password = secrets.token_hex(8)
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._hub_url = f"http://127.0.0.1:{free_port()}"
        self._proxy_api = f"http://127.0.0.1:{free_port()}"
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
            "DCLOUD_STAGE": str(folder),
            "DCLOUD_STAGE_PASSWORD": self.password,
            "DCLOUD_STAGE_TOKEN": self.token,
            "DCLOUD_STAGE_URL": self.url,
            "DCLOUD_STAGE_HUB": self._hub_url,
            "DCLOUD_STAGE_PROXY": self._proxy_api,
            "DCLOUD_STAGE_SIMULATED": "1" if simulated else "",
            "DCLOUD_STAGE_NOTE": note,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> StagedHub:
        install_proxy(cache_dir())
        port, api = self.url.rsplit(":", 1)[1], self._proxy_api.rsplit(":", 1)[1]
        ports = [f"--port={port}", f"--api-port={api}"]
        self._start(
            "proxy", [*proxy_command(cache_dir()), "--ip=127.0.0.1", "--api-ip=127.0.0.1", *ports]
        )
        self.start_hub()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in ("hub", "proxy"):
            self.kill(name)

    def start_hub(self) -> None:
        """Start the hub and wait until it answers."""
        command = [sys.executable, "-m", "jupyterhub", "-f", str(HERE / self.config)]
        self._start("hub", command)
        deadline = time.monotonic() + patient(60)
        while time.monotonic() < deadline and self._processes["hub"].poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/hub/api", trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError("The hub did not come up:\n" + self.log("hub")[-5000:])

    def kill(self, name: str) -> None:
        """kill -9 of the hub or the proxy."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        """What it wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stage(self, user: str, server: str = "", **says: Any) -> None:
        """What this server does from now on: event, ready, fail, holding, stop_seconds."""
        self._write(f"{user}-{server}.json", says)

    def pool(self, **says: Any) -> None:
        """What is free: free, together, queue, images, last_choice; purse: who pays and limits."""
        self._write("pool.json", says)

    def posted(self) -> dict[str, Any]:
        """The last choice that was accepted."""
        found: dict[str, Any] = json.loads((self.folder / "posted.json").read_text())
        return found

    def request_start(self, user: str, server: str = "") -> None:
        """Start by REST, as the controller does after a restart."""
        path = f"servers/{server}" if server else "server"
        httpx.post(
            f"{self.url}/hub/api/users/{user}/{path}",
            headers={"Authorization": f"token {self.token}"},
            json={},
            timeout=30,
            trust_env=False,
        ).raise_for_status()

    def _write(self, name: str, content: dict[str, Any]) -> None:
        # Replaced whole, so that the hub never reads half of it.
        fresh = self.folder / f".{name}"
        fresh.write_text(json.dumps(content))
        fresh.replace(self.folder / name)

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


NODES = {"gpu-01": [4, "NVIDIA A100-SXM4-80GB", 80], "gpu-02": [2, "NVIDIA RTX A5000", 24]}


class QueueHub(StagedHub):
    """The real spawner, queue and pages; only the engine is in memory."""

    config = "hub_of_queue.py"

    def __init__(self, folder: Path, nodes: dict[str, list[Any]] | None = None) -> None:
        super().__init__(folder)
        self._environment["DCLOUD_STAGE_NODES"] = json.dumps(nodes or NODES)

    def pid(self, name: str) -> int:
        """Process id of the hub or the proxy."""
        return self._processes[name].pid

    def api(self) -> httpx.Client:
        """The hub's REST API with all rights."""
        return httpx.Client(
            base_url=f"{self.url}/hub/api",
            headers={"Authorization": f"token {self.token}"},
            timeout=60,
            trust_env=False,
        )

    def ask(self, user: str, choice: dict[str, Any], server: str = "") -> None:
        """Ask for a server of a user."""
        with self.api() as api:
            api.post(f"/users/{user}")
            path = f"servers/{server}" if server else "server"
            api.post(f"/users/{user}/{path}", json=choice).raise_for_status()

    def leave(self, user: str, server: str = "") -> None:
        """Stop a server or leave the queue."""
        with self.api() as api:
            path = f"servers/{server}" if server else "server"
            api.delete(f"/users/{user}/{path}").raise_for_status()


def axe_script() -> Path:
    """axe-core from its npm lock, installed once in the cache."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = cache_dir() / "axe" / hashlib.sha256(lock).hexdigest()[:16]
    script = folder / "node_modules/axe-core/axe.min.js"
    if not script.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(HERE / name, folder / name)
        npm = node_binary().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
        subprocess.run(
            [str(node_binary()), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            env={**os.environ, "PATH": f"{node_binary().parent}:{os.environ.get('PATH', '')}"},
            check=True,
            capture_output=True,
        )
    return script
