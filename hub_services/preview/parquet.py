"""The first rows of a Parquet file, from a process that may fail (see ``parquet_worker``)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

from hub_services.preview.confined import ROOT, confined, environment
from hub_services.preview.model import Column, Read, Table
from hub_services.preview.parquet_worker import LENGTH

LONGEST_SECONDS = 20.0
MOST_BYTES = 48 * 2**20
"""Of one file, for its preview."""
LONGEST_LINE_BYTES = 8 * 2**20
_AT_ONCE = threading.BoundedSemaphore(2)
"""Each may take much memory."""


class Unreadable(Exception):
    """The file is not what its name says, or too large to look into. The text may be read."""


def parquet_head(read: Read, size_bytes: int) -> Table:
    """Blocks for up to twice ``LONGEST_SECONDS``. Raises Unreadable, and whatever ``read``
    raises."""
    if not _AT_ONCE.acquire(timeout=LONGEST_SECONDS):
        raise Unreadable("Others look into files just now. Try again in a moment.")
    try:
        return _read(read, size_bytes)
    finally:
        _AT_ONCE.release()


def _read(read: Read, size_bytes: int) -> Table:
    process = subprocess.Popen(
        [*confined(), sys.executable, "-m", "hub_services.preview.parquet_worker", str(size_bytes)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    late = threading.Timer(LONGEST_SECONDS, process.kill)
    late.start()
    try:
        return _answer(process, read)
    except (BrokenPipeError, ConnectionError) as error:
        raise Unreadable("It could not be read as Parquet.") from error
    finally:
        late.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _answer(process: subprocess.Popen[bytes], read: Read) -> Table:
    assert process.stdin is not None and process.stdout is not None
    left = MOST_BYTES
    while line := process.stdout.readline(LONGEST_LINE_BYTES):
        try:
            said = json.loads(line)
        except ValueError:
            break
        if "read" not in said:
            return _table(said)
        offset, length = (int(part) for part in said["read"])
        left -= length
        fair = length > 0 and offset >= 0 and left >= 0
        data = read(offset, length) if fair else None
        process.stdin.write(LENGTH.pack(-1 if data is None else len(data)))
        process.stdin.write(data or b"")
        process.stdin.flush()
    raise Unreadable("It could not be read as Parquet, or takes too long for a preview.")


def _table(said: dict[str, Any]) -> Table:
    if "table" not in said:
        raise Unreadable(f"It could not be read as Parquet: {str(said.get('problem'))[:300]}")
    found = said["table"]
    return Table(
        columns=tuple(Column(str(name), str(kind)) for name, kind in found["columns"]),
        rows=tuple(tuple(str(value) for value in row) for row in found["rows"]),
        more_columns=int(found["more_columns"]),
        total_rows=int(found["total_rows"]),
        note=str(found["note"]),
    )
