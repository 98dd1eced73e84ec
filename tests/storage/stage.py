"""The web service behind a real hub and proxy, with a real MinIO behind it, and people whose
servers have datasets."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

import httpx
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

from dcloud_spawner.datasets import catalog
from dcloud_spawner.datasets.catalog import Description
from dcloud_spawner.datasets.rights import Asker
from dcloud_spawner.datasets.wishes import DatasetWish
from dcloud_spawner.platform import utc_now
from dcloud_spawner.storage import keys
from dcloud_spawner.storage.access import ACCESS_KEY, SECRET_KEY
from dcloud_spawner.store import dataset_files, datasets, homes
from dcloud_spawner.store.dataset_files import NewFile
from dcloud_spawner.store.datasets import Dataset, Version
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.workloads import Workload
from hub_services.cli.gate import gate_command, gate_environment
from tests import platforms
from tests.patience import patient
from tests.storage.servers import StorageServer
from tests.web_stage import WebStage


@dataclass(frozen=True)
class Held:
    """A dataset with one published version."""

    dataset: Dataset
    version: Version

    @property
    def reference(self) -> str:
        """owner/name"""
        return self.dataset.reference

    @property
    def prefix(self) -> str:
        """Where its files lie."""
        return keys.version_prefix(self.dataset.id, self.version.id)


OpenStage = Callable[..., AbstractContextManager["StorageStage"]]
"""Of the fixture ``open_stage``: a storage, and settings."""


class StorageStage(WebStage):
    """Use as a context manager."""

    def __init__(self, folder: Path, server: StorageServer | None, **settings: Any) -> None:
        self.server = server
        self.bucket = f"test-{secrets.token_hex(6)}"
        if server is not None:
            settings = {"storage_url": server.url, "storage_bucket": self.bucket, **settings}
        super().__init__(folder, **settings)
        self.tokens = folder / "tokens"

    def __enter__(self) -> StorageStage:
        self.tokens.mkdir(parents=True)
        self.server_environment = {"DCLOUD_TEST_TOKENS": str(self.tokens)}
        super().__enter__()
        if self.server is not None:
            for name, value in (
                (ACCESS_KEY, self.server.access_key),
                (SECRET_KEY, self.server.secret_key),
            ):
                path = self.settings.secrets_dir / name
                path.write_text(value)
                path.chmod(0o600)
            self.platform.storage.ensure_bucket()
            self._start("gate", gate_command(), {**os.environ, **gate_environment(self.settings)})
        return self

    # ------------------------------------------------------------------------ people and data

    def dataset(
        self, owner: str, name: str, files: Mapping[str, bytes], *, everyone: bool = False
    ) -> Held:
        """Somebody's, published."""
        self.token_of(owner)
        asker = Asker(Actor(owner, "10.0.0.9"))
        made = catalog.create(self.platform, asker, name, Description(everyone=everyone))
        now = utc_now()
        with self.platform.database.reading() as connection:
            draft = datasets.draft_of(connection, made.id)
        assert draft is not None
        for path, content in files.items():
            self.platform.storage.put(keys.file_key(made.id, draft.id, path), content)
        lines = [json.dumps({"path": path, "size": len(files[path])}) for path in sorted(files)]
        self.platform.storage.put(keys.manifest_key(made.id, draft.id), "\n".join(lines).encode())
        new = [
            NewFile(path, len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, content in files.items()
        ]
        with self.platform.database.transaction() as connection:
            dataset_files.put(connection, draft.id, new, owner, now)
            version = datasets.change_version(
                connection,
                draft.id,
                number=1,
                state="published",
                manifest_sha256="0" * 64,
                published_by=owner,
                published_at=now,
            )
            made = datasets.change(connection, made.id, latest_number=1, latest_version=version.id)
        return Held(made, version)

    def home(self, user: str) -> str:
        """Somebody's home, claimed; returns the bucket of their own space."""
        platforms.home(self.platform, user)
        with self.platform.database.reading() as connection:
            found = homes.of_user(connection, user)
        assert found is not None
        return keys.own_bucket(self.bucket, found.volume)

    def run(self, user: str, *held: Held, server: str = "") -> Workload:
        """A server of somebody with datasets, as the store knows it."""
        self.token_of(user)
        wishes = tuple(DatasetWish(each.reference) for each in held)
        return platforms.start(self.platform, user, 0, server=server, datasets=wishes)

    def server_token(self, user: str, server: str = "") -> str:
        """The token that the hub gives to a server: one is really started for it."""
        path = self.tokens / f"{user}.{server}.token"
        self.token_of(user)
        if not path.exists():
            part = f"servers/{server}" if server else "server"
            with self.hub() as hub:
                hub.post(f"/users/{user}/{part}").raise_for_status()
                deadline = time.monotonic() + patient(30)
                while not path.exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
        return path.read_text()

    def stop_servers(self) -> None:
        """End what ``server_token`` started."""
        with self.hub() as hub:
            for path in self.tokens.glob("*.token"):
                user, server, _ = path.name.split(".")
                hub.delete(f"/users/{user}/{f'servers/{server}' if server else 'server'}")

    def hub(self) -> httpx.Client:
        """The hub's API as the tester."""
        return httpx.Client(
            base_url=f"{self.url}/hub/api",
            headers={"Authorization": f"token {self.token}"},
            timeout=60,
            trust_env=False,
        )

    # ------------------------------------------------------------------------ credentials

    def with_token(self, token: str) -> httpx.Client:
        """The web service's API by any token."""
        return httpx.Client(
            base_url=f"{self.url}/services/dcloud/api/v1",
            headers={"Authorization": f"token {token}"},
            timeout=30,
            trust_env=False,
        )

    def credentials(self, token: str, **body: Any) -> dict[str, Any]:
        """Those that a server gets."""
        with self.with_token(token) as api:
            answer = api.post("/storage/credentials", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def s3(self, given: Mapping[str, Any]) -> Minio:
        """A client with these credentials."""
        assert self.server is not None
        return Minio(
            self.server.url.removeprefix("http://"),
            access_key=given["access_key"],
            secret_key=given["secret_key"],
            session_token=given["session_token"],
            secure=False,
            region=given["region"],
        )


def raw(
    server: StorageServer,
    given: Mapping[str, Any],
    method: str,
    path: str,
    query: str = "",
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    to: str = "",
) -> tuple[int, bytes]:
    """A signed request with the path exactly as it is written here, which clients would mend or
    refuse. ``to``: another host and port. Returns status and body."""
    host = server.url.removeprefix("http://")
    digest = hashlib.sha256(body).hexdigest()
    now = datetime.now(UTC)
    sent = {
        "Host": host,
        "x-amz-content-sha256": digest,
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        **({"x-amz-security-token": given["session_token"]} if given.get("session_token") else {}),
        **(headers or {}),
    }
    signed = sign_v4_s3(
        method=method,
        url=SplitResult("http", host, path, query, ""),
        region="us-east-1",
        headers=dict(sent),
        credentials=Credentials(given["access_key"], given["secret_key"]),
        content_sha256=digest,
        date=now,
    )
    connection = http.client.HTTPConnection(to or host, timeout=20)
    try:
        connection.putrequest(
            method,
            f"{path}?{query}" if query else path,
            skip_host=True,
            skip_accept_encoding=True,
        )
        for name, value in signed.items():
            connection.putheader(name, str(value))
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
