"""The list of pages that are read from the database, in the order of their links."""

from __future__ import annotations

from hub_services.web.pages.usage import read_usage
from hub_services.web.pages.usage_running import read_running
from hub_services.web.pages.views import DataPage

_PAGES: tuple[DataPage, ...] = (
    DataPage("usage", "My usage", read_usage, "usage.html"),
    DataPage("usage/running", "Running now", read_running, "usage_running.html", listed=False),
)

DATA_PAGES = {page.name: page for page in _PAGES}
