"""A real hub and proxy for the tests of sign-in, and browsers' view of it over HTTP."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil

from dcloud_spawner.authenticator.bootstrap import bootstrap_admin_link
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import events
from dcloud_spawner.store.database import Database
from hub_services.cli.deployment import cache_dir
from hub_services.cli.node import install_proxy, proxy_command
from tests.patience import patient
from tests.services import free_port

ROOT = Path(__file__).parents[2]
GOOD_PASSWORD = "plum orbit lantern"


class SignInHub:
    """A proxy and a hub with DCloud's sign-in, in a state folder of their own."""

    def __init__(
        self,
        state: Path,
        *,
        secret_files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        values: dict[str, object] = {
            "state": state,
            "port": free_port(),
            "hub_port": free_port(),
            "proxy_api_port": free_port(),
            "profiles_dir": ROOT / "tests" / "config" / "profiles",
            **settings,
        }
        self.settings = Settings(**values)  # type: ignore[arg-type]
        self._secrets = {"cookie_secret": secrets.token_hex(32), **(secret_files or {})}
        self.tester = secrets.token_hex(16)
        self.environment = {
            **os.environ,
            **(environment or {}),
            "DCLOUD_TEST_TOKEN": self.tester,
            "DCLOUD_CONFIG": os.devnull,
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
            "PYTHONPATH": str(ROOT),
            **{f"DCLOUD_{key.upper()}": _text(value) for key, value in values.items()},
        }
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._admin: Visitor | None = None

    def __enter__(self) -> SignInHub:
        install_proxy(cache_dir())
        folder = self.settings.secrets_dir
        folder.mkdir(parents=True, mode=0o700)
        for name, secret in self._secrets.items():
            (folder / name).write_text(secret)
            (folder / name).chmod(0o600)
        self.database = Database(self.settings.store_url)
        self.database.migrate()
        try:
            self._start(
                "proxy",
                [
                    *proxy_command(cache_dir()),
                    "--ip=127.0.0.1",
                    f"--port={self.settings.port}",
                    "--api-ip=127.0.0.1",
                    f"--api-port={self.settings.proxy_api_port}",
                ],
            )
            self.start_hub()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._processes):
            self._end(name, signal.SIGTERM)
        self.database.close()

    def start_hub(self) -> None:
        """Start the hub and wait until it answers through the proxy."""
        config = ROOT / "tests" / "config" / "sign_in_under_test.py"
        self._start("hub", [sys.executable, "-m", "jupyterhub", "-f", str(config)])
        deadline = time.monotonic() + patient(60)
        while time.monotonic() < deadline and self._processes["hub"].poll() is None:
            try:
                if httpx.get(f"{self.url}/hub/api", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise RuntimeError("The hub did not come up:\n" + self.log()[-5000:])

    def kill_hub(self) -> None:
        """kill -9."""
        self._end("hub", signal.SIGKILL)

    def log(self) -> str:
        """Everything the hub and the proxy wrote, the hub at its most talkative."""
        return "".join(
            (self.settings.state / f"{name}.log").read_text(errors="replace")
            for name in ("hub", "proxy")
        )

    def _start(self, name: str, command: list[str]) -> None:
        with (self.settings.state / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=self.settings.state,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def _end(self, name: str, number: int) -> None:
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # ---- people

    def visitor(self, address: str = "127.0.0.1") -> Visitor:
        """A browser without a session, at an address of its own."""
        return Visitor(self.url, address)

    def admin(self, password: str = GOOD_PASSWORD) -> Visitor:
        """A signed-in administrator ``admin``; the first call makes them by the one-time link."""
        if self._admin is None or not self._admin.is_in:
            link = bootstrap_admin_link(self.database, self.settings)
            self._admin = self.visitor()
            if link is not None:
                answer = self._admin.use_link(link)
                assert answer.status_code == 303, answer.text
            answer = self._admin.sign_in("admin", password)
            assert answer.status_code == 303, self._admin.said(answer)
        return self._admin

    def member(self, name: str) -> Visitor:
        """A signed-up and approved user, signed in."""
        visitor = self.visitor()
        assert visitor.sign_up(name).status_code == 303
        assert self.admin().act("approve", name).status_code == 303
        answer = visitor.sign_in(name)
        assert answer.status_code == 303, visitor.said(answer)
        return visitor

    def user(self, name: str) -> dict[str, Any]:
        """The hub's model of a user; empty when it has none."""
        answer = httpx.get(
            f"{self.url}/hub/api/users/{name}",
            headers={"Authorization": f"token {self.tester}"},
            trust_env=False,
        )
        model: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return model

    def server_token(self, name: str) -> str:
        """The token that a user's running server was started with."""
        for process in psutil.Process(self._processes["hub"].pid).children():
            environment = process.environ()
            if environment.get("JUPYTERHUB_USER") == name:
                return environment["JUPYTERHUB_API_TOKEN"]
        raise AssertionError(f"{name} has no running server")

    def acts(self, target: str) -> list[events.Event]:
        """The action log of one account."""
        with self.database.reading() as connection:
            return list(events.read(connection, target=target))


class Visitor(httpx.Client):
    """A browser, as far as HTTP goes: cookies, forms, the XSRF field of the page it has loaded."""

    def __init__(self, url: str, address: str) -> None:
        super().__init__(
            base_url=url,
            timeout=30,
            trust_env=False,
            headers={"User-Agent": "test", "Sec-Fetch-Mode": "navigate"},
            transport=httpx.HTTPTransport(local_address=address),
        )

    def form(self, path: str, fields: Mapping[str, str], *, page: str = "") -> httpx.Response:
        """Load a page and send its form."""
        token = re.search(r'name="_xsrf" value="([^"]+)"', self.get(page or path).text)
        assert token, f"no form at {page or path}"
        return self.post(path, data={"_xsrf": token[1], **fields})

    def sign_up(self, name: str, password: str = GOOD_PASSWORD, **fields: str) -> httpx.Response:
        """Send the sign-up form."""
        both = {"password": password, "password_again": password}
        return self.form("/hub/signup", {"username": name, **both, **fields})

    def sign_in(self, name: str, password: str = GOOD_PASSWORD) -> httpx.Response:
        """Send the sign-in form."""
        return self.form("/hub/login", {"username": name, "password": password})

    def use_link(self, link: str, password: str = GOOD_PASSWORD) -> httpx.Response:
        """What the page at a one-time link does with its fragment."""
        token = parse_qs(urlsplit(link).fragment)["token"][0]
        fields = {"token": token, "password": password, "password_again": password}
        return self.form("/hub/reset", fields)

    def act(self, action: str, name: str, **fields: str) -> httpx.Response:
        """What an administrator's button does."""
        return self.form("/hub/approvals", {"action": action, "name": name, **fields})

    def make_link(self, name: str) -> str:
        """Press the button for a one-time link and read it off the page."""
        answer = self.act("link", name)
        found = re.search(r'id="one-time-link">([^<]+)<', answer.text)
        assert found, self.said(answer)
        return found[1].replace("&amp;", "&")

    @property
    def is_in(self) -> bool:
        """Whether the session holds."""
        return self.get("/hub/home").status_code == 200

    @property
    def is_admin(self) -> bool:
        """Whether the hub's own administration opens."""
        return self.get("/hub/admin").status_code == 200

    @staticmethod
    def said(answer: httpx.Response) -> str:
        """The page's text without its markup, for messages and searches."""
        body = re.sub(r"<(script|style|svg).*?</\1>", " ", answer.text, flags=re.S)
        text = re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'")
        return f"{answer.status_code} " + " ".join(text.split())


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, (list, tuple, dict, bool)) else str(value)
