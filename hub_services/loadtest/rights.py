"""The load test's own rights at the hub, for as long as it runs.

Making and deleting users needs rights that no program of the platform has. Whoever may write
the hub's database is an administrator anyway, so the command writes itself a service, a role
and a token there. The token ends with the run, or by itself after a killed one; service and
role stay, and are nothing without a token.

Rows are added and never removed here: the running hub keeps rows in memory by their numbers,
and SQLite gives the number of a removed row to the next one. A hub that starts removes roles that
its configuration does not name, and may keep the service in memory as one that has none; so each
new role comes with a service that no hub has seen yet.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from jupyterhub import orm
from jupyterhub.roles import grant_role
from sqlalchemy.exc import SQLAlchemyError

from dcloud_spawner.errors import ConfigurationError

NAME = "dcloud-loadtest"
"""Of the role, and what its services' names begin with; the action log shows them as the actor."""

SCOPES = ["admin:users", "tokens", "servers", "list:users"]


@contextmanager
def service_token(hub_store_url: str, seconds: float) -> Iterator[str]:
    """A token for the hub's API that ends with the block, and after ``seconds`` in any case.

    Raises ConfigurationError when the hub's database cannot be used.
    """
    try:
        session = orm.new_session_factory(hub_store_url)()
    except (SQLAlchemyError, orm.DatabaseSchemaMismatch) as error:
        raise ConfigurationError(
            "The hub's database cannot be opened; has `dcloud up` run here?"
        ) from error
    try:
        service = _service(session)
        token: str = service.new_api_token(note="dcloud loadtest", expires_in=int(seconds))
        session.commit()
        try:
            yield token
        finally:
            _end_tokens(session)
    finally:
        session.close()


def _service(session: Any) -> Any:
    """A service that has the role; made where there is none."""
    role = orm.Role.find(session, name=NAME)
    if role is None:
        role = orm.Role(name=NAME, description="People of `dcloud loadtest`")
        session.add(role)
    role.scopes = SCOPES
    session.commit()
    if role.services:
        return role.services[0]
    service = orm.Service(name=f"{NAME}-{secrets.token_hex(4)}", from_config=False)
    session.add(service)
    session.commit()
    grant_role(session, service, role)
    return service


def _end_tokens(session: Any) -> None:
    """Let all tokens of load tests, of killed ones too, have expired; the hub removes such rows
    itself."""
    session.rollback()
    past = orm.APIToken.now() - timedelta(seconds=1)
    ours = session.query(orm.Service.id).filter(orm.Service.name.startswith(NAME))
    session.query(orm.APIToken).filter(
        orm.APIToken.service_id.in_(ours),
        (orm.APIToken.expires_at.is_(None)) | (orm.APIToken.expires_at > past),
    ).update({"expires_at": past}, synchronize_session=False)
    session.commit()
