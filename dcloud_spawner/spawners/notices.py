"""What threatens a server: for the bar of every page of its owner, and for JupyterLab in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from tornado.web import HTTPError

from dcloud_spawner.budgets import SHORTLY_BEFORE
from dcloud_spawner.form.budget_lines import AT, BudgetLine, budget_line, budget_lines
from dcloud_spawner.form.view import render_part
from dcloud_spawner.live.stream import frame
from dcloud_spawner.live.warnings import BudgetWarning
from dcloud_spawner.platform import utc_now
from dcloud_spawner.scheduler.schedule import ends_at
from dcloud_spawner.spawners.money import SpawnerMoney
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import PREEMPTED, RESERVATION_ENDS, Workload


@dataclass(frozen=True)
class Notice:
    """One thing to know in JupyterLab; its extension is in ``images/base/notices``."""

    key: str
    """The same as long as it is the same thing: it is shown once."""
    level: str
    """warning or error."""
    text: str
    at: str | None = None
    """ISO time in the place of ``{at}`` in the text."""
    href: str = ""
    label: str = ""
    """A button, and where it leads."""


class SpawnerNotices(SpawnerMoney):
    """The warnings' side of a spawner's pages. Reads nothing: all is of the pool's reading."""

    _lines: tuple[object, bytes] | None = None

    def warnings_view(self) -> tuple[BudgetLine, ...]:
        """Budgets of this user that are near their end."""
        self.pool.keep_fresh()
        return budget_lines(self._warned, self._root)

    def warnings_frame(self) -> bytes:
        """The event of the bar's lines; the same bytes while nothing changed."""
        if self._lines is None or self._lines[0] != self._warned:
            html = render_part("budget_lines.html", warned=self.warnings_view())
            self._lines = self._warned, frame("budgets", html)
        return self._lines[1]

    def notices(self) -> list[dict[str, Any]]:
        """What threatens this server, for the program in it."""
        self.pool.keep_fresh()
        workload = self._of_pool()
        if workload is None or workload.state is not State.RUNNING:
            return []
        return [asdict(notice) for notice in self._notices_of(workload)]

    def _notices_of(self, workload: Workload) -> Iterator[Notice]:
        warning = self.pool.state.warnings.by_account.get(workload.account or "")
        if warning is not None:
            yield _of_budget(budget_line(warning, self._root))
        stop = _stop_to_come(workload, utc_now())
        if stop is not None:
            yield stop

    @property
    def _warned(self) -> tuple[BudgetWarning, ...]:
        return self.pool.state.warnings.by_user.get(self.user.name, ())

    @property
    def _root(self) -> str:
        return str(self.hub.base_url).removesuffix("hub/")


def _of_budget(line: BudgetLine) -> Notice:
    return Notice(
        key=line.key,
        level="error" if line.urgent else "warning",
        text=line.text,
        at=line.at.isoformat() if line.at else None,
        href=line.ask,
        label="Ask for more",
    )


def _stop_to_come(workload: Workload, now: datetime) -> Notice | None:
    """Why it will be stopped soon; what a budget has to do with it is said by its own notice."""
    end = ends_at(workload, now)
    if end is None or end == workload.budget_ends_at:
        return None
    told = workload.notice_at == end
    if told and workload.notice_reason == PREEMPTED:
        why, soon = workload.notice_detail, timedelta.max
    elif told and workload.notice_reason == RESERVATION_ENDS:
        why, soon = "The reservation that it runs on ends.", SHORTLY_BEFORE
    else:
        why, soon = "Its time is over then.", SHORTLY_BEFORE
    if end - now > soon:
        return None
    key = f"stop:{workload.id}:{workload.notice_reason if told else 'limit'}"
    text = f"This server is stopped at {AT}. {why} Save your work; files in your home stay."
    return Notice(key=key, level="error", text=text, at=end.isoformat())


class NoticesHandler(BaseHandler):
    """``GET dcloud/notices?user=U&server=S`` with the token that JupyterLab's page of that server
    has: what threatens it. Nobody but its owner is told; cookies are not taken, because any page
    of this host could send them along."""

    _accept_cookie_auth = False
    _accept_token_auth = True

    def _record_activity(self, obj: object, timestamp: object = None) -> bool:
        """A page that is open is no sign of use."""
        return False

    def get(self) -> None:
        """Answer with ``{"notices": [...]}``."""
        user = self.current_user
        if not isinstance(user, User) or user.name != self.get_query_argument("user", ""):
            raise HTTPError(HTTPStatus.FORBIDDEN)
        spawner = user.spawners.get(self.get_query_argument("server", ""))
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish({"notices": spawner.notices() if spawner is not None else []})
