"""Parts of uploads, by PUT to the addresses that the platform signed; connections are kept."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import urlsplit

from .platform import DataError, context

TRIES = 6
BLOCK_BYTES = 1 << 20
WAIT_SECONDS = 120


class Sender:
    """One connection a thread and host."""

    def __init__(self) -> None:
        self._local = threading.local()

    def put(
        self, url: str, file: BinaryIO, first: int, size: int, sent: Callable[[int], None]
    ) -> None:
        """Send ``size`` bytes of a file from ``first`` on; ``sent`` is told bytes as they go, and
        fewer than none when they have to go again. Raises DataError; with the code ``expired``
        when the address is not good any more."""
        for attempt in range(TRIES):
            gone = 0
            try:
                connection = self._connection(url)
                split = urlsplit(url)
                connection.putrequest("PUT", f"{split.path}?{split.query}")
                connection.putheader("Content-Length", str(size))
                connection.endheaders()
                file.seek(first)
                while gone < size:
                    block = file.read(min(BLOCK_BYTES, size - gone))
                    if not block:
                        self._forget(url)
                        raise DataError("The file became shorter while it was sent.")
                    connection.send(block)
                    gone += len(block)
                    sent(len(block))
                answer = connection.getresponse()
                said = answer.read()
                if answer.status == 200:
                    return
                problem = _problem(answer.status, said)
            except (OSError, http.client.HTTPException) as error:
                problem = DataError(f"The storage does not answer: {error}", "away")
            sent(-gone)
            self._forget(url)
            if problem.code != "away" or attempt == TRIES - 1:
                raise problem
            time.sleep(min(20.0, 2.0**attempt))

    def _connection(self, url: str) -> http.client.HTTPConnection:
        split = urlsplit(url)
        known: dict[str, http.client.HTTPConnection] = self._local.__dict__.setdefault("known", {})
        if split.netloc not in known:
            if split.scheme == "https":
                known[split.netloc] = http.client.HTTPSConnection(
                    split.netloc, timeout=WAIT_SECONDS, context=context()
                )
            else:
                known[split.netloc] = http.client.HTTPConnection(split.netloc, timeout=WAIT_SECONDS)
        return known[split.netloc]

    def _forget(self, url: str) -> None:
        known: dict[str, http.client.HTTPConnection] = self._local.__dict__.setdefault("known", {})
        old = known.pop(urlsplit(url).netloc, None)
        if old is not None:
            old.close()


def _problem(status: int, said: bytes) -> DataError:
    if status >= 500 or status == 429:
        return DataError(f"The storage answered {status}.", "away")
    if status == 403:
        return DataError("The storage refused a part (403).", "expired")
    return DataError(f"The storage refused a part: {status} {said[:200]!r}", "refused")
