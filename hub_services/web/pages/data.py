"""The list of pages that are read from the database, in the order of their links."""

from __future__ import annotations

from hub_services.web.pages.usage import read_usage
from hub_services.web.pages.usage_running import read_running
from hub_services.web.pages.usage_session import read_session
from hub_services.web.pages.views import DataPage

_PAGES: tuple[DataPage, ...] = (
    DataPage("usage", "My usage", read_usage, "usage.html"),
    DataPage("usage/running", "Running now", read_running, "usage_running.html", listed=False),
    DataPage(
        "usage/session",
        "Session",
        read_session,
        "usage_session.html",
        path="usage/session/([^/]+)",
        listed=False,
    ),
    DataPage(
        "usage/session/live",
        "Session",
        read_session,
        "usage_session_live.html",
        path="usage/session/([^/]+)/live",
        listed=False,
    ),
)

DATA_PAGES = {page.name: page for page in _PAGES}
