"""The web service: pages and API beside the hub, one process, behind the proxy.

It holds no state of its own, so it may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import load_settings
from hub_services.web.application import make_application
from hub_services.web.service import open_service
from hub_services.web.storage_events import keep_told

log = logging.getLogger("dcloud.web")

LARGEST_REQUEST_BYTES = 1024 * 1024


async def serve() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = load_settings()
    platform = Platform(settings)
    address = await platform.in_engine_thread(platform.engine.hub_address)
    service = open_service(platform, address)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    application = make_application(service)
    most = LARGEST_REQUEST_BYTES
    servers = [application.listen(settings.web_port, "127.0.0.1", max_body_size=most)]
    if address != "127.0.0.1":
        # The proxy comes by loopback, programs inside servers by the hub's address.
        with contextlib.suppress(OSError):
            servers.append(application.listen(settings.web_port, address, max_body_size=most))
    asking = asyncio.create_task(keep_told(platform))
    service.pool.keep_fresh()
    log.info("Listening on 127.0.0.1:%d, %s", settings.web_port, service.paths.service)
    try:
        await stopped.wait()
    finally:
        asking.cancel()
        for server in servers:
            server.stop()
        platform.close()


def main() -> None:
    """Entry point of ``python -m hub_services.web``."""
    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("tornado.access").setLevel("WARNING")
    asyncio.run(serve())


if __name__ == "__main__":
    main()
