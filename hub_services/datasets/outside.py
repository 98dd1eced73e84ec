"""Fetching from the world for an import, and from nothing inside.

A name is resolved once for each connection, what it was resolved to is judged
(``dcloud_spawner.datasets.addresses``), and exactly that address is connected to: no second
answer of a name server comes in between. Redirections are new requests and are judged anew. The
same pool serves minio-py for imports from another store.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationValueError, SSLError
from urllib3.util import Timeout

from dcloud_spawner.datasets.addresses import Reach, against
from dcloud_spawner.datasets.import_orders import check_url
from dcloud_spawner.datasets.paths import shown
from dcloud_spawner.datasets.reach import NotReached, bare, resolved
from dcloud_spawner.errors import InvalidChoice, Unavailable

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
REDIRECTIONS = 5
SLOW_AFTER_SECONDS = 600.0
SLOWEST_BYTES_PER_SECOND = 1024
"""A server that gives less, over so long, holds a place among the jobs and nothing else."""


class GivenUp(InvalidChoice):
    """The other side answered, and what it answered is no use."""

    code = "import_refused"


class SourceAway(Unavailable):
    """The other side does not answer, or broke off; trying again may help."""

    code = "source_away"


# ---------------------------------------------------------------------------- connections


def _dial(host: str, port: int, timeout_seconds: float, reach: Reach) -> socket.socket:
    """A connection to an address of the host that may be reached. Raises NotReached, GivenUp,
    OSError."""
    try:
        found = resolved(host, port)
    except (UnicodeError, socket.gaierror) as error:
        if getattr(error, "errno", None) == socket.EAI_AGAIN:
            raise
        raise GivenUp(
            f"There is no {shown(bare(host))}.", hint="Look at the address again."
        ) from error
    refused, failed = "it has no address", None
    for family, kind, protocol, _, address in found:
        reason = against(str(address[0]), port, reach)
        if reason is not None:
            refused = reason
            continue
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout_seconds)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(address)
        except OSError as error:
            connection.close()
            failed = error
            continue
        return connection
    if failed is not None:
        raise failed
    raise NotReached(bare(host), refused)


def guarded_pool(reach: Reach) -> urllib3.PoolManager:
    """A pool of connections that go only where ``reach`` lets them. No proxy of the environment
    is used, no redirection followed and nothing tried again by itself."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _dial(self.host, self.port or 80, CONNECT_SECONDS, reach)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _dial(self.host, self.port or 443, CONNECT_SECONDS, reach)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    pool = urllib3.PoolManager(
        maxsize=16,
        # By the machine's own authorities, a lab's among them.
        retries=False,
        timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        cert_reqs="CERT_REQUIRED",
    )
    pool.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return pool


# ---------------------------------------------------------------------------- one file


@dataclass(frozen=True)
class Found:
    """What the other side says of what it sends."""

    size_bytes: int | None
    """Of the whole; None when it does not say."""
    first_byte: int
    """Where the answer begins: what was asked for, or 0 when it sends all again."""
    validator: str
    """Says, sent back with a range, that it is still the same; empty when it has none."""
    name: str
    """The last part of the final address; maybe empty."""


class Source:
    """An answer that is read from its beginning."""

    def __init__(self, response: urllib3.BaseHTTPResponse, found: Found) -> None:
        self.found = found
        self._response = response
        self._began = time.monotonic()
        self._read = 0

    def read(self, most_bytes: int) -> bytes:
        """Up to so many bytes; empty at the end. Raises SourceAway, GivenUp."""
        try:
            part = self._response.read(most_bytes, decode_content=False)
        except (HTTPError, OSError) as error:
            raise SourceAway("The other side broke off.", hint="Try again later.") from error
        self._read += len(part)
        seconds = time.monotonic() - self._began
        if seconds > SLOW_AFTER_SECONDS and self._read < seconds * SLOWEST_BYTES_PER_SECOND:
            raise GivenUp("The other side sends almost nothing; the import was given up.")
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._response.close()


@contextmanager
def opened(
    pool: urllib3.PoolManager, url: str, *, first_byte: int = 0, validator: str = ""
) -> Iterator[Source]:
    """What an address of the web holds, from a byte on if the other side can and it is still the
    same. Raises NotReached, GivenUp, SourceAway."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "dcloud-import"}
    if first_byte and validator:
        headers |= {"Range": f"bytes={first_byte}-", "If-Range": validator}
    response, final = _follow(pool, url, headers)
    with Source(response, _found(response, final)) as source:
        if source.found.first_byte not in (0, first_byte if "Range" in headers else 0):
            raise GivenUp("The other side sends another part than was asked for.")
        yield source


def _follow(
    pool: urllib3.PoolManager, url: str, headers: dict[str, str]
) -> tuple[urllib3.BaseHTTPResponse, str]:
    for _ in range(REDIRECTIONS + 1):
        parts = urlsplit(check_url(url))
        try:
            response = pool.request(
                "GET", url, headers=headers, preload_content=False, redirect=False, retries=False
            )
        except (LocationValueError, SSLError) as error:
            words = "its certificate is not good" if isinstance(error, SSLError) else "no name"
            raise GivenUp(f"{parts.hostname} cannot be asked: {words}.") from error
        except (HTTPError, OSError) as error:
            log.info("Import from %s: %s", parts.hostname, error)
            raise SourceAway(
                f"{parts.hostname} does not answer: {_in_words(error)}.", hint="Try again later."
            ) from error
        if response.status not in (301, 302, 303, 307, 308):
            _check_status(response, parts.hostname or "")
            return response, url
        response.close()
        target = urljoin(url, response.headers.get("Location", ""))
        if parts.scheme == "https" and urlsplit(target).scheme != "https":
            raise GivenUp(f"{parts.hostname} sends on to an address without TLS.")
        url = target
    raise GivenUp(f"More than {REDIRECTIONS} redirections.")


def _in_words(error: Exception) -> str:
    """Nothing of what another part of the network answered: that is not for everybody to read."""
    slow = isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError)
    return "it takes too long" if slow else "no connection"


def _check_status(response: urllib3.BaseHTTPResponse, host: str) -> None:
    if response.status in (200, 206):
        return
    response.close()
    words = f"{host} answers with {response.status}."
    if response.status in (408, 425, 429) or response.status >= 500:
        raise SourceAway(words, hint="Try again later.")
    raise GivenUp(words, hint="Look whether the address is right and open to everybody.")


def _found(response: urllib3.BaseHTTPResponse, url: str) -> Found:
    headers = response.headers
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    first = 0
    if response.status == 206:
        span, _, whole = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if not start.isdecimal():
            raise GivenUp("The other side sends a part without saying which.")
        first = int(start)
        size = int(whole) if whole.isdecimal() else None
    return Found(size, first, validator, unquote(urlsplit(url).path.rpartition("/")[2]))
