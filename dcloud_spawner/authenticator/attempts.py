"""Sign-in attempts: counted before they are compared, and what failing too often does.

A name is locked out for a while, whether or not it exists; an address is only slowed down.
Both are kept in the database, so a restart of the hub forgives nothing. A browser in which
somebody has signed in before counts for itself: so a stranger who fails on purpose under
their name does not keep them out of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dcloud_spawner.errors import NotAllowed, TooManyAttempts
from dcloud_spawner.settings import Settings
from dcloud_spawner.store import events, logins
from dcloud_spawner.store.database import Database
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.logins import Failures, Login, LoginStatus

WRONG = "Name or password is wrong, or the account does not exist."
"""The one answer to everybody who has not shown the right password."""

FREE_FAILURES_PER_ADDRESS = 10
"""Failed sign-ins of an address, within the lock-out window, that cost it no time."""
SLOWER_PER_FAILURE_SECONDS = 0.2
SLOWEST_SECONDS = 3.0
"""An address is only ever slowed down, never shut out: a whole lab may share it."""


@dataclass(frozen=True)
class Attempt:
    """A sign-in that has been counted and may now be compared."""

    name: str
    key: str
    """Under which its failures are counted."""
    password_hash: str = field(repr=False)
    """Empty when there is no such account: compare all the same, it takes the same time."""
    delay_seconds: float
    locked_until: datetime | None
    """Set when this one is the last before the lock-out, should it fail."""


def name_key(name: str, browser: str = "") -> str:
    """Key of a name's failures, in a browser that is known to be theirs or anywhere else."""
    return f"name:{name}@{browser}" if browser else f"name:{name}"


def address_key(address: str) -> str:
    """Key of an address's failures; one IPv6 customer owns a whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address:unknown"
    if parsed.version == 6:
        return f"address:{ipaddress.ip_network((parsed, 64), strict=False)}"
    return f"address:{parsed}"


class Attempts:
    """Counts sign-ins and says who passes. Its methods block on the database."""

    def __init__(
        self, database: Database, settings: Settings, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._window = timedelta(minutes=settings.lockout_minutes)

    def begin(self, name: str, address: str, browser: str = "") -> Attempt:
        """Count a sign-in before it is compared, so that many at once gain nothing.

        ``browser`` identifies one in which this name has signed in before. Raises
        TooManyAttempts while the name is locked out, whether or not it exists.
        """
        now, key = self._clock(), name_key(name, browser)
        with self._database.transaction() as connection:
            logins.drop_old_failures(connection, now - self._window)
            by_name = _counted(connection, key, now, self._window)
            if by_name.locked_until is not None:
                raise _locked_out(by_name.locked_until, now)
            by_name = replace(by_name, failures=by_name.failures + 1)
            if by_name.failures >= self._settings.lockout_attempts:
                by_name = replace(by_name, locked_until=now + self._window)
            by_address = _counted(connection, address_key(address), now, self._window)
            logins.set_failures(connection, by_name)
            logins.set_failures(connection, replace(by_address, failures=by_address.failures + 1))
            login = logins.find(connection, name)
        return Attempt(
            name=name,
            key=key,
            password_hash=login.password_hash if login else "",
            delay_seconds=_delay(by_address.failures),
            locked_until=by_name.locked_until,
        )

    def failed(self, attempt: Attempt, address: str) -> Exception:
        """The answer to a wrong password or unknown name; writes down a lock-out."""
        if attempt.locked_until is None:
            return NotAllowed(WRONG, code="wrong_password")
        now = self._clock()
        with self._database.transaction() as connection:
            events.note(
                connection, Actor("visitor", address), "login.lockout", attempt.name, at=now
            )
        return _locked_out(attempt.locked_until, now)

    def succeeded(self, attempt: Attempt, address: str, *, new_hash: str = "") -> Login:
        """The right password was shown: forget the failures, and let in who is approved.

        ``new_hash`` replaces a hash of older parameters. Raises NotAllowed for the others.
        """
        now = self._clock()
        with self._database.transaction() as connection:
            login = logins.find(connection, attempt.name)
            if login is None or login.password_hash != attempt.password_hash:
                raise NotAllowed(WRONG, code="wrong_password")
            logins.clear_failures(connection, key=attempt.key)
            give_back(connection, address, now, self._window)
            if login.status is LoginStatus.APPROVED:
                values = {"password_hash": new_hash} if new_hash else {}
                logins.change(connection, login.name, signed_in_at=now, **values)
                events.note(
                    connection, Actor(login.name, address), "login.sign-in", login.name, at=now
                )
        if login.status is LoginStatus.PENDING:
            raise NotAllowed(
                "Your sign-up waits for an administrator.",
                hint="You can sign in once it is approved.",
                code="pending",
            )
        if login.status is LoginStatus.LOCKED:
            raise NotAllowed(
                "An administrator has locked your account.", hint="Ask them why.", code="locked"
            )
        return login


def give_back(connection: Connection, address: str, now: datetime, window: timedelta) -> None:
    """A password was right after all: it must not slow its address down."""
    counted = _counted(connection, address_key(address), now, window)
    if counted.failures:
        logins.set_failures(connection, replace(counted, failures=counted.failures - 1))


def _counted(connection: Connection, key: str, now: datetime, window: timedelta) -> Failures:
    """The failures within the present window; a window or lock-out that is over counts as none."""
    found = logins.find_failures(connection, key)
    if found is None:
        return Failures(key, 0, now, None)
    if found.locked_until is not None:
        return found if found.locked_until > now else Failures(key, 0, now, None)
    return found if found.since + window > now else Failures(key, 0, now, None)


def _delay(failures: int) -> float:
    over = max(0, failures - FREE_FAILURES_PER_ADDRESS)
    return min(SLOWEST_SECONDS, over * SLOWER_PER_FAILURE_SECONDS)


def _locked_out(until: datetime, now: datetime) -> TooManyAttempts:
    minutes = max(1, -int(-(until - now).total_seconds() // 60))
    return TooManyAttempts(
        f"Too many failed sign-ins for this name. It is locked for {minutes} min, "
        f"until {until:%H:%M} UTC.",
        hint="An administrator can unlock it.",
        code="locked_out",
    )
