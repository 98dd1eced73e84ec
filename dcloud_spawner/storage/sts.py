"""Short-lived keys: STS AssumeRole with a session policy."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

import urllib3
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_sts
from urllib3.exceptions import HTTPError

from dcloud_spawner.storage.access import StorageAccess
from dcloud_spawner.storage.errors import StorageAway, StorageRefused
from dcloud_spawner.storage.failures import in_short

LIFE_SECONDS = 900
"""How long keys live: the shortest that STS gives, and the longest that a revoked share lives."""


@dataclass(frozen=True)
class TemporaryKeys:
    """Keys with their end."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: datetime


def assume(access: StorageAccess, policy: str, seconds: int = LIFE_SECONDS) -> TemporaryKeys:
    """Keys that may do what ``policy`` allows, for ``seconds``. Blocks.

    Raises StorageAway, and StorageRefused where the storage knows no STS.
    """
    body = urlencode(
        {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "DurationSeconds": str(seconds),
            "Policy": policy,
        }
    ).encode()
    digest = hashlib.sha256(body).hexdigest()
    now = datetime.now(UTC)
    headers = sign_v4_sts(
        method="POST",
        url=urlsplit(f"{access.url}/"),
        region=access.region,
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            "Host": access.host,
            "X-Amz-Date": now.strftime("%Y%m%dT%H%M%SZ"),
        },
        credentials=Credentials(access_key=access.access_key, secret_key=access.secret_key),
        content_sha256=digest,
        date=now,
    )
    try:
        with urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=20)) as pool:
            answer = pool.request(
                "POST",
                f"{access.url}/",
                body=body,
                headers={name: str(value) for name, value in headers.items()},
                retries=urllib3.Retry(total=2, backoff_factor=0.2, redirect=0),
            )
    except (HTTPError, OSError) as error:
        raise StorageAway(f"STS: {in_short(error)}") from error
    if answer.status >= 500 and answer.status != 501:
        raise StorageAway(f"STS answered {answer.status}")
    if answer.status != 200:
        raise StorageRefused(*_refusal(answer.data, answer.status))
    return _keys(answer.data)


def _keys(data: bytes) -> TemporaryKeys:
    try:
        found = {element.tag.rpartition("}")[2]: element.text or "" for element in _tree(data)}
        return TemporaryKeys(
            found["AccessKeyId"],
            found["SecretAccessKey"],
            found["SessionToken"],
            datetime.fromisoformat(found["Expiration"]),
        )
    except (ET.ParseError, KeyError, ValueError) as error:
        raise StorageRefused("NoSTS", "what answered is no STS") from error


def _refusal(data: bytes, status: int) -> tuple[str, str]:
    try:
        found = {element.tag.rpartition("}")[2]: element.text or "" for element in _tree(data)}
    except ET.ParseError:
        found = {}
    return found.get("Code", str(status)), found.get("Message", "STS refused")


def _tree(data: bytes) -> list[ET.Element]:
    return list(ET.fromstring(data.decode(errors="replace")).iter())
