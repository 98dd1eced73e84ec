"""The controller: one process of loops beside the hub, without a web port.

Each loop can fail on its own and goes on at its next turn; all may be killed at any time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

from dcloud_spawner.datasets import groups
from dcloud_spawner.errors import EngineError
from dcloud_spawner.forecasting import Forecaster
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import load_settings
from dcloud_spawner.spawners.instance import hub_instance
from hub_services.controller.budgets import BudgetKeeper
from hub_services.controller.homes import measure_homes
from hub_services.controller.hub import HubClient, HubUnavailable
from hub_services.controller.limits import end_overdue
from hub_services.controller.measures import Measurer
from hub_services.controller.meter import meter
from hub_services.controller.reconcile import reconcile
from hub_services.controller.resume import Resumer

log = logging.getLogger("dcloud.controller")

RESUME_ANYWAY_SECONDS = 30.0
"""A start that its hub lost without a restart is taken up after this time at the latest."""

FORECAST_SECONDS = 15.0
"""Between two forecasts. The hub makes its own at every change while somebody looks."""


class Controller:
    """The loops, each a method that does one turn."""

    def __init__(self, platform: Platform, hub: HubClient) -> None:
        self._platform = platform
        self._hub = hub
        self._looked_for_groups = False
        self._resumer = Resumer(platform, hub)
        self._forecaster = Forecaster(platform)
        self._measurer = Measurer(platform)
        self._budgets = BudgetKeeper(platform)
        self._resumed_for = ""
        self._resume_at = 0.0

    async def reconcile(self) -> None:
        """Compare containers with rows and mend."""
        await self._platform.in_engine_thread(reconcile, self._platform)

    async def schedule(self) -> None:
        """The timer's pass."""
        await self._platform.in_database_thread(self._platform.run_pass)

    async def inventory(self) -> None:
        """Look at the hardware; a change may let somebody start."""
        changes = await self._platform.in_engine_thread(self._platform.refresh_inventory)
        for change in changes:
            log.warning(
                "GPU %s on %s: %s. %s", change.uuid, change.node, change.after, change.reason
            )
        if changes:
            await self.schedule()

    async def resume(self) -> None:
        """Take up lost starts, at once after a hub restart and every half minute anyway."""
        loop = asyncio.get_running_loop()
        instance = hub_instance(self._platform.settings)
        if instance == self._resumed_for and loop.time() < self._resume_at:
            return
        if await self._resumer.turn():
            self._resumed_for = instance
            self._resume_at = loop.time() + RESUME_ANYWAY_SECONDS

    async def forecast(self) -> None:
        """Tell who waits when they are expected to start."""
        await self._platform.in_database_thread(self._forecaster.turn)

    async def budgets(self) -> None:
        """Write when the credits of accounts end."""
        await self._platform.in_database_thread(self._budgets.turn)

    async def limits(self) -> None:
        """Stop what is past its limit."""
        await self._platform.in_engine_thread(end_overdue, self._platform)

    async def meter(self) -> None:
        """Charge what runs, and what was used of storage; give and take what is due."""
        await self._platform.in_engine_thread(meter, self._platform)

    async def homes(self) -> None:
        """Measure homes."""
        await self._platform.in_engine_thread(measure_homes, self._platform)

    async def groups(self) -> None:
        """End the shares of groups that the hub has no longer; what it does not say ends none."""
        present = await self._hub.groups()
        # A controller that starts again and again must not count as time that goes by.
        count, self._looked_for_groups = self._looked_for_groups, True
        await self._platform.in_database_thread(groups.look, self._platform, present, count=count)

    async def measure(self) -> None:
        """Sample what runs."""
        await self._platform.in_engine_thread(self._measurer.turn)

    async def run(self) -> None:
        """All loops, until cancelled."""
        settings = self._platform.settings
        async with asyncio.TaskGroup() as group:
            for turn, seconds in (
                (self.inventory, settings.inventory_seconds),
                (self.reconcile, settings.reconcile_seconds),
                (self.schedule, settings.schedule_seconds),
                (self.forecast, FORECAST_SECONDS),
                (self.resume, settings.resume_seconds),
                (self.budgets, settings.schedule_seconds),
                (self.limits, settings.schedule_seconds),
                (self.homes, settings.homes_seconds),
                (self.measure, settings.measure_seconds),
                (self.meter, settings.meter_seconds),
                (self.groups, groups.LOOK_SECONDS),
            ):
                group.create_task(_every(seconds, turn), name=turn.__name__)


async def _every(seconds: float, turn: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await turn()
        except HubUnavailable as error:
            log.info("The hub does not answer: %s", error)
        except EngineError as error:
            log.warning("The engine does not answer: %s", error)
        except Exception:
            log.exception("A turn failed; the next one comes in %g s.", seconds)
        await asyncio.sleep(seconds)


async def serve() -> None:
    """Run the controller until SIGTERM or SIGINT."""
    settings = load_settings()
    platform = Platform(settings)
    address = await platform.in_engine_thread(platform.engine.hub_address)
    token = (settings.secrets_dir / "controller.token").read_text().strip()
    hub = HubClient(f"http://{address}:{settings.hub_port}/hub/api", token)
    task = asyncio.ensure_future(Controller(platform, hub).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("Stopped.")
    finally:
        await hub.close()
        platform.close()


def main() -> None:
    """Entry point of ``python -m hub_services.controller``."""
    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel("WARNING")
    asyncio.run(serve())


if __name__ == "__main__":
    main()
