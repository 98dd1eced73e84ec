"""The tables of the administration pages as files; requests also for who asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dcloud_spawner.errors import NotAllowed
from dcloud_spawner.store import accounts, asks
from dcloud_spawner.store import limits as limit_rows
from dcloud_spawner.store import rates as rate_rows
from dcloud_spawner.store.usage import Use
from hub_services.web.api.access import scope_of
from hub_services.web.pages.exporting import Cell, Column, Export, Row, Type, credits
from hub_services.web.pages.figures import HOUR_MICROSECONDS, KWH_MILLIJOULES
from hub_services.web.pages.lab import UseRow, lab_use
from hub_services.web.pages.views import Call

PART = 1000

_USE = (
    Column("gpu_hours", Type.NUMBER),
    Column("gpu_microseconds", Type.WHOLE),
    Column("cpu_core_microseconds", Type.WHOLE),
    Column("memory_gib_microseconds", Type.WHOLE),
    Column("cost_microcredits", Type.WHOLE),
    Column("cost_credits", Type.CREDITS),
    Column("measured_gpu_microseconds", Type.WHOLE),
    Column("busy_gpu_microseconds", Type.WHOLE),
    Column("unused_share", Type.NUMBER),
    Column("energy_millijoules", Type.WHOLE),
    Column("energy_kwh", Type.NUMBER),
)


def _administrators(call: Call) -> None:
    if not call.viewer.administrator:
        raise NotAllowed("Only administrators have this table.")


def _use(row: UseRow) -> Row:
    use: Use = row.use
    return (
        use.gpu_microseconds / HOUR_MICROSECONDS,
        use.gpu_microseconds,
        use.cpu_microseconds,
        use.memory_gib_microseconds,
        use.microcredits,
        credits(use.microcredits),
        use.measured_microseconds,
        use.busy_microseconds,
        row.unused,
        use.energy_millijoules,
        use.energy_millijoules / KWH_MILLIJOULES,
    )


def _lab(kind: str, first: str) -> Callable[[Call], Export]:
    def make(call: Call) -> Export:
        """Use of the lab in a period."""
        _administrators(call)
        found = lab_use(call)
        rows: Sequence[UseRow] = getattr(found, kind)
        name = f"lab-{kind}-{found.first}-{found.last}"
        return Export(
            name, (Column(first), *_USE), iter([[(row.name, *_use(row)) for row in rows]])
        )

    return make


def lab_days(call: Call) -> Export:
    """Use of the lab by the reader's day."""
    _administrators(call)
    found = lab_use(call)
    columns = (Column("day", Type.DAY), Column("time_zone"), *_USE)
    rows: list[Row] = [(day, call.zone.name, *_use(row)) for day, row in found.by_day]
    return Export(f"lab-days-{found.first}-{found.last}", columns, iter([rows]))


def all_accounts(call: Call) -> Export:
    """Every account as it is now."""
    _administrators(call)
    columns = (
        *(Column(name) for name in ("account", "kind", "name", "title", "budget")),
        Column("balance_microcredits", Type.WHOLE),
        Column("balance_credits", Type.CREDITS),
        Column("set_aside_microcredits", Type.WHOLE),
        Column("people", Type.WHOLE),
        Column("created_at", Type.TIME),
        Column("closed_at", Type.TIME),
    )
    with call.platform.database.reading() as connection:
        found = accounts.all_accounts(connection)
        held = accounts.held_microcredits(connection, [each.id for each in found])
        people = accounts.member_counts(connection)
    rows: list[Row] = [
        (
            each.id,
            each.kind,
            each.name,
            each.title,
            each.budget.value,
            each.balance_microcredits,
            credits(each.balance_microcredits),
            held.get(each.id, 0),
            people.get(each.id, 0) if each.kind == accounts.PROJECT else 1,
            each.created_at,
            each.closed_at,
        )
        for each in found
    ]
    return Export("accounts", columns, iter([rows]))


def all_rates(call: Call) -> Export:
    """Every rate that was ever set."""
    _administrators(call)
    columns = (
        *(Column(name) for name in ("resource", "gpu_model", "tier")),
        Column("microcredits", Type.WHOLE),
        Column("credits", Type.CREDITS),
        Column("valid_from", Type.TIME),
        Column("set_by"),
        Column("set_at", Type.TIME),
    )
    with call.platform.database.reading() as connection:
        found = rate_rows.read_book(connection).rates
    rows: list[Row] = [
        (
            each.resource.value,
            each.gpu_model,
            each.tier,
            each.microcredits,
            credits(each.microcredits),
            each.valid_from,
            each.created_by,
            each.created_at,
        )
        for each in found
    ]
    return Export("rates", columns, iter([rows]))


def all_overrides(call: Call) -> Export:
    """What counts for single people now."""
    _administrators(call)
    columns = (
        *(Column(name) for name in ("user", "limit", "value")),
        Column("until", Type.TIME),
        *(Column(name) for name in ("reason", "set_by")),
        Column("set_at", Type.TIME),
    )
    with call.platform.database.reading() as connection:
        found = limit_rows.active_overrides(connection, call.now)
    rows: list[Row] = [
        (
            each.user,
            each.limit,
            "no limit" if each.value is None else _text(each.value),
            each.ends_at,
            each.reason,
            each.set_by,
            each.set_at,
        )
        for each in found
    ]
    return Export("limits", columns, iter([rows]))


def all_requests(call: Call) -> Export:
    """Requests for more, the newest first: one's own and those for projects that one owns, or for
    administrators everybody's."""
    columns = (
        *(Column(name) for name in ("request", "user", "what", "account", "limit", "value")),
        *(Column(name, Type.TIME) for name in ("until", "asked_at")),
        *(Column(name) for name in ("reason", "state", "given")),
        Column("given_until", Type.TIME),
        *(Column(name) for name in ("answer", "answered_by")),
        Column("answered_at", Type.TIME),
    )

    def parts() -> Iterator[Sequence[Row]]:
        before: str | None = None
        while True:
            with call.platform.database.reading() as connection:
                scope = scope_of(connection, call.viewer)
                found = asks.page(connection, scope=scope, before=before, limit=PART)
                wanted = {each.account for each in found if each.account}
                names = accounts.names_of(connection, wanted)
            if not found:
                return
            yield [
                (
                    each.id,
                    each.user,
                    each.what.value,
                    names.get(each.account or "", ""),
                    each.limit,
                    _text(each.value),
                    each.until,
                    each.asked_at,
                    each.reason,
                    each.state.value,
                    _text(each.given),
                    each.given_until,
                    each.answer,
                    each.answered_by,
                    each.answered_at,
                )
                for each in found
            ]
            before = found[-1].id

    return Export("requests", columns, parts())


def _text(value: object) -> Cell:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


ADMINISTRATION_EXPORTS: dict[str, Callable[[Call], Export]] = {
    "lab-users": _lab("users", "user"),
    "lab-projects": _lab("projects", "project"),
    "lab-models": _lab("models", "gpu_model"),
    "lab-days": lab_days,
    "accounts": all_accounts,
    "rates": all_rates,
    "limits": all_overrides,
    "requests": all_requests,
}
