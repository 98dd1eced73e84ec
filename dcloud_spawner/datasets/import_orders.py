"""What somebody asks to import, looked at before anything is fetched (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from dcloud_spawner.datasets.paths import clean_folder, clean_path, shown
from dcloud_spawner.errors import InvalidChoice

LONGEST_URL = 2048
LONGEST_KEY = 1024

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.IGNORECASE)
_REGION = re.compile(r"[a-z0-9-]{0,40}")


def check_url(given: str, field: str = "url") -> str:
    """An address of the web, without a name or password in it. Raises InvalidChoice."""
    text = given.strip()
    if len(text) > LONGEST_URL or any(ord(c) <= 32 or ord(c) == 127 for c in text):
        raise InvalidChoice(f"{field}: {shown(given)} is no address.", field=field)
    try:
        parts = urlsplit(text)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_right = urlsplit(""), False
    if not port_is_right or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidChoice(
            f"{field}: {shown(given)} is no address of the web.",
            hint="It begins with https:// or http://.",
            field=field,
        )
    if parts.username is not None or parts.password is not None or "\\" in parts.netloc:
        raise InvalidChoice(
            f"{field}: no name or password in the address, please.",
            hint="Import from a store with its keys, or give a presigned address.",
            field=field,
        )
    return text


def without_secrets(url: str) -> str:
    """The address as it may be shown: what is asked (``?...``) may be a signature."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


@dataclass(frozen=True)
class UrlOrder:
    """A file of the web. ``path`` is where it goes: a file, or with ``unpack`` a folder."""

    url: str = field(repr=False)
    path: str = ""
    unpack: bool = False

    def __post_init__(self) -> None:
        check_url(self.url)

    @property
    def shown(self) -> dict[str, Any]:
        """What may be written down and read by all who see the job."""
        return {"url": without_secrets(self.url), "path": self.path, "unpack": self.unpack}

    @property
    def secret(self) -> dict[str, str]:
        """What is kept in a file of its own until the job ends."""
        return {"url": self.url}


@dataclass(frozen=True)
class StoreOrder:
    """All objects below a prefix of another store's bucket, into a folder."""

    endpoint: str
    bucket: str
    prefix: str = ""
    folder: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)

    @property
    def shown(self) -> dict[str, Any]:
        """What may be written down and read by all who see the job."""
        kept = ("endpoint", "bucket", "prefix", "folder", "region")
        return {key: value for key, value in asdict(self).items() if key in kept}

    @property
    def secret(self) -> dict[str, str]:
        """What is kept in a file of its own until the job ends."""
        return {
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "session_token": self.session_token,
        }


def url_order(url: str, path: str = "", *, unpack: bool = False) -> UrlOrder:
    """An order as somebody wrote it; without a path the name in the address. Raises
    InvalidChoice."""
    checked = check_url(url)
    if unpack:
        return UrlOrder(checked, clean_folder(path.strip("/"), "path"), unpack=True)
    name = unquote(urlsplit(checked).path.rpartition("/")[2])
    wanted = f"{path}{name}" if path.endswith("/") else path or name
    if not wanted:
        raise InvalidChoice(
            "path: the address ends without a name of a file.",
            hint="Say under which path the file is to be kept.",
            field="path",
        )
    return UrlOrder(checked, clean_path(wanted), unpack=False)


def store_order(given: Mapping[str, str]) -> StoreOrder:
    """An order for another store as somebody wrote it. Raises InvalidChoice."""
    endpoint = check_url(given.get("endpoint") or "https://s3.amazonaws.com", "endpoint")
    parts = urlsplit(endpoint)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidChoice(
            "endpoint: only the address of the server, without a path.", field="endpoint"
        )
    bucket = given.get("bucket", "")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidChoice(f"bucket: {shown(bucket)} is no name of a bucket.", field="bucket")
    region = given.get("region", "")
    if not _REGION.fullmatch(region):
        raise InvalidChoice(f"region: {shown(region)} is no region.", field="region")
    access, secret = given.get("access_key", ""), given.get("secret_key", "")
    if bool(access) != bool(secret):
        raise InvalidChoice(
            "secret_key: both keys, or none for a bucket that is open to everybody.",
            field="secret_key",
        )
    prefix = given.get("prefix", "")
    if len(prefix.encode()) > LONGEST_KEY or any(ord(c) < 32 for c in prefix):
        raise InvalidChoice(f"prefix: {shown(prefix)} is no prefix.", field="prefix")
    return StoreOrder(
        endpoint=f"{parts.scheme}://{parts.netloc}",
        bucket=bucket,
        prefix=prefix.lstrip("/"),
        folder=clean_folder(given.get("folder", "").strip("/")),
        region=region,
        access_key=access,
        secret_key=secret,
        session_token=given.get("session_token", ""),
    )


def target_path(order_prefix: str, folder: str, key: str) -> str | None:
    """The path at which an object of another store is kept: its key without the prefix up to its
    last ``/``. None for what stands for a folder. Raises InvalidChoice for what is no path."""
    if key.endswith("/"):
        return None
    base = order_prefix[: order_prefix.rfind("/") + 1]
    inner = key.removeprefix(base)
    return clean_path(f"{folder}/{inner}" if folder else inner)
