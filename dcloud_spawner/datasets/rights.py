"""Who may do what with a dataset, decided anew each time it is asked.

Owners manage: the person, or the owners of the project (its members write). Everybody else has
what was shared with them, with a group of theirs or with a project that they are in; everyone who
is signed in may read what is open to everyone. Administrators manage everything. What somebody may
not even see is not there for them: the answer is the same as for what does not exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from sqlalchemy import ColumnElement, Connection, and_, false, or_, select, true

from dcloud_spawner.datasets.paths import Reference, parse_reference, shown
from dcloud_spawner.errors import NotAllowed, NotFound
from dcloud_spawner.store import accounts, dataset_shares, datasets, people
from dcloud_spawner.store.accounts import Role
from dcloud_spawner.store.dataset_shares import Share
from dcloud_spawner.store.datasets import Dataset
from dcloud_spawner.store.datasets_schema import dataset_shares as shares_table
from dcloud_spawner.store.datasets_schema import datasets as datasets_table
from dcloud_spawner.store.events import Actor


class Right(IntEnum):
    """What somebody may do; each includes those before it."""

    READ = 1
    """See, mount, download."""
    WRITE = 2
    """Add and remove files of the draft, publish it, describe the dataset."""
    MANAGE = 3
    """Share, delete, give away."""


@dataclass(frozen=True)
class Who:
    """Somebody who asks, as the hub and the ledger know them now."""

    user: str
    groups: frozenset[str] = frozenset()
    administrator: bool = False
    projects: Mapping[str, Role] = field(default_factory=dict)
    """Role by id of the project's account."""
    person: bool = True
    """False for a service: a user of its name is somebody else."""


@dataclass(frozen=True)
class Asker:
    """Whoever sent a request, as the hub says, before the ledger was asked for their projects."""

    actor: Actor
    groups: frozenset[str] = frozenset()
    administrator: bool = False
    person: bool = True

    @property
    def user(self) -> str:
        """Their name."""
        return self.actor.name

    def known(self, connection: Connection) -> Who:
        """With their projects, as they are in this transaction."""
        return who(
            connection,
            self.user,
            self.groups,
            administrator=self.administrator,
            person=self.person,
        )


def who(
    connection: Connection,
    user: str,
    groups: Collection[str],
    *,
    administrator: bool = False,
    person: bool = True,
) -> Who:
    """Somebody of whom the hub just said the groups."""
    found = accounts.of_user(connection, user) if person else []
    projects = {
        account.id: role
        for account, role in found
        if account.kind == accounts.PROJECT and account.closed_at is None
    }
    return Who(user, frozenset(groups), administrator, projects, person)


def who_was(connection: Connection, user: str) -> Who:
    """Somebody who is not here to be asked (a mount that goes on): as the hub last said."""
    known = people.find(connection, user)
    groups = known.groups if known else ()
    return who(connection, user, groups, administrator=bool(known and known.administrator))


def right_of(connection: Connection, asking: Who, dataset: Dataset) -> Right | None:
    """What somebody may do with a dataset; None: it is not there for them."""
    if asking.administrator:
        return Right.MANAGE
    return _right(asking, dataset, dataset_shares.of_dataset(connection, dataset.id))


def rights_of(
    connection: Connection, asking: Who, found: Collection[Dataset]
) -> dict[str, Right | None]:
    """The same for several, by id, in one query."""
    if asking.administrator:
        return {dataset.id: Right.MANAGE for dataset in found}
    shares = dataset_shares.of_datasets(connection, [dataset.id for dataset in found])
    return {dataset.id: _right(asking, dataset, shares[dataset.id]) for dataset in found}


def _right(asking: Who, dataset: Dataset, shares: Collection[Share]) -> Right | None:
    rights = [Right.READ] if dataset.everyone else []
    if dataset.owner_kind == datasets.USER:
        if asking.person and dataset.owner == asking.user:
            return Right.MANAGE
    elif dataset.owner in asking.projects:
        owns = asking.projects[dataset.owner] is Role.OWNER
        rights.append(Right.MANAGE if owns else Right.WRITE)
    for share in shares:
        if _meant(asking, share):
            rights.append(Right.WRITE if share.right == "write" else Right.READ)
    return max(rights, default=None)


def _meant(asking: Who, share: Share) -> bool:
    if share.kind == dataset_shares.USER:
        return asking.person and share.name == asking.user
    if share.kind == dataset_shares.GROUP:
        return share.name in asking.groups
    return share.name in asking.projects


def visible(asking: Who) -> ColumnElement[bool]:
    """The condition of all lists: what somebody may see."""
    if asking.administrator:
        return true()
    return or_(datasets_table.c.everyone.is_(True), mine(asking), shared_with(asking))


def mine(asking: Who) -> ColumnElement[bool]:
    """What belongs to somebody or to a project of theirs."""
    table = datasets_table.c
    own = and_(table.owner_kind == datasets.USER, table.owner == asking.user)
    of_projects = and_(
        table.owner_kind == datasets.PROJECT, table.owner.in_(sorted(asking.projects))
    )
    return or_(own, of_projects) if asking.person else false()


def shared_with(asking: Who) -> ColumnElement[bool]:
    """What was shared with somebody, a group or a project of theirs."""
    table = shares_table.c
    meant = [
        and_(table.kind == dataset_shares.GROUP, table.name.in_(sorted(asking.groups))),
        and_(table.kind == dataset_shares.PROJECT, table.name.in_(sorted(asking.projects))),
    ]
    if asking.person:
        meant.append(and_(table.kind == dataset_shares.USER, table.name == asking.user))
    return datasets_table.c.id.in_(select(table.dataset).where(or_(*meant)))


def find(
    connection: Connection,
    asking: Who,
    given: str,
    at_least: Right = Right.READ,
    *,
    binned: bool = False,
) -> Dataset:
    """The dataset of an id or of ``owner/name``. Raises NotFound for what somebody may not see, in
    the words for what does not exist, and NotAllowed for what they may only see."""
    for dataset in _candidates(connection, given):
        right = right_of(connection, asking, dataset)
        if right is None or (dataset.deleted_at is not None) != binned:
            continue
        if binned and right < Right.MANAGE:
            continue
        if right < at_least:
            raise NotAllowed(
                f"You may {_words(right)} {dataset.reference}, but not {_words(at_least)} it.",
                hint=f"Ask {dataset.owner_name} to share it with you for more.",
            )
        return dataset
    raise NotFound(
        f"There is no dataset {shown(given)} that you may see.",
        hint="Look at the list of datasets, or ask its owner to share it with you.",
        field="dataset",
    )


def _candidates(connection: Connection, given: str) -> Collection[Dataset]:
    if "/" not in given:
        found = datasets.find(connection, given)
        return [found] if found else []
    meant = parse_reference(given)
    return by_reference(connection, meant)


def by_reference(connection: Connection, meant: Reference) -> Collection[Dataset]:
    """The datasets that ``owner/name`` may mean: a person's, then a project's of that name."""
    kind = datasets.PROJECT if meant.project else None
    return datasets.named(connection, meant.owner, meant.name, kind)


def _words(right: Right) -> str:
    return {Right.READ: "read", Right.WRITE: "change", Right.MANAGE: "manage"}[right]
