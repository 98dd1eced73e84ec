"""The first rows of a Parquet file, read in a process of its own: a file of somebody's is parsed
by much native code, which may crash, or want more memory and time than there is.

It holds no key and opens nothing; where bubblewrap works it sees no file but its own code
(``confined``), and where it is started by root, it is nobody's and without a network before it
looks at the first byte. It asks the process that started it for parts of the file
(``{"read": [offset, length]}``, a line each, on standard output), gets them by standard input
(eight bytes with their number, then they), and ends with ``{"table": …}`` or ``{"problem": …}``.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import struct
import sys
from typing import IO, Any

from hub_services.preview.model import MOST_COLUMNS, MOST_ROWS, cell

MEMORY_BYTES = 2 * 2**30
CPU_SECONDS = 10
BUFFER_BYTES = 256 * 1024
LARGEST_FOOTER_BYTES = 32 * 2**20
LENGTH = struct.Struct(">q")
_NOBODY = 65534
_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of <linux/sched.h>."""


class _Remote(io.RawIOBase):
    """The file at the other end of the pipe."""

    def __init__(self, size: int, ask: IO[str], answer: IO[bytes]) -> None:
        self._size, self._ask, self._answer, self._at = size, ask, answer, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        print(json.dumps({"read": [self._at, wanted]}), file=self._ask, flush=True)
        (length,) = LENGTH.unpack(self._answer.read(LENGTH.size))
        if length < 0:
            raise OSError("no more of it is read for a preview")
        data = self._answer.read(length)
        self._at += len(data)
        return data


def _limit() -> None:
    """Before anything of the file is looked at."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))


def _give_up_rights() -> None:
    """What takes this process over shall find nothing: no file of ours to read, nobody to call."""
    if os.geteuid() != 0:
        return
    ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK)  # not allowed in some containers
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


def table_of(source: Any) -> dict[str, object]:
    """Columns with their types, the first rows, and how many there are."""
    import pyarrow.parquet as pq  # only here: who starts this process has no use for it

    file = pq.ParquetFile(
        source,
        buffer_size=BUFFER_BYTES,  # page after page, not a whole column at once
        pre_buffer=False,
        thrift_string_size_limit=LARGEST_FOOTER_BYTES,
        thrift_container_size_limit=1_000_000,
    )
    fields = list(file.schema_arrow)
    shown = fields[:MOST_COLUMNS]
    rows: list[list[str]] = []
    note = ""
    try:
        if file.metadata.num_rows and shown:
            batch = next(
                file.iter_batches(
                    MOST_ROWS,
                    row_groups=[0],
                    columns=[field.name for field in shown],
                    use_threads=False,
                ),
                None,
            )
            if batch is not None:
                values = [[cell(value.as_py()) for value in column] for column in batch.columns]
                rows = [list(row) for row in zip(*values, strict=True)]
    except (OSError, ValueError, MemoryError, OverflowError, NotImplementedError) as error:
        note = f"Its rows cannot be shown: {cell(error)}"
    return {
        "columns": [[cell(field.name), cell(field.type)] for field in shown],
        "rows": rows,
        "more_columns": len(fields) - len(shown),
        "total_rows": file.metadata.num_rows,
        "note": note,
    }


def main() -> None:
    """``python -m hub_services.preview.parquet_worker SIZE``."""
    # All code is read before the rights are gone: its folder may be open to its owner alone.
    import decimal  # noqa: F401
    import zoneinfo  # noqa: F401

    import pyarrow.parquet  # noqa: F401

    _limit()
    _give_up_rights()
    answer, ask = sys.stdin.buffer, sys.stdout
    try:
        told: dict[str, object] = {"table": table_of(_Remote(int(sys.argv[1]), ask, answer))}
    except Exception as error:  # whatever is wrong with the file, the page says it in words
        told = {"problem": cell(error) or type(error).__name__}
    print(json.dumps(told), file=ask, flush=True)


if __name__ == "__main__":
    main()
