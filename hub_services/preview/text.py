"""The beginning of a text file."""

from __future__ import annotations

import codecs

from hub_services.preview.model import Text

HEAD_BYTES = 64 * 1024
MOST_LINES = 400
LONGEST_LINE = 2000

_ODD = (range(32), range(127, 160), range(0x202A, 0x202F), range(0x2066, 0x206A))
_HIDDEN = {
    code: "\N{REPLACEMENT CHARACTER}" for part in _ODD for code in part if chr(code) not in "\n\t"
}
"""Controls, and those that turn the direction of what follows: a text must look as it reads."""


def decode(head: bytes, *, whole: bool) -> str | None:
    """The text of the first bytes of a file, or None where they are no text."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return _decoded(head, name, whole)
    if b"\x00" in head:
        return None
    return _decoded(head, "utf-8", whole) or (
        head.decode("latin-1") if _looks_like_latin(head) else None
    )


def _decoded(head: bytes, name: str, whole: bool) -> str | None:
    decoder = codecs.getincrementaldecoder(name)("strict")
    try:
        return decoder.decode(head, final=whole)
    except UnicodeDecodeError:
        return None


def _looks_like_latin(head: bytes) -> bool:
    """Old tables and texts; hardly a control among the bytes."""
    odd = sum((byte < 32 and byte not in b"\t\r\n\f") or 127 <= byte < 160 for byte in head)
    return odd == 0


def text_head(head: bytes, size_bytes: int) -> Text | None:
    """The first lines, or None where the file is no text. ``head`` are its first bytes."""
    whole = len(head) >= size_bytes
    decoded = decode(head, whole=whole)
    if decoded is None:
        return None
    lines = decoded.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not whole and len(lines) > 1:
        lines.pop()  # cut in its middle
    cut = not whole or len(lines) > MOST_LINES
    shown = []
    for line in lines[:MOST_LINES]:
        if len(line) > LONGEST_LINE:
            line, cut = line[:LONGEST_LINE] + "…", True
        shown.append(line.translate(_HIDDEN))
    return Text("\n".join(shown), not cut)
