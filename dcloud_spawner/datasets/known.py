"""Whether anybody is meant by a name that something is shared with. Sharing ahead is allowed, but
a slip of the pen must not look like success."""

from __future__ import annotations

from sqlalchemy import Connection

from dcloud_spawner.store import accounts, dataset_shares, homes, logins, people
from dcloud_spawner.store.dataset_shares import Share


def is_known(connection: Connection, share: Share) -> bool:
    """Whether a person of that name was ever here, or somebody in a group of it. Projects always
    are: they are checked when it is shared."""
    if share.kind == dataset_shares.USER:
        home = homes.of_user(connection, share.name)
        return (
            people.find(connection, share.name) is not None
            or logins.find(connection, share.name) is not None
            or accounts.personal(connection, share.name) is not None
            or (home is not None and home.user_deleted_at is None)
        )
    if share.kind == dataset_shares.GROUP:
        return any(share.name in person.groups for person in people.everybody(connection))
    return True
