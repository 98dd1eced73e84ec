"""Bytes of an object on their way to a reader, through a storage that may be away for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from dcloud_spawner.errors import Unavailable
from dcloud_spawner.storage.errors import ObjectMissing, StorageAway, StorageRefused
from dcloud_spawner.storage.store import ObjectStore

log = logging.getLogger(__name__)

BLOCK_BYTES = 512 * 1024
PATIENCE_SECONDS = 75.0
"""For so long a download that has begun waits for a storage that went away."""
PAUSE_SECONDS = 1.0


def lost() -> Unavailable:
    """A file that is in a version and not in the storage."""
    return Unavailable(
        "The storage does not have this file, although it should.",
        hint="Tell an administrator: the log of the service says which object it is.",
        code="file_lost",
    )


def stored(
    storage: ObjectStore, key: str, size_bytes: int, *, patient: bool = False, begin: int = 0
) -> Iterator[bytes]:
    """An object's bytes from ``begin`` on, from when the first is asked for. Blocks.

    When the storage goes away in between, it goes on from the same byte of the same object once it
    is back; ``patient``: also before the first byte. Raises StorageAway, and Unavailable for what
    is not there or not the same any more.
    """
    at, etag, until = begin, "", 0.0
    while at < size_bytes:
        try:
            with storage.open(key, at) as reader:
                if etag and reader.etag != etag:
                    raise lost()
                etag = reader.etag
                for part in reader.chunks(BLOCK_BYTES):
                    at += len(part)
                    until = 0.0
                    yield part
            if at < size_bytes:
                raise StorageAway("it ended early")
        except (ObjectMissing, StorageRefused) as error:
            log.error("The storage does not give %s: %s", key, error)
            raise lost() from error
        except StorageAway:
            now = time.monotonic()
            until = until or now + PATIENCE_SECONDS
            if now >= until or not (at or patient):
                raise
            time.sleep(PAUSE_SECONDS)


def opened(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with the first part read already: what cannot be read is refused before anything
    is sent."""
    first = next(parts, b"")

    def every() -> Iterator[bytes]:
        yield first
        yield from parts

    return every()
