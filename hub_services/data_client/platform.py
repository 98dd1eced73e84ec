"""The platform's API and pages as the command line sees them: where, by which token, in JSON.

Standard library alone: these modules are in the images, too, beside Pythons that have nothing.
"""

from __future__ import annotations

import json
import os
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

API = "services/dcloud/api/v1"
TRIES = 5
WAIT_SECONDS = 60


class DataError(Exception):
    """What a person reads: what was wrong and what to do."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def access_file() -> Path:
    """Where ``dcloud data login`` keeps address and token."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder) / "dcloud" / "access.json"


@dataclass(frozen=True)
class Access:
    """An address of the service's API, and a token for it."""

    api: str
    token: str = field(repr=False)
    of_server: bool = False
    """It is the token of the server in which this runs: it may do less than its user."""

    @property
    def origin(self) -> str:
        """Scheme and host, by which parts of uploads reach the hub; "" inside a server, where
        the address is not the one for people."""
        if inside_api():
            return ""
        split = urlsplit(self.api)
        return f"{split.scheme}://{split.netloc}"


def find_access() -> Access:
    """From DCLOUD_URL and DCLOUD_TOKEN, the file of ``login``, or the server in which this runs.
    Raises DataError when there is none."""
    kept = _kept()
    inside = inside_api()
    url = os.environ.get("DCLOUD_URL") or kept.get("url") or ""
    token = os.environ.get("DCLOUD_TOKEN") or kept.get("token") or ""
    if token and (url or inside):
        return Access(inside or api_of(url), token)
    servers = os.environ.get("JUPYTERHUB_API_TOKEN", "")
    if inside and servers:
        return Access(inside, servers, of_server=True)
    raise DataError("No way in is known. Run: dcloud data login https://HUB")


def inside_api() -> str:
    """The API as a server reaches it, in which this runs; "" elsewhere."""
    return os.environ.get("DCLOUD_API_URL", "").rstrip("/")


def api_of(url: str) -> str:
    """The API of the hub at an address as people have it."""
    split = urlsplit(url if "://" in url else f"https://{url}")
    if split.scheme not in ("http", "https") or not split.netloc:
        raise DataError(f"{url!r} is no address of a hub.")
    path = split.path.partition("/hub")[0].partition("/services/")[0].rstrip("/")
    return f"{split.scheme}://{split.netloc}{path}/{API}"


def _kept() -> dict[str, str]:
    path = access_file()
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise DataError(f"{path} can be read by others. Run: chmod 600 {path}")
        return {key: str(value) for key, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def keep(url: str, token: str) -> Path:
    """Write address and token, for oneself alone."""
    path = access_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"url": url, "token": token}, file)
    new.replace(path)
    return path


def context() -> ssl.SSLContext:
    """Of the machine, with a site's own certificates where they are named."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or None)


class Platform:
    """Calls of the API; each is tried again while the platform does not answer."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context())
        )

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        **query: str | int | bool,
    ) -> Any:
        """The answer as JSON. Raises DataError in the platform's words."""
        data = json.dumps(body).encode() if body is not None else None
        given = {key: _text(value) for key, value in query.items() if value != ""}
        url = f"{self.access.api}/{path}" + (f"?{urlencode(given)}" if given else "")
        with self._open(method, url, data) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def page(self, path: str, first: int = 0, /, **query: str) -> Any:
        """Something that is sent as it is, opened to be read; from byte ``first`` on, if the
        platform can."""
        root = self.access.api.removesuffix("/api/v1")
        given = urlencode({key: value for key, value in query.items() if value != ""})
        headers = {"Range": f"bytes={first}-"} if first else {}
        return self._open("GET", f"{root}/{path}?{given}", None, headers)

    def all(self, path: str, items: str, **query: str | int | bool) -> Iterator[Any]:
        """All items of a list that pages by cursor."""
        cursor = ""
        while True:
            answer = self.call("GET", path, None, cursor=cursor, **query)
            yield from answer[items]
            cursor = answer["next_cursor"] or ""
            if not cursor:
                return

    def _open(
        self, method: str, url: str, data: bytes | None, more: Mapping[str, str] | None = None
    ) -> Any:
        headers = {"Authorization": f"token {self.access.token}", **(more or {})}
        if data is not None:
            headers["Content-Type"] = "application/json"
        for attempt in range(TRIES):
            request = urllib.request.Request(url, data=data, headers=headers, method=method)
            try:
                return self._opener.open(request, timeout=WAIT_SECONDS)
            except urllib.error.HTTPError as error:
                refused, seconds = self._refused(error), _pause(error, attempt)
                if seconds is None or attempt == TRIES - 1:
                    raise refused from None
            except OSError as error:
                refused = DataError(f"{self.access.api} does not answer: {error}", "away")
                seconds = 2.0**attempt
                if attempt == TRIES - 1:
                    raise refused from None
            time.sleep(seconds)
        raise AssertionError

    def _refused(self, error: urllib.error.HTTPError) -> DataError:
        if self.access.of_server and error.code in (401, 403):
            return DataError(
                "The token of this server may not do this. Make one of your own on the page "
                "Tokens and run: dcloud data login https://HUB",
                "not_allowed",
            )
        try:
            told = json.loads(error.read())["error"]
            return DataError(f"{told['message']} {told['hint']}".strip(), str(told["code"]))
        except (ValueError, KeyError, TypeError, OSError):
            return DataError(f"The platform answered {error.code} {error.reason}.")


def _pause(error: urllib.error.HTTPError, attempt: int) -> float | None:
    """How long to wait before another try; None: it would be refused again."""
    if error.code == 429:
        return min(60.0, float(error.headers.get("Retry-After") or 5))
    return 2.0**attempt if error.code in (502, 503, 504) else None


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def segment(text: str) -> str:
    """One part of an address."""
    return quote(text, safe="")
