"""The catalogue of datasets, and the bin."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Connection, and_, true

from dcloud_spawner.datasets.rights import Right, Who, mine, rights_of, shared_with, visible
from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.storage import telling
from dcloud_spawner.storage.telling import Silence
from dcloud_spawner.store import dataset_shares
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.datasets_browse import (
    Draft,
    Order,
    counts,
    drafts_of,
    listed,
    place,
    purging,
)
from dcloud_spawner.store.datasets_schema import datasets as table
from hub_services.web.pages.datasets_words import (
    Audience,
    asking,
    audience,
    link,
    project_names,
    written,
)
from hub_services.web.pages.views import Call

SHOWN = 50
MOST_WORDS = 8
LARGEST = 2**62
VIEWS = {"all": "All", "mine": "Mine", "shared": "Shared", "public": "Public"}
ORDERS = {
    Order.CHANGED: "Newest change",
    Order.USED: "Last use",
    Order.NAME: "Name",
    Order.SIZE: "Size",
}


@dataclass(frozen=True)
class Row:
    """One dataset of the list."""

    dataset: Dataset
    link: str
    written: str
    audience: Audience
    draft: Draft | None
    """Shown only to whom may change it."""
    own: bool


@dataclass(frozen=True)
class Catalogue:
    """One part of the list."""

    rows: Sequence[Row]
    views: Sequence[tuple[str, str, int, str]]
    """Name, words, how many, query."""
    view: str
    find: str
    order: Order
    orders: Sequence[tuple[str, str]]
    first: str
    """Query of the first part; empty on it."""
    following: str
    keep: Sequence[tuple[str, str]]
    """What the search form sends along."""
    any: bool
    """Whether there is any dataset that this reader may see."""
    silence: Silence | None
    """For administrators: why what is done by S3 is not on the action log."""


@dataclass(frozen=True)
class Thrown:
    """One dataset in the bin."""

    dataset: Dataset
    until: datetime
    going: bool
    """Whether it is being removed for good already."""


@dataclass(frozen=True)
class Bin:
    """What was deleted and can still come back."""

    rows: Sequence[Thrown]
    days: int
    following: str


def conditions(found: Who) -> dict[str, ColumnElement[bool]]:
    """The views of the list, for one reader."""
    return {
        "all": true(),
        "mine": mine(found),
        "shared": and_(shared_with(found), ~mine(found)),
        "public": table.c.everyone.is_(True),
    }


def read_catalogue(call: Call) -> Catalogue:
    """Search, filter, order, one part. Blocks."""
    view = call.one_of("view", tuple(VIEWS))
    order = Order(call.one_of("sort", tuple(Order)))
    find = call.text("find")
    words = find.split()[:MOST_WORDS]
    after = _read_place(call.text("after"), order)
    with call.platform.database.reading() as connection:
        found = asking(connection, call.viewer)
        seen, parts = visible(found), conditions(found)
        numbers = counts(connection, seen, parts, words)
        rows: Sequence[Dataset] = ()
        if numbers[view]:
            rows = listed(
                connection,
                and_(seen, parts[view]),
                order,
                words=words,
                after=after,
                limit=SHOWN + 1,
            )
        shown = _rows(connection, call, found, rows[:SHOWN])
        any_ = bool(numbers["all"]) or bool(
            words and counts(connection, seen, {"all": true()})["all"]
        )
    here = {
        **({"find": find} if find else {}),
        **({"view": view} if view != "all" else {}),
        **({"sort": order.value} if order is not Order.CHANGED else {}),
    }
    views = [
        (name, words_, numbers[name], urlencode({**here, "view": name}))
        for name, words_ in VIEWS.items()
    ]
    more = _written_place(rows[SHOWN - 1], order) if len(rows) > SHOWN else ""
    return Catalogue(
        rows=shown,
        views=views,
        view=view,
        find=find,
        order=order,
        orders=[(each.value, words_) for each, words_ in ORDERS.items()],
        first=f"?{urlencode(here)}" if after else "",
        following=f"?{urlencode({**here, 'after': more})}" if more else "",
        keep=[(name, value) for name, value in here.items() if name == "view"],
        any=any_,
        silence=telling.silence(call.platform.settings) if call.viewer.administrator else None,
    )


def _rows(
    connection: Connection, call: Call, found: Who, datasets: Sequence[Dataset]
) -> Sequence[Row]:
    ids = [dataset.id for dataset in datasets]
    shares = dataset_shares.of_datasets(connection, ids)
    rights = rights_of(connection, found, datasets)
    drafts = drafts_of(connection, ids)
    projects = project_names(connection, [share for each in shares.values() for share in each])
    return [
        Row(
            dataset=dataset,
            link=link(dataset),
            written=written(dataset),
            audience=audience(
                dataset,
                shares[dataset.id],
                call.viewer.name,
                projects,
                manages=rights[dataset.id] is Right.MANAGE,
            ),
            draft=drafts.get(dataset.id) if (rights[dataset.id] or 0) >= Right.WRITE else None,
            own=call.viewer.person
            and dataset.owner_kind == "user"
            and dataset.owner == call.viewer.name,
        )
        for dataset in datasets
    ]


def _written_place(dataset: Dataset, order: Order) -> str:
    value = place(dataset, order)
    said = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([said, dataset.id]).encode()).decode()


def _read_place(text: str, order: Order) -> tuple[Any, str] | None:
    if not text:
        return None
    right = False
    value, identifier = None, ""
    with suppress(ValueError, TypeError, AttributeError):
        value, identifier = json.loads(base64.urlsafe_b64decode(text.encode()))
        if order is Order.USED and value is None:
            right = True
        elif order in (Order.CHANGED, Order.USED):
            value = datetime.fromisoformat(value)
            right = value.tzinfo is not None
        elif order is Order.NAME:
            right = isinstance(value, str)
        else:
            right = type(value) is int and abs(value) < LARGEST
        right = right and isinstance(identifier, str)
    if not right:
        raise InvalidChoice("after: it is no place in this list.", field="after")
    return value, identifier


def read_bin(call: Call) -> Bin:
    """What the viewer threw away or manages, the latest first. Blocks."""
    days = call.platform.settings.dataset_bin_days
    after = _read_place(call.text("after"), Order.CHANGED)
    with call.platform.database.reading() as connection:
        found = asking(connection, call.viewer)
        condition = true() if found.administrator else mine(found)
        rows = listed(
            connection, condition, Order.CHANGED, binned=True, after=after, limit=SHOWN + 1
        )
        rights = rights_of(connection, found, rows)
        going = purging(connection, [dataset.id for dataset in rows])
    more = _written_place(rows[SHOWN - 1], Order.CHANGED) if len(rows) > SHOWN else ""
    return Bin(
        rows=[
            Thrown(
                dataset,
                (dataset.deleted_at or call.now) + timedelta(days=days),
                dataset.id in going,
            )
            for dataset in rows[:SHOWN]
            if rights[dataset.id] is Right.MANAGE
        ],
        days=days,
        following=f"?{urlencode({'after': more})}" if more else "",
    )
