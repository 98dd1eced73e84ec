"""Windows of people at the web service, for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from playwright.sync_api import Browser, Page

from tests.browser.signing_in import sign_in
from tests.patience import patient_ms
from tests.web_stage import WebStage

Open = Callable[..., Page]


@contextmanager
def windows(
    browser: Browser, stage: WebStage, *, first: str = "queue", zone: str = "Europe/Berlin"
) -> Iterator[Open]:
    """Opens a page of the service as a user, ``first`` if none is named. Errors of scripts, of
    the content policy and of the service fail the test; axe brings styles of its own, which is
    no error."""
    contexts, errors = [], []

    def open_one(user: str, path: str = first, *, script: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900},
            timezone_id=zone,
            reduced_motion="reduce",
            java_script_enabled=script,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(patient_ms(8))
        page.on("pageerror", lambda error: errors.append(str(error)))
        # Shown beside a failure: a script that did not come leaves no error of its own.
        page.on("requestfailed", lambda asked: print("failed:", asked.url, asked.failure))
        page.on("console", lambda said: errors.append(said.text) if _against(said.text) else None)
        page.on("response", lambda answer: None if answer.ok else print(answer.status, answer.url))
        page.on(
            "response",
            lambda answer: (
                errors.append(f"{answer.status} {answer.url}")
                if _failed(answer.status, answer.url)
                else None
            ),
        )
        sign_in(context, stage.url, user, stage.password)
        page.goto(f"{stage.url}/services/dcloud/{path}")
        page.wait_for_url(f"**/services/dcloud/{path}")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not errors


def _against(said: str) -> bool:
    return "Content Security" in said and "inline style" not in said


def _failed(status: int, url: str) -> bool:
    missing = status == HTTPStatus.NOT_FOUND and "/static/" in url
    return status == HTTPStatus.INTERNAL_SERVER_ERROR or missing
