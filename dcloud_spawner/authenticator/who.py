"""Who does something, and its row of the action log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dcloud_spawner.store import events


@dataclass(frozen=True)
class Who:
    """A person or a part of the platform, and the address it acts from."""

    name: str
    address: str = ""


def log_act(
    connection: Connection, by: Who, action: str, name: str, at: datetime, **detail: object
) -> None:
    """Append ``action`` on the account ``name`` to the action log, in the caller's transaction."""
    events.append(
        connection,
        actor=by.name,
        action=action,
        target=name,
        source=by.address,
        at=at,
        detail=detail,
    )
