"""What the controller asks of the hub, by its REST API and with few scopes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

import httpx

from dcloud_spawner.store.workloads import Workload

log = logging.getLogger(__name__)

PAGE = 200


class HubUnavailable(Exception):
    """The hub does not answer; it will be asked again."""


class HubClient:
    """One connection pool to the hub's API."""

    def __init__(self, api_url: str, token: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=api_url,
            headers={"Authorization": f"token {token}"},
            timeout=30,
            trust_env=False,
        )

    async def _call(self, method: str, path: str, **kwargs: object) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **kwargs)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise HubUnavailable(f"{method} {path}: {error!r}") from error
        if response.status_code in (
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.BAD_GATEWAY,
            HTTPStatus.SERVICE_UNAVAILABLE,
            HTTPStatus.GATEWAY_TIMEOUT,
        ):
            raise HubUnavailable(f"{method} {path}: {response.status_code}")
        return response

    async def active_servers(self) -> Mapping[tuple[str, str], str]:
        """State of every active server, by user and server name: its pending action or ready."""
        found: dict[tuple[str, str], str] = {}
        offset = 0
        while True:
            response = await self._call(
                "GET", "/users", params={"state": "active", "offset": offset, "limit": PAGE}
            )
            response.raise_for_status()
            users = response.json()
            for user in users:
                for name, server in (user.get("servers") or {}).items():
                    found[user["name"], name] = server.get("pending") or (
                        "ready" if server.get("ready") else ""
                    )
            if len(users) < PAGE:
                return found
            offset += PAGE

    async def groups(self) -> frozenset[str]:
        """Names of all groups that the hub has. Raises HubUnavailable, and an error of httpx for
        whatever else is no full answer."""
        found: set[str] = set()
        offset = 0
        while True:
            params = {"offset": offset, "limit": PAGE}
            response = await self._call("GET", "/groups", params=params)
            response.raise_for_status()
            groups = response.json()
            found |= {str(group["name"]) for group in groups}
            if len(groups) < PAGE:
                return frozenset(found)
            offset += PAGE

    async def start_server(self, workload: Workload) -> httpx.Response:
        """Ask the hub to take up this very workload, if it is still open."""
        return await self._call(
            "POST", _path(workload), json={"user_options": {"resume": workload.id}}
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _path(workload: Workload) -> str:
    user = quote(workload.user, safe="")
    if not workload.server_name:
        return f"/users/{user}/server"
    return f"/users/{user}/servers/{quote(workload.server_name, safe='')}"
