"""A file's preview: which reader it goes to. Never HTML or SVG but as text."""

from __future__ import annotations

from hub_services.preview import csv_table, picture, text
from hub_services.preview.model import Kind, Preview, Read
from hub_services.preview.parquet import Unreadable, parquet_head

CSV = {".csv": False, ".tsv": True, ".tab": True}
PARQUET = (".parquet", ".pq", ".parq")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
OTHER = "There is no preview of this kind of file."


def preview(path: str, size_bytes: int, read: Read) -> Preview:
    """Look into a file; ``read`` gives its parts. Blocks. Raises what ``read`` raises."""
    name = path.lower()
    if size_bytes == 0:
        return Preview(Kind.NONE, note="The file is empty.")
    if name.endswith(PARQUET):
        return _parquet(size_bytes, read)
    if name.endswith(PICTURES):
        return _picture(size_bytes, read)
    head = read(0, min(size_bytes, text.HEAD_BYTES))
    for ending, tabs in CSV.items():
        if name.endswith(ending):
            table = csv_table.csv_head(head, size_bytes, tabs=tabs)
            if table is not None:
                return Preview(Kind.TABLE, table=table)
    shown = text.text_head(head, size_bytes)
    return Preview(Kind.TEXT, text=shown) if shown else Preview(Kind.NONE, note=OTHER)


def _parquet(size_bytes: int, read: Read) -> Preview:
    try:
        return Preview(Kind.TABLE, table=parquet_head(read, size_bytes))
    except Unreadable as error:
        return Preview(Kind.NONE, note=str(error))


def _picture(size_bytes: int, read: Read) -> Preview:
    if size_bytes > picture.LARGEST_BYTES:
        limit = picture.LARGEST_BYTES // 2**20
        return Preview(Kind.NONE, note=f"Pictures of more than {limit} MiB are not shown here.")
    found = picture.picture(read(0, min(size_bytes, picture.HEAD_BYTES)))
    if found is None:
        return Preview(Kind.NONE, note="It is no picture that is shown here, whatever its name.")
    if found.width * found.height > picture.LARGEST_PIXELS:
        return Preview(Kind.NONE, note="It has too many pixels to be shown here.")
    return Preview(Kind.PICTURE, picture=found)
