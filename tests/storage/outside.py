"""A server of the web that imports come from: on loopback, which a test has to open."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote


@dataclass
class Page:
    """What one path answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = -1
    """What it says of its length: -1 the truth, None nothing."""
    ranges: bool = True
    bytes_per_second: int | None = None
    begins_at: int = 0
    """It sends a part that nobody asked for."""


class Outside(http.server.ThreadingHTTPServer):
    """Serves pages and notes who asked for what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []
        """Path and range of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Outside
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        page = self.server.pages.get(path, Page(b"no", 404))
        first = 0
        wanted = self.headers.get("Range", "")
        etag = page.headers.get("ETag", "")
        if page.begins_at:
            first = page.begins_at
        elif page.ranges and wanted and self.headers.get("If-Range", etag) == etag:
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
        body = page.body[first:]
        self.send_response(206 if first else page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if first:
            last = len(page.body) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(page.body)}")
        if page.length is not None:
            self.send_header("Content-Length", str(len(body) if page.length < 0 else page.length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            self._send(body, page.bytes_per_second)

    def _send(self, body: bytes, bytes_per_second: int | None) -> None:
        if bytes_per_second is None:
            self.wfile.write(body)
            return
        step = max(1, bytes_per_second // 20)
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def outside() -> Iterator[Outside]:
    """One server for a test."""
    server = Outside()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
