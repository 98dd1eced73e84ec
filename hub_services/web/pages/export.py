"""``usage/export``: a table as CSV or Parquet, sent while it is read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import IO

from dcloud_spawner.errors import InvalidChoice
from hub_services.web.pages.export_tables import EXPORTS
from hub_services.web.pages.exporting import Export, ParquetFile, Row, csv_head, csv_part
from hub_services.web.pages.views import Call, DataHandler

FORMATS = ("csv", "parquet")
IN_MEMORY_BYTES = 4 * 2**20
BLOCK_BYTES = 256 * 1024


class ShowExport(DataHandler):
    """One table as a file."""

    async def get(self) -> None:
        """Refuse before anything is sent; then part by part, off the event loop."""
        call = self.call(())
        kind = call.one_of("format", FORMATS)
        make = EXPORTS.get(call.text("table"))
        if make is None:
            raise InvalidChoice(f"table: one of {', '.join(sorted(EXPORTS))}.", field="table")
        export = await call.platform.in_reading_thread(make, call)
        first = await call.platform.in_reading_thread(next, export.parts, None)
        name = f"{export.name}.{kind}"
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        if kind == "csv":
            self.set_header("Content-Type", "text/csv; charset=utf-8; header=present")
            await self._csv(call, export, first)
        else:
            self.set_header("Content-Type", "application/vnd.apache.parquet")
            await self._parquet(call, export, first)
        await self.finish()

    async def _csv(self, call: Call, export: Export, part: Sequence[Row] | None) -> None:
        self.write(csv_head(export.columns))
        while part is not None:
            self.write(csv_part(export.columns, part))
            await self.flush()
            part = await call.platform.in_reading_thread(next, export.parts, None)

    async def _parquet(self, call: Call, export: Export, part: Sequence[Row] | None) -> None:
        """Its end is written last and says where everything is, so the file is made first."""
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
            await call.platform.in_reading_thread(_write, file, export, part)
            file.seek(0)
            while block := file.read(BLOCK_BYTES):
                self.write(block)
                await self.flush()


def _write(file: IO[bytes], export: Export, part: Sequence[Row] | None) -> None:
    made = ParquetFile(file, export.columns)
    while part is not None:
        made.add(part)
        part = next(export.parts, None)
    made.close()
