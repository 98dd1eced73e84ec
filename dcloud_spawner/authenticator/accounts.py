"""Who may sign in: the decisions, each with its row of the action log in one transaction.

Every method blocks on the database; on the event loop call it in a database thread.
Passwords are hashed and compared outside, between two of these calls. Sign-in itself is
in :mod:`~dcloud_spawner.authenticator.attempts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.authenticator.attempts import Attempt, give_back
from dcloud_spawner.authenticator.links import OneTimeLink, new_token, token_hash
from dcloud_spawner.authenticator.passwords import check_name
from dcloud_spawner.errors import Conflict, NotAllowed, NotFound, TooManyAttempts
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import events, logins
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.logins import Login, LoginStatus

PENDING_PER_ADDRESS = 50
PENDING_LIMIT = 500
"""Sign-ups that may wait for an administrator, so that a script cannot fill the database."""


class Accounts:
    """Sign-up, sign-in, approval and passwords of DCloud's own accounts."""

    def __init__(
        self, database: Database, settings: Settings, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._window = timedelta(minutes=settings.lockout_minutes)

    # ---- reading

    def find(self, name: str) -> Login | None:
        """The account of a normalised name."""
        with self._database.reading() as connection:
            return logins.find(connection, name)

    def overview(self) -> tuple[Sequence[Login], dict[str, datetime], frozenset[str]]:
        """All accounts, the names locked out now with the end of it, and the names with a home."""
        with self._database.reading() as connection:
            return (
                logins.every(connection),
                logins.locked_names(connection, self._clock()),
                logins.kept_homes(connection),
            )

    # ---- signing up

    def check_sign_up(self, name: str, address: str) -> None:
        """Raise Conflict or TooManyAttempts when a sign-up cannot be taken now."""
        with self._database.reading() as connection:
            self._check_sign_up(connection, name, address)

    def sign_up(self, name: str, password_hash: str, note: str, address: str) -> None:
        """Write down a sign-up. It lets nobody in: an administrator has to approve it."""
        now = self._clock()
        with self._database.transaction() as connection:
            self._check_sign_up(connection, name, address)
            logins.add(
                connection,
                name,
                status=LoginStatus.PENDING,
                at=now,
                password_hash=password_hash,
                note=note,
                source=address,
            )
            events.note(connection, Actor(name, address), "login.sign-up", name, at=now)

    def _check_sign_up(self, connection: Connection, name: str, address: str) -> None:
        if logins.find(connection, name) is not None:
            raise Conflict(f"The name {name} is taken.", hint="Choose another.", field="username")
        pending = LoginStatus.PENDING
        if (
            logins.count(connection, pending, source=address) >= PENDING_PER_ADDRESS
            or logins.count(connection, pending) >= PENDING_LIMIT
        ):
            raise TooManyAttempts(
                "Too many sign-ups wait for an administrator.",
                hint="Ask one to look at them, then try again.",
            )

    # ---- what an administrator does

    def approve(self, name: str, by: Actor, *, seen: datetime | None = None) -> None:
        """Let a sign-up in. ``seen``: the time of the sign-up that the administrator saw."""
        now = self._clock()
        with self._database.transaction() as connection:
            login = _get(connection, name)
            if login.status is not LoginStatus.PENDING:
                raise Conflict(f"{name} is {login.status} already.")
            if seen is not None and seen != login.signed_up_at:
                raise Conflict(f"{name} is another sign-up than the one you saw. Look again.")
            logins.change(
                connection,
                name,
                status=LoginStatus.APPROVED.value,
                approved_at=now,
                approved_by=by.name,
            )
            events.note(connection, by, "login.approve", name, at=now)

    def decline(self, name: str, by: Actor) -> None:
        """Throw a sign-up away; its name is free again."""
        with self._database.transaction() as connection:
            login = _get(connection, name)
            if login.status is not LoginStatus.PENDING:
                raise Conflict(f"{name} is {login.status} already.", hint="Lock it instead.")
            logins.remove(connection, name)
            events.note(
                connection,
                by,
                "login.decline",
                name,
                at=self._clock(),
                detail={"signed_up_from": login.source},
            )

    def lock(self, name: str, by: Actor) -> None:
        """Take the approval back and mark the sessions to be ended."""
        if name == by.name:
            raise Conflict("You cannot lock yourself.")
        with self._database.transaction() as connection:
            login = _get(connection, name)
            if login.status is not LoginStatus.APPROVED:
                raise Conflict(f"{name} is {login.status}; only an approved account can be locked.")
            logins.change(
                connection,
                name,
                status=LoginStatus.LOCKED.value,
                link_hash=None,
                link_expires_at=None,
                link_grants_admin=False,
                end_sessions=True,
            )
            events.note(connection, by, "login.lock", name, at=self._clock())

    def unlock(self, name: str, by: Actor) -> None:
        """Give the approval back, and forget failed sign-ins."""
        with self._database.transaction() as connection:
            login = logins.find(connection, name)
            cleared = logins.clear_failures(connection, name=name)
            if login is not None and login.status is LoginStatus.LOCKED:
                logins.change(connection, name, status=LoginStatus.APPROVED.value)
            elif not cleared:
                raise Conflict(f"{name} is not locked.")
            events.note(connection, by, "login.unlock", name, at=self._clock())

    def make_link(self, name: str, by: Actor, *, known_to_hub: bool = False) -> OneTimeLink:
        """A one-time link with which ``name`` sets a new password; an older one ends.

        ``known_to_hub`` also invites a user that the hub has and who has no account yet.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            login = logins.find(connection, name)
            if login is None:
                if not known_to_hub:
                    raise NotFound(f"There is no user {name}.")
                logins.add(
                    connection,
                    check_name(name),
                    status=LoginStatus.APPROVED,
                    at=now,
                    approved_by=by.name,
                )
            elif login.status is not LoginStatus.APPROVED:
                todo = "Approve" if login.status is LoginStatus.PENDING else "Unlock"
                raise Conflict(f"{name} is {login.status}.", hint=f"{todo} it first.")
            return self._put_link(connection, name, by, now, grants_admin=False)

    def make_admin_link(self, name: str, by: Actor, *, again: bool = False) -> OneTimeLink | None:
        """The link at which the first administrator sets a password, for the command line.

        None when somebody has got in already, unless ``again``: then whoever runs the
        deployment gives themselves a new way in. A stranger's sign-up under this name is
        thrown away, so its password never opens an administrator's account.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            if not again and any(
                login.status is LoginStatus.APPROVED and login.has_password
                for login in logins.every(connection)
            ):
                return None
            login = logins.find(connection, check_name(name))
            if login is None or login.status is not LoginStatus.APPROVED:
                logins.remove(connection, name)
                logins.add(
                    connection,
                    name,
                    status=LoginStatus.APPROVED,
                    at=now,
                    approved_by=by.name,
                )
            return self._put_link(connection, name, by, now, grants_admin=True)

    def _put_link(
        self, connection: Connection, name: str, by: Actor, now: datetime, *, grants_admin: bool
    ) -> OneTimeLink:
        token = new_token()
        expires_at = now + timedelta(hours=self._settings.reset_link_hours)
        logins.change(
            connection,
            name,
            link_hash=token_hash(token),
            link_expires_at=expires_at,
            link_grants_admin=grants_admin,
        )
        action = "login.admin-link" if grants_admin else "login.link"
        events.note(
            connection, by, action, name, at=now, detail={"expires_at": expires_at.isoformat()}
        )
        return OneTimeLink(name, token, expires_at)

    # ---- passwords

    def link_owner(self, token: str) -> str:
        """Whose link this is; raises NotAllowed for one that is used, expired or made up."""
        with self._database.reading() as connection:
            return self._link_owner(connection, token).name

    def use_link(self, token: str, password_hash: str, address: str) -> str:
        """Set the password by a link, once; says whose. Marks the sessions to be ended."""
        now = self._clock()
        with self._database.transaction() as connection:
            login = self._link_owner(connection, token)
            logins.change(
                connection,
                login.name,
                password_hash=password_hash,
                password_at=now,
                link_hash=None,
                link_expires_at=None,
                link_grants_admin=False,
                grants_admin=login.grants_admin or login.link_grants_admin,
                end_sessions=True,
            )
            logins.clear_failures(connection, name=login.name)
            events.note(
                connection,
                Actor(login.name, address),
                "login.link-used",
                login.name,
                at=now,
                detail={"grants_admin": login.link_grants_admin},
            )
        return login.name

    def _link_owner(self, connection: Connection, token: str) -> Login:
        login = logins.find_by_link(connection, token_hash(token), self._clock())
        if login is None or login.status is not LoginStatus.APPROVED:
            raise NotAllowed(
                "This link has been used, has expired, or was replaced by a newer one.",
                hint="Ask an administrator for a new one.",
                code="bad_link",
            )
        return login

    def change_password(self, attempt: Attempt, password_hash: str, address: str) -> None:
        """Set the own password after the old one was shown. Marks the sessions to be ended."""
        now = self._clock()
        with self._database.transaction() as connection:
            login = _get(connection, attempt.name)
            if login.password_hash != attempt.password_hash:
                raise Conflict("The password was changed elsewhere meanwhile.")
            logins.change(
                connection,
                login.name,
                password_hash=password_hash,
                password_at=now,
                link_hash=None,
                link_expires_at=None,
                link_grants_admin=False,
                end_sessions=True,
            )
            logins.clear_failures(connection, name=login.name)
            give_back(connection, address, now, self._window)
            events.note(
                connection, Actor(login.name, address), "login.password", login.name, at=now
            )

    # ---- what the hub did

    def sessions_ended(self, name: str) -> None:
        """The hub has ended the sessions it was told to end."""
        with self._database.transaction() as connection:
            logins.change(connection, name, end_sessions=False)

    def admin_granted(self, name: str) -> None:
        """The hub has made an administrator of who used an administrator's link."""
        with self._database.transaction() as connection:
            logins.change(connection, name, grants_admin=False)
            events.note(connection, Actor(name), "login.admin-granted", name, at=self._clock())

    def remove(self, name: str, by: Actor) -> None:
        """The hub deletes this user; signing up again needs a new approval."""
        with self._database.transaction() as connection:
            logins.clear_failures(connection, name=name)
            if logins.remove(connection, name):
                events.note(connection, by, "login.remove", name, at=self._clock())


def _get(connection: Connection, name: str) -> Login:
    login = logins.find(connection, name)
    if login is None:
        raise NotFound(f"There is no account {name}.")
    return login
