"""Pages about accounts, rates, limits and use of the lab, and requests for more."""

from __future__ import annotations

from hub_services.web.pages.accounts import account_page, accounts_page
from hub_services.web.pages.lab import lab_page
from hub_services.web.pages.limits import limits_page
from hub_services.web.pages.rates import rates_page
from hub_services.web.pages.requests import requests_page
from hub_services.web.pages.views import Audience, DataPage

_FOR = Audience.ADMINISTRATORS

ADMINISTRATION_PAGES = (
    DataPage("requests", "Ask for more", requests_page, "requests.html"),
    DataPage("accounts", "Accounts", accounts_page, "accounts.html", _FOR),
    DataPage(
        "account",
        "Account",
        account_page,
        "account.html",
        _FOR,
        path="accounts/([^/]+)",
        listed=False,
    ),
    DataPage("rates", "Rates", rates_page, "rates.html", _FOR),
    DataPage("limits", "Limits", limits_page, "limits.html", _FOR),
    DataPage("lab", "Lab usage", lab_page, "lab.html", _FOR),
)
