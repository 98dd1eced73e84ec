"""Browsers in which somebody has signed in before.

The cookie lets nobody in. It only keeps the failed sign-ins of that browser apart from those
of everybody else, whom a stranger could lock out by failing on purpose under their names
(OWASP calls it a device cookie). Stolen, it is worth a few more guesses.
"""

from __future__ import annotations

import re
import secrets

from jupyterhub.handlers import BaseHandler

COOKIE = "dcloud-browser"
DAYS = 90
_IDENTITY = re.compile(r"[0-9a-f]{32}")


def known_browser(handler: BaseHandler, name: str) -> str:
    """Identity of this browser when ``name`` was the last to sign in in it, else empty."""
    signed = handler.get_secure_cookie(COOKIE, max_age_days=DAYS) or b""
    owner, _, identity = signed.decode("ascii", "replace").partition("@")
    return identity if owner == name and _IDENTITY.fullmatch(identity) else ""


def remember_browser(handler: BaseHandler, name: str) -> None:
    """``name`` has signed in: remember the browser for them, and nobody else."""
    identity = known_browser(handler, name) or secrets.token_hex(16)
    handler._set_cookie(
        COOKIE,
        f"{name}@{identity}",
        encrypted=True,
        path=handler.hub.base_url,
        expires_days=DAYS,
        samesite="Lax",
    )
