"""Who is asking, as the hub says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hub_services.web.wiring import ADMINISTRATION_SCOPE, WEB_SCOPE


@dataclass(frozen=True)
class Viewer:
    """One person or service behind a request."""

    name: str
    administrator: bool = False
    groups: frozenset[str] = frozenset()
    person: bool = True
    """False for a service: a user of the same name is somebody else."""

    def owns(self, user: str) -> bool:
        """Whether what this user has is the viewer's own."""
        return self.person and self.name == user

    def may_see(self, user: str) -> bool:
        """Whether all of what this user has may be shown to the viewer."""
        return self.administrator or self.owns(user)


def may_enter(scopes: Collection[str]) -> bool:
    """Whether a token with these scopes is for this service."""
    return WEB_SCOPE in scopes or "access:services" in scopes


def viewer_of(model: Mapping[str, Any]) -> Viewer:
    """The viewer in the hub's words: its answer to ``GET /hub/api/user``."""
    person = model.get("kind", "user") == "user"
    scopes = set(model.get("scopes") or ())
    return Viewer(
        name=str(model["name"]),
        administrator=bool(model.get("admin")) and ADMINISTRATION_SCOPE in scopes,
        groups=frozenset(model.get("groups") or ()),
        person=person,
    )
