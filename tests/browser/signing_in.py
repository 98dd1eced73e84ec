"""Signing in without the pages for it.

What a sign-in looks like is seen by tests of the waiting page and by tests/docker/test_journey.py.
All others come with the cookies that it gives: three pages fewer for each window.
"""

from __future__ import annotations

from http import HTTPStatus

import httpx
from playwright.sync_api import BrowserContext


def sign_in(context: BrowserContext, url: str, name: str, password: str) -> None:
    """Gives a browser's context the cookies of somebody signed in at the hub at ``url``."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as visitor:
        visitor.get("/hub/login").raise_for_status()
        answer = visitor.post(
            "/hub/login",
            data={"username": name, "password": password, "_xsrf": visitor.cookies["_xsrf"]},
        )
        assert answer.status_code == HTTPStatus.FOUND, answer.text
        context.add_cookies(
            [
                {
                    "name": cookie.name,
                    "value": cookie.value or "",
                    "domain": "127.0.0.1",
                    "path": cookie.path,
                }
                for cookie in visitor.cookies.jar
            ]
        )
