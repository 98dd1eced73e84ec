"""Who is asking, as the hub says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hub_services.web.wiring import ADMINISTRATION_SCOPE, DATA_SCOPE, WEB_SCOPE


@dataclass(frozen=True)
class Viewer:
    """One person or service behind a request."""

    name: str
    administrator: bool = False
    groups: frozenset[str] = frozenset()
    person: bool = True
    """False for a service: a user of the same name is somebody else."""
    server: str | None = None
    """Name of the server inside which the asking program runs, as its token says ("" is the
    default one); such a viewer reaches only operations that are meant for it. None: it is not
    a server's token."""

    def owns(self, user: str) -> bool:
        """Whether what this user has is the viewer's own."""
        return self.person and self.name == user

    def may_see(self, user: str) -> bool:
        """Whether all of what this user has may be shown to the viewer."""
        return self.administrator or self.owns(user)


def may_enter(scopes: Collection[str]) -> bool:
    """Whether a token with these scopes is for this service."""
    return WEB_SCOPE in scopes or "access:services" in scopes


def server_of(name: str, scopes: Collection[str]) -> str | None:
    """The server whose token has these scopes; None for every other token."""
    begin = f"{DATA_SCOPE}!server={name}/"
    found = [scope.removeprefix(begin) for scope in scopes if scope.startswith(begin)]
    return found[0] if len(found) == 1 else None


def viewer_of(model: Mapping[str, Any]) -> Viewer:
    """The viewer in the hub's words: its answer to ``GET /hub/api/user``."""
    person = model.get("kind", "user") == "user"
    scopes = set(model.get("scopes") or ())
    return Viewer(
        name=str(model["name"]),
        administrator=bool(model.get("admin")) and ADMINISTRATION_SCOPE in scopes,
        groups=frozenset(model.get("groups") or ()),
        person=person,
        server=None if may_enter(scopes) or not person else server_of(str(model["name"]), scopes),
    )
