"""A real Keycloak, from Maven: the distribution cached once, the data in memory, one realm.

It lies outside the checkout, in ``$DCLOUD_CACHE`` or ``~/.cache/dcloud``, and ends by its id.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.patience import patient
from tests.services import Missing, free_port, say

VERSION = "26.2.5"
REALM = "lab"
CLIENT = "dcloud"
BUILT_WITH = ("--db=dev-mem", "--health-enabled=false")
PASSWORD = "plum orbit lantern"


def distribution() -> Path:
    """Folder of the unpacked distribution; fetched (155 MB) the first time. Raises Missing."""
    for command in ("java", "mvn"):
        if shutil.which(command) is None:
            raise Missing(f"no {command} for Keycloak. apt-get install default-jre-headless maven")
    cache = Path(os.environ.get("DCLOUD_CACHE") or "~/.cache/dcloud").expanduser().absolute()
    folder = cache / f"keycloak-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "keycloak.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(cache, folder)
    return folder


def _fetch(cache: Path, folder: Path) -> None:
    say(f"fetching Keycloak {VERSION} (155 MB) into {cache}")
    plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
    artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
    done = subprocess.run(
        ["mvn", "-q", "-B", plugin, f"-Dartifact={artifact}", f"-DoutputDirectory={cache}"],
        cwd=cache,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise Missing(f"Keycloak cannot be had from Maven: {done.stdout.strip()[-500:]}")
    archive = cache / f"keycloak-quarkus-dist-{VERSION}.zip"
    unpacked = Path(tempfile.mkdtemp(prefix="unpack-", dir=cache))
    try:
        shutil.unpack_archive(archive, unpacked)
        # Once and for all, or every start would spend most of its time on it.
        subprocess.run(
            ["bash", "bin/kc.sh", "build", *BUILT_WITH],
            cwd=unpacked / f"keycloak-{VERSION}",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (unpacked / f"keycloak-{VERSION}").rename(folder)
    finally:
        shutil.rmtree(unpacked)
        archive.unlink()


class Keycloak:
    """A running Keycloak with the realm ``lab`` and the client ``dcloud``."""

    def __init__(self, folder: Path) -> None:
        self.client_secret = secrets.token_hex(24)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._admin_password = secrets.token_hex(16)
        self._distribution = distribution()
        self._log = folder / "keycloak.log"
        self._api = httpx.Client(base_url=f"{self.url}/admin/realms", timeout=30, trust_env=False)

    def __enter__(self) -> Keycloak:
        port = self.url.rpartition(":")[2]
        command = ["bash", str(self._distribution / "bin" / "kc.sh"), "start", "--optimized"]
        command += ["--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={port}"]
        command += ["--hostname-strict=false", "--cache=local", "--log-level=warn"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
                    # For a minute's work the second compiler takes longer than it saves.
                    "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",
                    "KC_BOOTSTRAP_ADMIN_USERNAME": "root",
                    "KC_BOOTSTRAP_ADMIN_PASSWORD": self._admin_password,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # kc.sh and its java, to end them together
            )
        try:
            self._wait()
            self._sign_in()
            self._api.post("", json=_realm(self.client_secret)).raise_for_status()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._api.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its data is in memory
        self._process.wait()

    def _wait(self, seconds: float = 240) -> None:
        deadline = time.monotonic() + patient(seconds)
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.url}/realms/master/.well-known/openid-configuration"
                if httpx.get(url, trust_env=False, timeout=30).status_code == 200:
                    return
            time.sleep(0.3)
        raise RuntimeError("Keycloak did not come up:\n" + self._log.read_text()[-3000:])

    def _sign_in(self) -> None:
        answer = httpx.post(
            f"{self.url}/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "password",
                "client_id": "admin-cli",
                "username": "root",
                "password": self._admin_password,
            },
            trust_env=False,
            timeout=30,
        )
        token = answer.raise_for_status().json()["access_token"]
        self._api.headers["Authorization"] = f"Bearer {token}"

    # ---- the lab's directory

    @property
    def issuer(self) -> str:
        """The realm's OpenID Connect endpoints."""
        return f"{self.url}/realms/{REALM}/protocol/openid-connect"

    def user(self, name: str, *groups: str) -> None:
        """Make a user in these groups, or move an existing one to exactly these."""
        self._sign_in()
        known = self._api.get(f"/{REALM}/users", params={"username": name, "exact": "true"}).json()
        if not known:
            self._api.post(f"/{REALM}/users", json=_user(name)).raise_for_status()
            known = self._api.get(f"/{REALM}/users", params={"username": name}).json()
        user = f"/{REALM}/users/{known[0]['id']}/groups"
        for group in self._api.get(user).json():
            self._api.delete(f"{user}/{group['id']}").raise_for_status()
        every = {group["name"]: group["id"] for group in self._api.get(f"/{REALM}/groups").json()}
        for group in groups:
            self._api.put(f"{user}/{every[group]}").raise_for_status()


def _user(name: str) -> dict[str, Any]:
    return {
        "username": name,
        "enabled": True,
        "email": f"{name}@lab.example",
        "emailVerified": True,
        "firstName": name,
        "lastName": "Example",
        "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
    }


def _realm(client_secret: str) -> dict[str, Any]:
    membership = {
        "name": "groups",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-group-membership-mapper",
        "config": {"claim.name": "groups", "full.path": "false", "userinfo.token.claim": "true"},
    }
    client = {
        "clientId": CLIENT,
        "secret": client_secret,
        "redirectUris": ["*"],
        "standardFlowEnabled": True,
        "directAccessGrantsEnabled": False,
        # Keycloak itself refuses a sign-in without PKCE.
        "attributes": {"pkce.code.challenge.method": "S256"},
        "protocolMappers": [membership],
    }
    return {
        "realm": REALM,
        "enabled": True,
        "sslRequired": "none",
        "groups": [{"name": "members"}, {"name": "chiefs"}, {"name": "vision"}],
        "clients": [client],
    }
