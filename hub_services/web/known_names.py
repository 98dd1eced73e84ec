"""Whether anybody has a name that somebody wrote into a form, and whose may have been meant.

A slip of the pen must not look like success. Our own rows know most names; of the others the hub
is asked, one name at a time, with the least rights that it has for that. Where the platform has
accounts of its own, a name that neither knows is nobody's. Where people sign in elsewhere, it may
be that of somebody who comes later: then whoever wrote it is asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Literal
from urllib.parse import quote

from sqlalchemy import Connection
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from dcloud_spawner.errors import InvalidChoice, Unavailable
from dcloud_spawner.form.words import listed
from dcloud_spawner.store import accounts, homes, logins, people
from hub_services.web.service import Service

Kind = Literal["user", "group"]

NOBODY = "nobody"
"""Code of the refusal of a name that nobody has."""

NOBODY_YET = "nobody_yet"
"""Code of the refusal of a name that somebody may have later: the same with ``ahead`` is done."""

MOST_NAMED = 3
"""So many are named in one refusal, and so many that may have been meant."""

ALIKE = 0.7
"""How alike a name is that may have been meant; 1 is the same."""


async def refuse_unknown(
    service: Service,
    kind: Kind,
    names: Iterable[str],
    *,
    field: str,
    ahead: bool = False,
    suggest: bool = True,
) -> None:
    """Raise InvalidChoice for names that nobody has, with those that are like them. ``ahead``: the
    caller has been asked and means somebody who is not known here yet; it does not help where
    the platform knows everybody. ``suggest``: whether the caller may read names of others.
    Raises Unavailable when the hub does not answer."""
    own = service.platform.settings.authenticator == "dcloud"
    if ahead and not own:
        return
    wanted = list(dict.fromkeys(names))
    known = await service.platform.in_database_thread(_read, service, kind)
    missing: list[str] = []
    certain = own
    for name in (name for name in wanted if name not in known):
        found = await _in_hub(service, kind, name)
        if found:
            continue
        certain = certain and found is not None
        missing.append(name)
        if len(missing) == MOST_NAMED:
            break
    if missing and (certain or not ahead):
        like: Mapping[str, Sequence[str]] = {}
        if suggest:
            like = await service.platform.in_database_thread(alike, missing, known)
        raise _refusal(kind, missing, like, field=field, certain=certain)


def alike(missing: Iterable[str], known: Collection[str]) -> Mapping[str, Sequence[str]]:
    """For each name those that are like it, the most alike first; case does not count."""
    folded: dict[str, list[str]] = {}
    for name in sorted(known):
        folded.setdefault(name.casefold(), []).append(name)
    return {
        name: [
            real
            for found in difflib.get_close_matches(name.casefold(), folded, MOST_NAMED, ALIKE)
            for real in folded[found]
        ][:MOST_NAMED]
        for name in missing
    }


def known_names(connection: Connection, kind: Kind) -> frozenset[str]:
    """Names that our own rows know: who has an account, signed up or ever asked for anything;
    groups of those who did. Deleted users are not among them."""
    seen = people.everybody(connection)
    if kind == "group":
        return frozenset(group for person in seen for group in person.groups)
    return frozenset(
        [
            *(person.user for person in seen),
            *(login.name for login in logins.every(connection)),
            *(
                account.name
                for account in accounts.all_accounts(connection, accounts.USER)
                if account.closed_at is None
            ),
            *(home.user for home in homes.all_homes(connection) if home.user_deleted_at is None),
        ]
    )


def _read(service: Service, kind: Kind) -> frozenset[str]:
    with service.platform.database.reading() as connection:
        return known_names(connection, kind)


async def _in_hub(service: Service, kind: Kind, name: str) -> bool | None:
    """Whether the hub has it; None where it does not let us ask."""
    url = f"{service.auth.api_url}/{kind}s/{quote(name, safe='')}"
    request = HTTPRequest(
        url, headers={"Authorization": f"token {service.auth.api_token}"}, request_timeout=10
    )
    try:
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
    except (OSError, HTTPClientError):
        code = 0
    else:
        code = answer.code
    if code in (HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST):
        return code == HTTPStatus.OK
    if code == HTTPStatus.FORBIDDEN:
        return None
    raise Unavailable(
        "The hub does not answer, so nobody knows whether this name is right.",
        hint="Try again in a moment.",
        code="hub_unavailable",
    )


def _refusal(
    kind: Kind,
    missing: Sequence[str],
    like: Mapping[str, Sequence[str]],
    *,
    field: str,
    certain: bool,
) -> InvalidChoice:
    names = listed(missing)
    if kind == "user":
        said = f"nobody has the name {names}"
        new = "Somebody new signs up or is invited first."
    else:
        said = f"there is no group {names}"
        new = "A new group is made on the hub's page for administrators first."
    meant = list(dict.fromkeys(found for name in missing for found in like.get(name, ())))
    hints = [f"Did you mean {_either(meant[:MOST_NAMED])}?"] if meant else []
    if not certain:
        hints.append("Check how it is spelt.")
    elif not meant:
        hints.append(new)
    code = NOBODY if certain else NOBODY_YET
    said += "" if certain else " here yet"
    return InvalidChoice(f"{field}: {said}.", hint=" ".join(hints), field=field, code=code)


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
