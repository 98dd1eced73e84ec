"""Accounts of our own: one row a name, and the failed sign-ins that lock names out.

Sign-in decides in :mod:`dcloud_spawner.authenticator.accounts`; here is only the SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from dcloud_spawner.store.database import UtcDateTime
from dcloud_spawner.store.schema import homes, metadata


class LoginStatus(StrEnum):
    """Who may pass."""

    PENDING = "pending"
    """Signed up; an administrator has not answered yet."""
    APPROVED = "approved"
    """May sign in, with a password; without one only a one-time link helps."""
    LOCKED = "locked"
    """An administrator took the approval back."""


logins = Table(
    "logins",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("status", String(16), nullable=False, index=True),
    # Empty: invited, has no password yet.
    Column("password_hash", Text, nullable=False, server_default=""),
    Column("note", String(200), nullable=False, server_default=""),
    Column("source", String(64), nullable=False, server_default=""),
    Column("signed_up_at", UtcDateTime, nullable=False),
    Column("approved_at", UtcDateTime, nullable=True),
    Column("approved_by", String(255), nullable=False, server_default=""),
    Column("password_at", UtcDateTime, nullable=True),
    Column("signed_in_at", UtcDateTime, nullable=True),
    # SHA-256 of the token of the one link that may set the password.
    Column("link_hash", String(64), nullable=True, unique=True),
    Column("link_expires_at", UtcDateTime, nullable=True),
    Column("link_grants_admin", Boolean, nullable=False, server_default=text("false")),
    # Such a link was used: the hub makes them administrator at the next sign-in, then it goes.
    Column("grants_admin", Boolean, nullable=False, server_default=text("false")),
    # The hub still has to end this user's sessions; kept here so that a crash cannot forget it.
    Column("end_sessions", Boolean, nullable=False, server_default=text("false")),
)

sign_in_failures = Table(
    "sign_in_failures",
    metadata,
    # "name:bob", "name:bob@BROWSER" or "address:10.0.0.7"; names that do not exist count too.
    Column("key", String(320), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("since", UtcDateTime, nullable=False, index=True),
    Column("locked_until", UtcDateTime, nullable=True),
)


@dataclass(frozen=True)
class Login:
    """One account. Times are aware UTC."""

    name: str
    status: LoginStatus
    password_hash: str = field(repr=False)
    note: str
    source: str
    signed_up_at: datetime
    approved_at: datetime | None
    approved_by: str
    password_at: datetime | None
    signed_in_at: datetime | None
    link_hash: str | None = field(repr=False)
    link_expires_at: datetime | None
    link_grants_admin: bool
    grants_admin: bool
    end_sessions: bool

    @property
    def has_password(self) -> bool:
        """False for someone invited who has not used the link yet."""
        return bool(self.password_hash)


@dataclass(frozen=True)
class Failures:
    """Failed sign-ins of one name or address within the present window."""

    key: str
    failures: int
    since: datetime
    locked_until: datetime | None


def _login(row: object) -> Login:
    values = dict(row._mapping)  # type: ignore[attr-defined]
    return Login(**{**values, "status": LoginStatus(values["status"])})


def find(connection: Connection, name: str) -> Login | None:
    """The account of a normalised name."""
    row = connection.execute(select(logins).where(logins.c.name == name)).one_or_none()
    return None if row is None else _login(row)


def find_by_link(connection: Connection, link_hash: str, now: datetime) -> Login | None:
    """The account whose unused, unexpired link has this hash."""
    row = connection.execute(
        select(logins).where(logins.c.link_hash == link_hash, logins.c.link_expires_at > now)
    ).one_or_none()
    return None if row is None else _login(row)


def every(connection: Connection) -> Sequence[Login]:
    """All accounts by name."""
    return [_login(row) for row in connection.execute(select(logins).order_by(logins.c.name))]


def count(connection: Connection, status: LoginStatus, *, source: str | None = None) -> int:
    """How many accounts have a status, of one source address or all."""
    query = select(func.count()).select_from(logins).where(logins.c.status == status.value)
    if source is not None:
        query = query.where(logins.c.source == source)
    return connection.execute(query).scalar_one()


def add(
    connection: Connection,
    name: str,
    *,
    status: LoginStatus,
    at: datetime,
    password_hash: str = "",
    note: str = "",
    source: str = "",
    approved_by: str = "",
) -> None:
    """Add an account; the name must be free."""
    connection.execute(
        insert(logins).values(
            name=name,
            status=status.value,
            password_hash=password_hash,
            note=note[:200],
            source=source[:64],
            signed_up_at=at,
            approved_at=at if status is LoginStatus.APPROVED else None,
            approved_by=approved_by[:255],
            password_at=at if password_hash else None,
            link_grants_admin=False,
            grants_admin=False,
            end_sessions=False,
        )
    )


def change(connection: Connection, name: str, **values: object) -> None:
    """Set columns of one account."""
    connection.execute(update(logins).where(logins.c.name == name).values(**values))


def remove(connection: Connection, name: str) -> bool:
    """Delete an account; says whether there was one."""
    return connection.execute(delete(logins).where(logins.c.name == name)).rowcount > 0


def kept_homes(connection: Connection) -> frozenset[str]:
    """Names that already have a home: whoever is approved under one gets what is in it."""
    return frozenset(connection.execute(select(homes.c.user)).scalars())


def find_failures(connection: Connection, key: str) -> Failures | None:
    """The failures of one key, whether its window is over or not."""
    row = connection.execute(
        select(sign_in_failures).where(sign_in_failures.c.key == key)
    ).one_or_none()
    return None if row is None else Failures(**row._mapping)


def set_failures(connection: Connection, failures: Failures) -> None:
    """Insert or replace the failures of one key. Call it in a write transaction."""
    connection.execute(delete(sign_in_failures).where(sign_in_failures.c.key == failures.key))
    connection.execute(
        insert(sign_in_failures).values(
            key=failures.key,
            failures=failures.failures,
            since=failures.since,
            locked_until=failures.locked_until,
        )
    )


def clear_failures(connection: Connection, *, key: str = "", name: str = "") -> bool:
    """Forget the failures of one key, or all of a name; says whether there were any."""
    column = sign_in_failures.c.key
    chosen = (
        (column == f"name:{name}") | column.startswith(f"name:{name}@", autoescape=True)
        if name
        else column == key
    )
    return connection.execute(delete(sign_in_failures).where(chosen)).rowcount > 0


def drop_old_failures(connection: Connection, before: datetime) -> None:
    """Forget windows that began before a time and lock nobody any more."""
    connection.execute(
        delete(sign_in_failures).where(
            sign_in_failures.c.since < before,
            sign_in_failures.c.locked_until.is_(None) | (sign_in_failures.c.locked_until < before),
        )
    )


def locked_names(connection: Connection, now: datetime) -> dict[str, datetime]:
    """Names that are locked out now by failed sign-ins, with the end of it."""
    rows = connection.execute(
        select(sign_in_failures.c.key, sign_in_failures.c.locked_until).where(
            sign_in_failures.c.locked_until > now, sign_in_failures.c.key.startswith("name:")
        )
    )
    found: dict[str, datetime] = {}
    for row in rows:
        name = row.key.removeprefix("name:").partition("@")[0]
        found[name] = max(row.locked_until, found.get(name, now))
    return found
