"""Amounts of data in words."""

from __future__ import annotations


def size_words(count: int) -> str:
    """Bytes in the largest binary unit that fits: ``1.5 GiB``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} byte{'' if count == 1 else 's'}"
