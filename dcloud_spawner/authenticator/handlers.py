"""The pages of sign-in. What they decide is in accounts.py; here are forms and answers.

Everything that changes something is a POST with the hub's XSRF check, and takes its fields
from the body alone, so that neither a link nor a log can hold a password or a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.user import User
from tornado import web
from tornado.httputil import url_concat

from dcloud_spawner.authenticator.attempts import WRONG
from dcloud_spawner.authenticator.browsers import remember_browser
from dcloud_spawner.authenticator.passwords import check_name
from dcloud_spawner.authenticator.refused import Refused
from dcloud_spawner.authenticator.sessions import end_sessions
from dcloud_spawner.errors import InvalidChoice, UserError

if TYPE_CHECKING:
    from dcloud_spawner.authenticator.authenticator import DCloudAuthenticator

SIGN_IN_NOTICES = {
    "signup": "Your sign-up is on its way. You can sign in once an administrator has approved it.",
    "reset": "Your password is set. Sign in with it.",
}

NOTE_MAX_LENGTH = 200


class Page(BaseHandler):
    """What the forms have in common."""

    template = ""

    @property
    def ours(self) -> DCloudAuthenticator:
        """The hub's authenticator, with its own type."""
        authenticator: DCloudAuthenticator = self.authenticator
        return authenticator

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")

    def field(self, name: str, *, strip: bool = True) -> str:
        """A field of the posted form, never of the address."""
        value: str = self.get_body_argument(name, "", strip=strip)
        return value

    def new_password(self) -> str:
        """The new password, typed twice the same."""
        password = self.field("password", strip=False)
        if password != self.field("password_again", strip=False):
            raise InvalidChoice("The two passwords differ.", field="password_again")
        return password

    async def show(self, error: UserError | None = None, **values: object) -> None:
        """Render the page, with what was wrong, under the status that fits."""
        if error is not None:
            self.set_status(error.status_code)
        html = await self.render_template(
            self.template,
            error=error,
            password_min_length=self.ours.dcloud.password_min_length,
            **values,
        )
        self.finish(html)

    def to_sign_in(self, done: str, name: str) -> None:
        """Go to the sign-in page, which says what has been done."""
        url = url_concat(self.hub.base_url + "login", {"done": done, "username": name})
        self.redirect(url, status=303)


class SignInHandler(LoginHandler):
    """The hub's sign-in page, with the reason of a refusal under its own status."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def _render(
        self, login_error: str | None = None, username: str | None = None, **kwargs: Any
    ) -> Any:
        kwargs.setdefault("notice", SIGN_IN_NOTICES.get(self.get_query_argument("done", ""), ""))
        return super()._render(login_error=login_error, username=username, **kwargs)

    async def post(self) -> None:
        """Sign in."""
        data = {
            "username": self.get_body_argument("username", "", strip=True),
            "password": self.get_body_argument("password", "", strip=False),
        }
        try:
            user = await self.login_user(data)
        except Refused as refused:
            user, status, message = None, refused.status_code, refused.error.text
        else:
            # None: the name is blocked by a setting of the hub.
            status, message = 403, WRONG
        if user is None:
            self.set_status(status)
            html = await self._render(login_error=message, username=data["username"][:64])
            self.finish(html)
            return
        await self.authenticator.signed_in(user)
        remember_browser(self, user.name)
        self.redirect(self.get_next_url(user), status=303)


class SignUpHandler(Page):
    """Ask for an account."""

    template = "signup.html"

    async def get(self) -> None:
        """The form."""
        await self.show()

    async def post(self) -> None:
        """Write the sign-up down; an administrator answers it."""
        name, note = self.field("username"), " ".join(self.field("note").split())
        address = self.ours.address(self)
        run, accounts = self.ours.platform.in_database_thread, self.ours.accounts
        try:
            normal = check_name(name)
            if len(note) > NOTE_MAX_LENGTH:
                raise InvalidChoice(f"Note: at most {NOTE_MAX_LENGTH} characters.", field="note")
            password = self.new_password()
            await run(accounts.check_sign_up, normal, address)
            hashed = await self.ours.new_hash(password, name=normal, address=address)
            await run(accounts.sign_up, normal, hashed, note, address)
        except UserError as error:
            await self.show(error, username=name[:64], note=note[:NOTE_MAX_LENGTH])
            return
        self.to_sign_in("signup", normal)


class LinkHandler(Page):
    """Set a password by a one-time link, whose token the page takes from its own fragment."""

    template = "reset.html"

    async def get(self) -> None:
        """The form; the server does not see the token yet."""
        await self.show()

    async def post(self) -> None:
        """Set the password; the link is used up and all sessions end."""
        token = self.field("token")
        address = self.ours.address(self)
        run, accounts = self.ours.platform.in_database_thread, self.ours.accounts
        try:
            password = self.new_password()
            name = await run(accounts.link_owner, token)
            hashed = await self.ours.new_hash(password, name=name, address=address)
            name = await run(accounts.use_link, token, hashed, address)
        except UserError as error:
            await self.show(error, token=token[:128], username=self.field("username")[:64])
            return
        user = self.find_user(name)
        if user is not None:
            await self.ours.end_sessions(user)
        self.to_sign_in("reset", name)


class PasswordHandler(Page):
    """Change the own password."""

    template = "password.html"

    @web.authenticated
    async def get(self) -> None:
        """The form."""
        await self.show(done=self.get_query_argument("done", "") == "1")

    @web.authenticated
    async def post(self) -> None:
        """Change it; every other session and all API tokens end."""
        user: User = self.current_user
        address = self.ours.address(self)
        run, accounts = self.ours.platform.in_database_thread, self.ours.accounts
        try:
            password = self.new_password()
            self.ours.check_password(password, name=user.name)
            old_password = self.field("old_password", strip=False)
            attempt = await self.ours.compare(self, user.name, old_password)
            hashed = await self.ours.new_hash(password, name=user.name, address=address)
            await run(accounts.change_password, attempt, hashed, address)
        except UserError as error:
            await self.show(_about_the_old_one(error))
            return
        end_sessions(user)
        await run(accounts.sessions_ended, user.name)
        self.set_login_cookie(user)
        self.redirect(self.hub.base_url + "password?done=1", status=303)


def _about_the_old_one(error: UserError) -> UserError:
    if error.code != "wrong_password":
        return error
    return InvalidChoice("The old password is wrong.", field="old_password")
