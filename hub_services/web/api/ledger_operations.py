"""Operations of the ledger: use, entries, accounts, rates, limits, requests for more. A part of
``operations``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from hub_services.web.api import accounts, grants, ledger, limits, measures, rates, requests, usage
from hub_services.web.api import ledger_models as models
from hub_services.web.api import limits_models as more
from hub_services.web.api import usage_models as use
from hub_services.web.api.models import Page
from hub_services.web.api.operation import Call, Nothing, Operation, View, Wire

_MISSING = (HTTPStatus.NOT_FOUND,)
_CHANGE = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


def read(
    path: str,
    summary: str,
    run: Callable[[Call[Any, Nothing]], Awaitable[Any]],
    query: type[Wire],
    answer: type[View],
) -> Operation[Any, Any, Any]:
    """Everybody may look, each at what is theirs; what is not, is not there."""
    return Operation("GET", path, summary, run, query, Nothing, answer, refusals=_MISSING)


def change(
    method: str,
    path: str,
    summary: str,
    run: Callable[[Call[Nothing, Any]], Awaitable[Any]],
    body: type[Wire],
    answer: type[View],
    *,
    administrators: bool = False,
    takes_key: bool = False,
    status: HTTPStatus = HTTPStatus.OK,
) -> Operation[Any, Any, Any]:
    """Something that changes what is; who may, if not administrators alone, the function says."""
    return Operation(
        method,
        path,
        summary,
        run,
        Nothing,
        body,
        answer,
        administrators=administrators,
        status=status,
        refusals=_CHANGE,
        takes_key=takes_key,
    )


LEDGER_OPERATIONS: tuple[Operation[Any, Any, Any], ...] = (
    read("usage", "What was used", usage.usage, use.UsagePage, use.UsageView),
    read("usage/sessions", "Sessions", usage.list_sessions, use.SessionsPage, use.SessionsView),
    read("usage/sessions/{id}", "One session", usage.get_session, Nothing, use.SessionDetailView),
    read(
        "usage/sessions/{id}/measures",
        "Measures of a session",
        measures.get_measures,
        use.MeasuresQuery,
        use.MeasuresView,
    ),
    read("ledger", "Entries", ledger.list_entries, models.LedgerPage, models.EntriesView),
    change(
        "POST",
        "ledger/{id}/refund",
        "Refund a charge",
        ledger.refund_entry,
        models.RefundBody,
        models.EntryView,
        administrators=True,
        takes_key=True,
        status=HTTPStatus.CREATED,
    ),
    read("accounts", "Accounts", accounts.list_accounts, models.AccountsPage, models.AccountsView),
    change(
        "POST",
        "accounts",
        "Make a project",
        accounts.create_project,
        models.NewProjectBody,
        models.AccountDetailView,
        administrators=True,
        status=HTTPStatus.CREATED,
    ),
    read("accounts/{id}", "One account", accounts.get_account, Nothing, models.AccountDetailView),
    change(
        "PATCH",
        "accounts/{id}",
        "Change an account",
        accounts.change_account,
        models.ChangeAccountBody,
        models.AccountDetailView,
    ),
    change(
        "PUT",
        "accounts/{id}/members/{user}",
        "Put somebody into a project",
        accounts.set_member,
        models.MemberBody,
        models.AccountDetailView,
    ),
    change(
        "DELETE",
        "accounts/{id}/members/{user}",
        "Take somebody out of a project",
        accounts.remove_member,
        Nothing,
        models.AccountDetailView,
    ),
    read("accounts/{id}/grants", "Grants", grants.list_grants, Page, models.GrantsView),
    change(
        "POST",
        "accounts/{id}/grants",
        "Give credits",
        grants.create_grant,
        models.GrantBody,
        models.GrantView,
        administrators=True,
        takes_key=True,
        status=HTTPStatus.CREATED,
    ),
    change(
        "DELETE",
        "accounts/{id}/grants/{grant}",
        "End a grant",
        grants.cancel_grant,
        Nothing,
        models.GrantView,
        administrators=True,
    ),
    change(
        "POST",
        "accounts/{id}/transfer",
        "Give credits away",
        accounts.transfer,
        models.TransferBody,
        models.EntryView,
        takes_key=True,
        status=HTTPStatus.CREATED,
    ),
    change(
        "POST",
        "accounts/{id}/adjust",
        "Set a balance right",
        accounts.adjust,
        models.AdjustBody,
        models.EntryView,
        administrators=True,
        takes_key=True,
        status=HTTPStatus.CREATED,
    ),
    read("rates", "Rates", rates.list_rates, models.RatesPage, models.RatesView),
    change(
        "POST",
        "rates",
        "Set a rate",
        rates.create_rate,
        models.RateBody,
        models.RateView,
        administrators=True,
        status=HTTPStatus.CREATED,
    ),
    read("limits", "One's own limits", limits.my_limits, Nothing, more.LimitsView),
    read("limits/{user}", "Somebody's limits", limits.get_limits, Nothing, more.LimitsView),
    change(
        "PUT",
        "limits/{user}/{limit}",
        "Set a limit for one person",
        limits.set_limit,
        more.OverrideBody,
        more.LimitsView,
        administrators=True,
    ),
    change(
        "DELETE",
        "limits/{user}/{limit}",
        "Let the limit of the role count again",
        limits.remove_limit,
        Nothing,
        more.LimitsView,
        administrators=True,
    ),
    read(
        "requests",
        "Requests for more",
        requests.list_requests,
        more.RequestsPage,
        more.RequestsView,
    ),
    read("requests/{id}", "One request for more", requests.get_request, Nothing, more.RequestView),
    change(
        "POST",
        "requests",
        "Ask for more",
        requests.create_request,
        more.NewRequestBody,
        more.RequestView,
        status=HTTPStatus.CREATED,
    ),
    change(
        "POST",
        "requests/{id}/grant",
        "Give what was asked for",
        requests.grant_request,
        more.GrantRequestBody,
        more.RequestView,
        administrators=True,
    ),
    change(
        "POST",
        "requests/{id}/decline",
        "Decline a request",
        requests.decline_request,
        more.DeclineRequestBody,
        more.RequestView,
        administrators=True,
    ),
    change(
        "POST",
        "requests/{id}/withdraw",
        "Withdraw a request",
        requests.withdraw_request,
        Nothing,
        more.RequestView,
    ),
)
