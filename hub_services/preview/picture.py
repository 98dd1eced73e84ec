"""Pictures by their own first bytes: what a file's name says is nobody's word."""

from __future__ import annotations

import struct

from hub_services.preview.model import Picture

HEAD_BYTES = 256 * 1024
LARGEST_BYTES = 32 * 2**20
LARGEST_PIXELS = 100_000_000
"""Beyond these a browser would take much memory for one picture."""


def picture(head: bytes) -> Picture | None:
    """The kind and measures of a picture of one of four kinds; None for anything else. SVG is
    none of them: it is a document that may run scripts."""
    for find in (_png, _gif, _webp, _jpeg):
        found = find(head)
        if found is not None:
            return found if found.width and found.height else None
    return None


def _png(head: bytes) -> Picture | None:
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 24:
        return None
    return Picture("image/png", *struct.unpack(">II", head[16:24]))


def _gif(head: bytes) -> Picture | None:
    if head[:6] not in (b"GIF87a", b"GIF89a") or len(head) < 10:
        return None
    return Picture("image/gif", *struct.unpack("<HH", head[6:10]))


def _webp(head: bytes) -> Picture | None:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        height = int.from_bytes(body[7:10], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (part & 0x3FFF for part in struct.unpack("<HH", body[6:10]))
    else:
        return None
    return Picture("image/webp", width, height)


def _jpeg(head: bytes) -> Picture | None:
    if head[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:  # filled up
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return Picture("image/jpeg", width, height)
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None
