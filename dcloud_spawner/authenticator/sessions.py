"""Ending what lets a browser or a script in: hub cookies, OAuth sessions, API tokens.

Works on the hub's own database session, so only in the hub and on its event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyterhub import orm
from jupyterhub.roles import assign_default_roles

if TYPE_CHECKING:
    from jupyterhub.user import User

_SERVER_SCOPES = ("users:activity!user", "access:servers!server=")
"""All that the token of a running server may do: report activity, and let its owner in."""


def end_sessions(user: User) -> None:
    """Sign a user out everywhere, and end the API tokens they made.

    Hub cookies hold ``cookie_id``; a new one makes all of them void. The tokens with which
    running servers talk to the hub stay, or the servers would have to be stopped too; a token
    that only calls itself so, but may do more, ends.
    """
    orm_user = user.orm_user
    orm_user.cookie_id = orm.new_token()
    for token in list(orm_user.api_tokens):
        if not _is_of_a_server(token):
            user.db.delete(token)
    for code in list(orm_user.oauth_codes):
        user.db.delete(code)
    user.db.commit()
    user._auth_refreshed = None


def take_away(user: User) -> bool:
    """End a user's sessions, groups and administrator's rights; says whether anything changed."""
    had_any = bool(user.admin or user.groups or user.orm_user.api_tokens)
    if user.admin:
        user.admin = False
    user.sync_groups([])
    assign_default_roles(user.db, entity=user.orm_user)
    end_sessions(user)
    return had_any


def _is_of_a_server(token: orm.APIToken) -> bool:
    return (
        not token.session_id
        and (token.note or "").startswith("Server at ")
        and bool(token.scopes)
        and all(scope.startswith(_SERVER_SCOPES) for scope in token.scopes)
    )
