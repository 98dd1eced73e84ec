#!/usr/bin/python3 -I
"""Storage from inside a server, by credentials that are short-lived and renewed.

boto3, ``aws`` and s3fs work by themselves: this file is their credential process, and the server
writes their configuration when it starts. minio-py has no such thing, so here is a client::

    import dcloud_storage
    client = dcloud_storage.minio()

What the credentials reach is what this server has under ``~/datasets``, to read, and one's own
space, to read and write::

    dcloud_storage.places()  # {"street-scenes": "s3://dcloud/datasets/…/", "": "s3://…-own-…/"}
    dcloud_storage.files("street-scenes")  # path, size and SHA-256 of each file

Only the standard library is needed; minio-py for ``minio()`` and ``files()``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

SPARE_SECONDS = 330
"""What is valid for less than this is renewed when somebody asks."""

AHEAD_SECONDS = 570
"""botocore renews at the latest 10 minutes before credentials end, and ours live no longer than
15. So it is told an end that much later: it then begins to renew 5 minutes before the real one,
and never uses any that have ended."""


PATIENCE_SECONDS = 10
"""For so long the platform may be away, as while it is restarted, before anybody is told."""


class StorageError(Exception):
    """No credentials, in words for the person who asked."""


class PlatformAway(StorageError):
    """The same request may work in a moment."""


def credentials() -> dict[str, Any]:
    """Valid credentials and what they reach: those of the last call while they last long enough.

    Raises StorageError with the reason when there are none.
    """
    kept = _kept()
    if kept is not None:
        return kept
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fetched = _fetch()
        except PlatformAway:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
            continue
        _keep(fetched)
        return fetched


def places() -> dict[str, str]:
    """Where this server's datasets lie, by folder name, and under "" one's own space."""
    found = credentials()
    bucket = found["bucket"]
    known = {item["name"]: f"s3://{bucket}/{item['prefix']}" for item in found["datasets"]}
    if found.get("own_bucket"):
        known[""] = f"s3://{found['own_bucket']}/"
    return known


def files(name: str) -> list[dict[str, Any]]:
    """The files of a dataset by its folder name: ``path``, ``size`` and ``sha256`` of each, as its
    manifest has them. Some storages cannot keep a list to what may be seen, so S3 lists of
    datasets are not for everybody to make; this is."""
    found = credentials()
    for item in found["datasets"]:
        if item["name"] == name:
            answer = minio().get_object(found["bucket"], item["manifest"])
            try:
                return [json.loads(line) for line in answer.read().splitlines()]
            finally:
                answer.close()
                answer.release_conn()
    raise StorageError(f"This server has no dataset {name!r} that you may read.")


def minio(**more: Any) -> Any:
    """A client of minio-py that renews its credentials by itself."""
    from minio import Minio
    from minio.credentials import Credentials
    from minio.credentials.providers import Provider

    class Renewing(Provider):
        def retrieve(self) -> Any:
            now = credentials()
            return Credentials(now["access_key"], now["secret_key"], now["session_token"])

    first = credentials()
    scheme, _, host = first["endpoint"].rstrip("/").partition("://")
    given = {"secure": scheme == "https", "region": first["region"], **more}
    return Minio(host, credentials=Renewing(), **given)


def configure(*, own_comes_first: bool = True) -> dict[str, str]:
    """Write the configuration of boto3, ``aws`` and s3fs; returns what the environment needs.

    Somebody's own ``~/.aws`` stays in force, if ``own_comes_first``: then nothing is written.
    """
    if not os.environ.get("DCLOUD_STORAGE_URL"):
        return {}
    own = [os.path.expanduser(f"~/.aws/{name}") for name in ("config", "credentials")]
    told = "AWS_CONFIG_FILE" in os.environ or "AWS_ACCESS_KEY_ID" in os.environ
    if own_comes_first and (told or any(os.path.exists(path) for path in own)):
        return {}
    path = os.path.join(_folder(), "aws-config")
    lines = [
        "[default]",
        f"region = {os.environ.get('DCLOUD_STORAGE_REGION', 'us-east-1')}",
        f"endpoint_url = {os.environ['DCLOUD_STORAGE_URL']}",
        f"credential_process = {os.path.realpath(__file__)}",
        "s3 =",
        "    addressing_style = path",
        # What other servers than Amazon's do not all know.
        "request_checksum_calculation = when_required",
        "response_checksum_validation = when_required",
        # A storage that is away is said to be away soon.
        "max_attempts = 2",
        "",
    ]
    _write(path, "\n".join(lines))
    # With a file that is not there, the keys in somebody's own cannot be taken for ours.
    other = {} if own_comes_first else {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {"AWS_CONFIG_FILE": path, **other}


def _fetch() -> dict[str, Any]:
    url, token = os.environ.get("DCLOUD_API_URL"), os.environ.get("JUPYTERHUB_API_TOKEN")
    if not url or not token:
        raise StorageError("This works inside a server of DCloud only.")
    request = urllib.request.Request(
        f"{url.rstrip('/')}/storage/credentials",
        data=b"{}",
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
        method="POST",
    )
    try:
        # The hub is on this machine or beside it: a proxy for the world outside knows it not.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        away = error.code in (502, 503, 504)
        raise (PlatformAway if away else StorageError)(_words(error)) from None
    except (OSError, ValueError) as error:
        raise PlatformAway(f"The platform does not answer: {error}") from None


def _words(error: urllib.error.HTTPError) -> str:
    try:
        told = json.load(error)["error"]
        return f"{told['message']} {told['hint']}".strip()
    except (OSError, ValueError, KeyError, TypeError):
        return f"The platform refused: {error.code}"


def _kept() -> dict[str, Any] | None:
    """What is kept for all programs of this server, if it lasts long enough."""
    try:
        with open(os.path.join(_folder(), "credentials.json"), encoding="utf-8") as file:
            kept = dict(json.load(file))
        left_seconds = kept["expires_at_seconds"] - time.time()
        enough = min(SPARE_SECONDS, kept["life_seconds"] / 3)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    of_now = kept.get("workload") == os.environ.get("DCLOUD_WORKLOAD")
    return kept if of_now and left_seconds > enough else None


def _keep(fetched: dict[str, Any]) -> None:
    fetched["life_seconds"] = fetched["seconds"]
    fetched["expires_at_seconds"] = time.time() + fetched["seconds"] - 5
    with contextlib.suppress(OSError):
        _write(os.path.join(_folder(), "credentials.json"), json.dumps(fetched))


def _folder() -> str:
    """A folder of this user's alone, gone with the container."""
    path = os.path.join(tempfile.gettempdir(), f"dcloud-storage-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageError(f"{path} is not a folder of yours alone; remove it.")
    return path


def _write(path: str, text: str) -> None:
    """Whole or not at all, and readable by this user only."""
    descriptor, draft = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)


def main() -> int:
    """What a credential process answers."""
    try:
        found = credentials()
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    told_end = found["expires_at_seconds"] + AHEAD_SECONDS
    shown = datetime.datetime.fromtimestamp(told_end, datetime.UTC)
    json.dump(
        {
            "Version": 1,
            "AccessKeyId": found["access_key"],
            "SecretAccessKey": found["secret_key"],
            "SessionToken": found["session_token"],
            "Expiration": shown.isoformat(timespec="seconds"),
        },
        sys.stdout,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
