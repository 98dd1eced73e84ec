"""One-time links: whoever opens one sets the password of one account.

The token stands in the fragment of the address. A browser keeps that part to itself, so no
log of a proxy, hub or other site holds it; the page moves it into a form field and posts it.
The database keeps the token's SHA-256 alone: 256 random bits need no slow hash.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlencode

from dcloud_spawner.settings import Settings

TOKEN_BYTES = 32


@dataclass(frozen=True)
class OneTimeLink:
    """A link as it is shown, once, to the administrator who asked for it."""

    name: str
    token: str = field(repr=False)
    expires_at: datetime

    def url(self, base_url: str) -> str:
        """Address of the page, with name and token in the fragment. ``base_url`` is the hub's."""
        fragment = urlencode({"name": self.name, "token": self.token})
        return f"{base_url.rstrip('/')}/reset#{fragment}"


def hub_url(settings: Settings) -> str:
    """The hub's pages as users reach them."""
    return f"{settings.bind_url.rstrip('/')}/hub"


def new_token() -> str:
    """256 random bits, safe in an address."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.strip().encode("utf-8", "replace")).hexdigest()
