"""The hub's authenticator for DCloud's own accounts.

A name passes when its login is approved, and for no other reason: ``allow_all``,
``allowed_users`` and ``allow_existing_users`` let nobody in, ``blocked_users`` still
keeps people out. Why not NativeAuthenticator: ``docs/sign-in.md``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from jupyterhub.auth import Authenticator
from jupyterhub.handlers import BaseHandler
from jupyterhub.user import User
from traitlets import Callable, default

from dcloud_spawner.authenticator import handlers, passwords
from dcloud_spawner.authenticator.accounts import Accounts
from dcloud_spawner.authenticator.approvals import ApprovalsHandler
from dcloud_spawner.authenticator.attempts import Attempt, Attempts
from dcloud_spawner.authenticator.browsers import known_browser
from dcloud_spawner.authenticator.gate import HashGate
from dcloud_spawner.authenticator.links import OneTimeLink, hub_url
from dcloud_spawner.authenticator.refused import Refused
from dcloud_spawner.authenticator.sessions import end_sessions
from dcloud_spawner.authenticator.source import address_of
from dcloud_spawner.errors import InvalidChoice, UserError
from dcloud_spawner.platform import Platform, utc_now
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.logins import Login, LoginStatus


class DCloudAuthenticator(Authenticator):
    """Sign-up, approval by an administrator, lock-out, one-time links."""

    platform_source = Callable(
        help="Returns this process's Platform; set by configure_authenticator."
    ).tag(config=True)

    sign_up = True
    """The sign-in page offers a sign-up."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.platform: Platform = self.platform_source()
        self.dcloud = self.platform.settings
        self.accounts = Accounts(self.platform.database, self.dcloud, utc_now)
        self.attempts = Attempts(self.platform.database, self.dcloud, utc_now)
        self.gate = HashGate()
        passwords.nobody()

    @default("username_pattern")
    def _name_rules(self) -> str:
        return passwords.NAME_PATTERN

    @default("username_regex")
    def _name_rules_compiled(self) -> re.Pattern[str]:
        # The hub compiles a pattern only when it is changed, which a default is not.
        return re.compile(self.username_pattern)

    @default("any_allow_config")
    def _approval_is_the_allow_config(self) -> bool:
        return True

    @default("auth_refresh_age")
    def _look_at_every_request(self) -> int:
        # Seconds. Rights taken away elsewhere (the command line, a hub that died half-way)
        # are seen at the first request after it; 0 would mean never.
        return 1

    @default("auth_refresh_strict")
    def _tokens_end_too(self) -> bool:
        return True

    @default("refresh_pre_spawn")
    def _no_server_for_the_locked(self) -> bool:
        return True

    def normalize_username(self, username: str) -> str:
        """One spelling a name."""
        return passwords.normalise_name(username)

    def get_handlers(self, app: Any) -> list[tuple[str, type[BaseHandler]]]:
        """Sign-in, sign-up, passwords and approvals."""
        return [
            (r"/login", handlers.SignInHandler),
            (r"/signup", handlers.SignUpHandler),
            (r"/reset", handlers.LinkHandler),
            (r"/password", handlers.PasswordHandler),
            (r"/approvals", ApprovalsHandler),
        ]

    # ---- signing in

    async def authenticate(self, handler: BaseHandler, data: object) -> dict[str, object]:
        """The hub's model of who showed the right password and is approved.

        Raises Refused with the reason for anybody else.
        """
        try:
            login = await self._sign_in(handler, data)
        except UserError as error:
            raise Refused(error) from None
        user = handler.find_user(login.name)
        if login.end_sessions:
            if user is not None:
                end_sessions(user)
            await self.platform.in_database_thread(self.accounts.sessions_ended, login.name)
        return {"name": login.name, "admin": True if login.grants_admin else None}

    async def _sign_in(self, handler: BaseHandler, data: object) -> Login:
        # The hub's token API passes on any JSON here.
        name, password = (
            (data.get("username"), data.get("password")) if isinstance(data, Mapping) else ("", "")
        )
        if not (isinstance(name, str) and isinstance(password, str) and name and password):
            raise InvalidChoice("Enter your name and your password.", field="username")
        name = passwords.check_name(name)
        address = self.address(handler)
        attempt = await self.compare(handler, name, password)
        new_hash = ""
        if passwords.needs_rehash(attempt.password_hash):
            new_hash = await self.gate.run(address, passwords.hash_password, password)
        return await self.platform.in_database_thread(
            self.attempts.succeeded, attempt, address, new_hash=new_hash
        )

    async def compare(self, handler: BaseHandler, name: str, password: str) -> Attempt:
        """Count a try and compare the password; raises NotAllowed or TooManyAttempts."""
        run, address = self.platform.in_database_thread, self.address(handler)
        browser = known_browser(handler, name)
        attempt = await run(self.attempts.begin, name, address, browser)
        await asyncio.sleep(attempt.delay_seconds)
        if not await self.gate.run(
            address, passwords.verify_password, attempt.password_hash, password
        ):
            raise await run(self.attempts.failed, attempt, address)
        return attempt

    async def check_allowed(
        self, username: str, authentication: dict[str, object] | None = None
    ) -> bool:
        """Whether the login is approved, whatever else is configured."""
        login = await self.platform.in_database_thread(self.accounts.find, username)
        return login is not None and login.status is LoginStatus.APPROVED

    def is_admin(self, handler: BaseHandler, authentication: dict[str, object]) -> bool | None:
        """Administrators by setting, once an administrator has approved them."""
        return True if authentication["name"] in self.dcloud.admins else None

    async def signed_in(self, user: User) -> None:
        """The hub has let ``user`` in: an administrator's link has done what it was for."""
        login = await self.platform.in_database_thread(self.accounts.find, user.name)
        if login is not None and login.grants_admin and user.admin:
            await self.platform.in_database_thread(self.accounts.admin_granted, user.name)

    async def refresh_user(self, user: User, handler: BaseHandler | None = None) -> bool:
        """Whether the sessions of ``user`` still hold. Asked at every request."""
        if handler is not None and not hasattr(handler, "_token_authenticated"):
            # The hub (6.1) reads it after a False from here, but sets it for tokens only.
            handler._token_authenticated = False
        login = await self.platform.in_database_thread(self.accounts.find, user.name)
        if login is None or login.status is LoginStatus.PENDING:
            # Users without an account of ours exist: made by an administrator, used by token.
            return not _by_cookie(user, handler)
        if login.end_sessions:
            await self.end_sessions(user)
            return False
        return login.status is LoginStatus.APPROVED

    # ---- what administrators and the hub do

    async def lock(self, name: str, by: Actor, user: User | None) -> None:
        """Take an approval back; sessions end with it."""
        await self.platform.in_database_thread(self.accounts.lock, name, by)
        if user is not None:
            await self.end_sessions(user)

    async def end_sessions(self, user: User) -> None:
        """End all sessions and tokens of a user, and write down that it is done."""
        end_sessions(user)
        await self.platform.in_database_thread(self.accounts.sessions_ended, user.name)

    async def delete_user(self, user: User) -> None:
        """The hub deletes a user: the account goes too, and signing up again needs approval."""
        end_sessions(user)
        await self.platform.in_database_thread(self.accounts.remove, user.name, Actor("hub"))
        super().delete_user(user)

    # ---- for the pages

    def address(self, handler: BaseHandler) -> str:
        """The address a request came from, as our own proxy says."""
        return address_of(handler)

    def check_password(self, password: str, *, name: str) -> None:
        """Raise InvalidChoice with the rule that a new password breaks."""
        passwords.check_password(password, name=name, min_length=self.dcloud.password_min_length)

    async def new_hash(self, password: str, *, name: str, address: str) -> str:
        """Check a new password against the rules and hash it, in a thread."""
        self.check_password(password, name=name)
        return await self.gate.run(address, passwords.hash_password, password)

    def link_url(self, handler: BaseHandler, link: OneTimeLink) -> str:
        """The address of a one-time link as the administrator passes it on."""
        if self.dcloud.public_url:
            return link.url(hub_url(self.dcloud))
        request = handler.request
        return link.url(f"{request.protocol}://{request.host}{handler.hub.base_url}")


def _by_cookie(user: User, handler: BaseHandler | None) -> bool:
    return (
        handler is not None
        and getattr(handler, "_jupyterhub_user", None) is user
        and not getattr(handler, "_token_authenticated", False)
    )
