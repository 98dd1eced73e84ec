"""Whether the server inside a container answers yet."""

from __future__ import annotations

from http import HTTPStatus

from tornado.httpclient import AsyncHTTPClient


async def answers(client: AsyncHTTPClient, address: str) -> bool:
    """Whether something answers there, and not only that it is broken."""
    try:
        response = await client.fetch(
            address,
            raise_error=False,
            connect_timeout=1,
            request_timeout=5,
            follow_redirects=False,  # users decide what answers, not where we ask
        )
    except Exception:
        return False
    return response.code < HTTPStatus.INTERNAL_SERVER_ERROR
