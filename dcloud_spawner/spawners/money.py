"""What a spawner shows of the ledger: who pays, prices, limits, and what its servers cost."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from dcloud_spawner.form.purse import balance_words, live_purse
from dcloud_spawner.form.words import credits_figure
from dcloud_spawner.limits import limits_of
from dcloud_spawner.live.bounds import Bounds, bounds_of
from dcloud_spawner.live.ledger import payers_of
from dcloud_spawner.live.pool import PoolState
from dcloud_spawner.live.purse import Purse, Rates, rates_of
from dcloud_spawner.live.stream import frame
from dcloud_spawner.platform import utc_now
from dcloud_spawner.queueing import BRONZE, tier_of
from dcloud_spawner.roles import best_tier
from dcloud_spawner.spawners.progress import SpawnerProgress
from dcloud_spawner.store.workloads import Workload

REQUESTS = "services/dcloud/requests"

BOUNDS_SECONDS = 60.0
"""How old limits and what counts against them may be while nothing of one's own changes: hours
that were used long ago come back by and by."""


class Owner(NamedTuple):
    """The user of a spawner."""

    name: str
    groups: frozenset[str]
    administrator: bool


class SpawnerMoney(SpawnerProgress):
    """The ledger's side of a spawner's pages, of the pool's reading but for one's own limits."""

    _mine: tuple[object, bytes] | None = None
    _bounds: tuple[object, float, Bounds] | None = None

    def owner(self) -> Owner:
        """Who asks, as the hub says now; it may have to look that up."""
        groups = frozenset(group.name for group in self.user.groups)
        return Owner(self.user.name, groups, bool(self.user.admin))

    async def purse(self, owner: Owner) -> Purse:
        """What this server's owner may spend and use now."""
        state, found = self.pool.state, await self._own_bounds(owner)
        settings = self.platform.settings
        tiers = [tier_of(settings, owner.groups), *filter(None, [found.tier])]
        return Purse(
            payers=payers_of(state.ledger, settings, owner.name),
            rates=_rates(state, best_tier(tiers, settings.tiers) or BRONZE),
            hold_seconds=self.platform.hold_rule.seconds,
            bounds=found.bounds,
            closed_models=found.closed_models,
            rolling=found.rolling,
            refused=found.refused,
        )

    async def _own_bounds(self, owner: Owner) -> Bounds:
        """The limits of the owner; read again when something of it may be another now."""
        state, loop = self.pool.state, asyncio.get_running_loop()
        own = tuple(
            (workload.id, workload.state, workload.memory_bytes, workload.cpu_millicores)
            for each in self.user.spawners
            if (workload := state.servers.get((owner.name, each))) is not None
        )
        key = owner, own, state.ledger.overrides.get(owner.name)
        if self._bounds is None or self._bounds[0] != key or loop.time() > self._bounds[1]:
            found = await self.platform.in_reading_thread(self._read_bounds, owner)
            self._bounds = key, loop.time() + BOUNDS_SECONDS, found
        return self._bounds[2]

    def _read_bounds(self, owner: Owner) -> Bounds:
        with self.platform.database.reading() as connection:
            found = limits_of(
                connection,
                self.platform.settings,
                owner.name,
                utc_now(),
                groups=owner.groups,
                administrator=owner.administrator,
            )
        models = {row.model for row in self.pool.state.accelerators.values()}
        return bounds_of(found, models)

    @property
    def ask_url(self) -> str:
        """Where one asks for more."""
        root: str = self.hub.base_url.removesuffix("hub/")
        return f"{root}{REQUESTS}"

    async def mine_frame(self, owner: Owner) -> bytes:
        """The event of the start page's personal part; the same bytes while nothing changed."""
        key = await self.purse(owner), self._profiles(self.pool.state)
        if self._mine is None or self._mine[0] != key:
            self._mine = key, frame("mine", live_purse(key[0], key[1].values()))
        return self._mine[1]

    def balance_view(self) -> dict[str, str] | None:
        """What the bar shows; None where nothing of it means anything."""
        self.pool.keep_fresh()
        payers = payers_of(self.pool.state.ledger, self.platform.settings, self.user.name)
        return balance_words(payers)

    def _costs(self, workload: Workload) -> dict[str, Any]:
        """What a running server costs, in words."""
        found = self.pool.state.ledger.running.get(workload.id)
        if found is None:
            return {}
        return {
            "an_hour": credits_figure(found.an_hour_microcredits),
            "cost": credits_figure(found.cost_microcredits(self.pool.state.at)),
        }


def _rates(state: PoolState, tier: str) -> Rates:
    """Those of a tier, found once a reading."""
    key = ("rates", tier)
    if key not in state.memo:
        models = sorted({row.model for row in state.accelerators.values()})
        state.memo[key] = rates_of(state.ledger.book, models, tier, state.at)
    found = state.memo[key]
    assert isinstance(found, Rates)
    return found
