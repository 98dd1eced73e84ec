"""The list of pages that are read from the database, in the order of their links."""

from __future__ import annotations

from hub_services.web.pages.views import DataPage

_PAGES: tuple[DataPage, ...] = ()

DATA_PAGES = {page.name: page for page in _PAGES}
