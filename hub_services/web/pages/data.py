"""The list of pages that are read from the database, in the order of their links."""

from __future__ import annotations

from hub_services.web.pages.administration import ADMINISTRATION_PAGES
from hub_services.web.pages.usage import read_usage
from hub_services.web.pages.usage_ledger import read_ledger_page, read_statement
from hub_services.web.pages.usage_project import read_project
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
    DataPage(
        "usage/project",
        "Project",
        read_project,
        "usage_project.html",
        path="usage/project/([^/]+)",
        listed=False,
    ),
    DataPage("usage/ledger", "Entries", read_ledger_page, "usage_ledger.html"),
    DataPage("usage/statement", "Statement", read_statement, "usage_statement.html", listed=False),
    *ADMINISTRATION_PAGES,
)

DATA_PAGES = {page.name: page for page in _PAGES}
