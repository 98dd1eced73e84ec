"""The hub as simulated people reach it: its REST API through the proxy, each call timed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import httpx

from hub_services.loadtest.journal import Journal
from hub_services.loadtest.script import Wish

TIMEOUT_SECONDS = 60.0
NO_ANSWER = 0
"""In place of a status when nothing came back."""


class HubApi:
    """One pool of connections for everybody; each call carries its own person's token."""

    def __init__(self, url: str, journal: Journal) -> None:
        """``url`` is the proxy's address without a slash at its end."""
        self._journal = journal
        self._url = url
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )

    async def call(
        self, kind: str, method: str, path: str, token: str = "", body: object = None
    ) -> tuple[int, str]:
        """Status and text of an answer; (0, why) when there was none. Never raises for the hub."""
        began = self._journal.now()
        content = None if body is None else json.dumps(body)
        try:
            answer = await self._client.request(
                method, self._url + path, content=content, headers=_headers(token)
            )
            status, text = answer.status_code, answer.text
        except httpx.HTTPError as error:
            status, text = NO_ANSWER, type(error).__name__
        self._journal.call(kind, began, status)
        return status, text

    async def ask(self, user: str, token: str, wish: Wish) -> tuple[int, str]:
        """Ask for a server; the hub may take its second to see whether it is there at once."""
        return await self.call("ask", "POST", f"{_server(user)}", token, wish.body())

    async def stop(self, user: str, token: str, kind: str = "stop") -> tuple[int, str]:
        """Stop the server, or leave the queue."""
        return await self.call(kind, "DELETE", _server(user), token)

    async def server(self, user: str, token: str) -> Mapping[str, Any] | None:
        """The hub's model of the default server, empty when none is active; None: no answer."""
        status, text = await self.call("look", "GET", f"/hub/api/users/{user}", token)
        if status != HTTPStatus.OK:
            return None
        found: Mapping[str, Any] = (json.loads(text).get("servers") or {}).get("", {})
        return found

    async def server_answers(self, user: str, token: str) -> bool:
        """Whether the server inside answers its owner through the proxy."""
        status, _ = await self.call("server", "GET", f"/user/{user}/api/status", token)
        return status == HTTPStatus.OK

    async def progress(self, user: str, token: str) -> AsyncIterator[Mapping[str, Any]]:
        """The waiting page's events until the stream ends; ends quietly when it breaks."""
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        address = f"{self._url}{_server(user)}/progress"
        try:
            async with self._client.stream(
                "GET", address, headers=_headers(token), timeout=timeout
            ) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line[5:])
        except httpx.HTTPError:
            return

    # -- with the load test's own rights ---------------------------------------------------------

    async def make_users(self, names: Sequence[str], token: str) -> tuple[int, str]:
        """Make all users in one request."""
        return await self.call("setup", "POST", "/hub/api/users", token, {"usernames": list(names)})

    async def token_for(self, user: str, token: str, seconds: float) -> str:
        """A token of that user's own; empty when the hub refuses."""
        body = {"note": "dcloud loadtest", "expires_in": int(seconds)}
        status, text = await self.call(
            "setup", "POST", f"/hub/api/users/{user}/tokens", token, body
        )
        return str(json.loads(text)["token"]) if status == HTTPStatus.CREATED else ""

    async def delete_user(self, user: str, token: str, tries: int = 120) -> str:
        """Delete a user; empty when there is none of that name any more, else the hub's words."""
        status, text = NO_ANSWER, ""
        for _ in range(tries):
            status, text = await self.call("tidy", "DELETE", f"/hub/api/users/{user}", token)
            if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
                return ""
            await asyncio.sleep(0.5)  # 400: its server is still being stopped
        return f"{status or 'no answer'}: {said(text) or text[:200]}"

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def said(text: str) -> str:
    """What the hub says in words in an answer; empty where it says nothing."""
    try:
        return str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        return ""


def _server(user: str) -> str:
    return f"/hub/api/users/{user}/server"


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"token {token}"} if token else {}
