"""Sign-in at a provider of the lab, through any class of oauthenticator.

What the provider gives, it also takes: oauthenticator alone leaves groups, administrator's
rights, sessions and tokens in the hub when somebody is refused because they lost the last
group that let them in.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from jupyterhub.handlers import BaseHandler
from jupyterhub.user import User
from jupyterhub.utils import maybe_future
from oauthenticator.oauth2 import OAuthenticator
from tornado import web
from traitlets import default

from dcloud_spawner.authenticator.sessions import take_away
from dcloud_spawner.authenticator.source import address_of
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store import events
from dcloud_spawner.store.events import Actor

Model = dict[str, Any]
"""The hub's model of who signs in: name, groups, admin, auth_state."""


class FollowsProvider(OAuthenticator):
    """Mixed in before a class of oauthenticator by :func:`following`."""

    platform: ClassVar[Platform]
    secret_file: ClassVar[Path | None] = None

    @default("client_secret")
    def _client_secret_default(self) -> str:
        # A default and not configuration, which the hub may print.
        if self.secret_file is not None:
            return read_secret(self.secret_file)
        secret: str = super()._client_secret_default()
        return secret

    async def authenticate(
        self, handler: BaseHandler, data: object = None, **kwargs: object
    ) -> Model | None:
        """The provider's model; remembers for whom the provider spoke."""
        model: Model | None = await super().authenticate(handler, data, **kwargs)
        if model is not None:
            handler._dcloud_claimed = self.normalize_username(model["name"])
        return model

    async def get_authenticated_user(self, handler: BaseHandler, data: object) -> Model | None:
        """Who signs in, or None; whoever is refused loses at once what they had."""
        model: Model | None = None
        try:
            model = await super().get_authenticated_user(handler, data)
        except web.HTTPError:
            await self._refused(handler)
            raise
        if model is None:
            await self._refused(handler)
        else:
            await self._note_change(handler.find_user(model["name"]), model, address_of(handler))
        return model

    async def _note_change(self, user: User | None, model: Model, address: str) -> None:
        """Groups and rights that the provider changes are on the action log; a sign-in that
        changes nothing is not."""
        before = {group.name for group in user.groups} if user is not None else set()
        was_admin = bool(user.admin) if user is not None else False
        groups, admin = model.get("groups"), model.get("admin")
        after = before if groups is None else {str(group) for group in groups}
        is_admin = was_admin if admin is None else bool(admin)
        if (before, was_admin) != (after, is_admin):
            await self.platform.in_database_thread(
                self._log,
                address,
                "login.follow",
                str(model["name"]),
                groups=[sorted(before), sorted(after)],
                admin=[was_admin, is_admin],
            )

    async def refresh_user(
        self, user: User, handler: BaseHandler | None = None, **kwargs: object
    ) -> bool | Model:
        """The provider's present word on a session; the same rules hold as at a sign-in."""
        if handler is not None and not hasattr(handler, "_token_authenticated"):
            # The hub (6.1) reads it after a False from here, but sets it for tokens only.
            handler._token_authenticated = False
        model: bool | Model = await super().refresh_user(user, handler, **kwargs)
        if isinstance(model, dict) and not await self._passes(user.name, model):
            await self._take_away(user, "")
            return False
        return model

    async def get_user_groups(self, auth_state: Mapping[str, Any]) -> set[str]:
        """Groups as the provider says; who is in none has no claim, which is no error."""
        key = self.auth_state_groups_key
        if callable(key) or not key:
            groups: set[str] = await maybe_future(super().get_user_groups(auth_state))
            return groups
        found: object = auth_state
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return {str(group) for group in found} if isinstance(found, (list, tuple, set)) else set()

    async def _passes(self, name: str, model: Model) -> bool:
        try:
            if not await maybe_future(self.check_blocked_users(name, model)):
                return False
            return bool(self.allow_all or await maybe_future(self.check_allowed(name, model)))
        except web.HTTPError:
            return False

    async def _refused(self, handler: BaseHandler) -> None:
        name = getattr(handler, "_dcloud_claimed", None)
        user = handler.find_user(name) if name else None
        if user is not None:
            await self._take_away(user, address_of(handler))

    async def _take_away(self, user: User, address: str) -> None:
        name = user.name
        if take_away(user):
            await self.platform.in_database_thread(self._log, address, "login.taken-away", name)

    def _log(self, address: str, action: str, name: str, **detail: object) -> None:
        with self.platform.database.transaction() as connection:
            events.note(
                connection, Actor("provider", address), action, name, at=utc_now(), detail=detail
            )


def following(
    base: type[OAuthenticator], platform: Platform, secret_file: Path | None
) -> type[FollowsProvider]:
    """``base`` with FollowsProvider before it; it takes the traits of ``base`` by its name."""
    body = {"platform": platform, "secret_file": secret_file, "__doc__": base.__doc__}
    return type(f"DCloud{base.__name__}", (FollowsProvider, base), body)


def read_secret(path: Path) -> str:
    """A secret from a file that only its owner may read; ConfigurationError otherwise."""
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the secret in {path}: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(
            f"{path} holds a secret and others may read it. Run: chmod 600 {path}"
        )
    if not secret:
        raise ConfigurationError(f"{path} should hold a secret and is empty.")
    return secret
