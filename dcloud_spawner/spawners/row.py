"""Which row of the store a spawner is about: what the hub keeps of it, and what it asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dcloud_spawner.options import Choice
from dcloud_spawner.spawners.views import SpawnerViews
from dcloud_spawner.store import workloads
from dcloud_spawner.store.workloads import Workload


@dataclass(frozen=True)
class Beside:
    """A start without GPUs beside a request that waits for some."""

    waiting: str
    """Id of the workload that waits."""
    choice: Choice


class SpawnerRow(SpawnerViews):
    """A spawner and its workload."""

    beside: Beside | None = None
    """Set just before a start that is to run beside a request that waits."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Remember which workload this server is."""
        super().load_state(state)
        self.workload_id = state.get("workload_id", "")

    def get_state(self) -> dict[str, Any]:
        """Only the workload's id: everything else is in its row."""
        state: dict[str, Any] = super().get_state()
        if self.workload_id:
            state["workload_id"] = self.workload_id
        return state

    def clear_state(self) -> None:
        """Forget the workload; its row stays."""
        super().clear_state()
        self.workload_id = ""

    async def _forget_bad_options(self) -> None:
        """The hub keeps what was asked for as the next default, even when it was refused."""
        last = await self.platform.in_database_thread(self._last_choice)
        self.orm_spawner.user_options = dict(last) if last else None

    async def _workload(self) -> Workload | None:
        """The workload of this server: by its id, or the open one when the hub forgot the id."""
        if self.workload_id:
            return await self.platform.in_database_thread(self._read_workload, self.workload_id)
        workload = await self._open_workload()
        if workload is not None:
            self.workload_id = workload.id
        return workload

    def _read_workload(self, identifier: str) -> Workload:
        with self.platform.database.reading() as connection:
            return workloads.get(connection, identifier)

    async def _open_workload(self) -> Workload | None:
        def find() -> Workload | None:
            with self.platform.database.reading() as connection:
                return workloads.find_open(connection, self.user.name, self.name)

        return await self.platform.in_database_thread(find)
