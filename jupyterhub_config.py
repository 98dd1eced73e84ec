"""Wiring only: settings in, JupyterHub traits out. Every decision is in the packages."""

from __future__ import annotations

from typing import Any

from dcloud_spawner.authenticator.select import configure_authenticator
from dcloud_spawner.authenticator.source import own_addresses
from dcloud_spawner.form.handlers import form_handlers
from dcloud_spawner.form.view import TEMPLATES, template_vars
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import load_settings
from dcloud_spawner.spawners.acts import noting_acts
from dcloud_spawner.spawners.handlers import with_handlers
from dcloud_spawner.spawners.select import spawner_class
from dcloud_spawner.spawners.use import noticing_use
from dcloud_spawner.storage.access import upload_route
from hub_services.web.wiring import (
    CUSTOM_SCOPES,
    SERVER_ROLE,
    USER_ROLE,
    WEB_ROLE,
    hub_service,
)

c: Any = get_config()  # type: ignore[name-defined]

settings = load_settings()
platform = Platform(settings)
spawner = spawner_class(platform)

c.JupyterHub.spawner_class = spawner
c.JupyterHub.bind_url = settings.bind_url
c.JupyterHub.hub_bind_url = f"http://{platform.engine.hub_address()}:{settings.hub_port}"
c.JupyterHub.db_url = settings.hub_store_url
c.JupyterHub.cookie_secret_file = str(settings.secrets_dir / "cookie_secret")
c.JupyterHub.log_level = settings.log_level

# The proxy is a program of its own and servers belong to the engine: both outlive the hub.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.proxy_api_port}"
c.Proxy.extra_routes = upload_route(settings)
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.trusted_downstream_ips = own_addresses()

# Waiting in the queue is a pending spawn: it may be long and there may be many.
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.tornado_settings = {
    "slow_spawn_timeout": 1,
    "slow_stop_timeout": 5,
    "log_function": noticing_use(spawner, noting_acts(platform)),
}
c.Spawner.consecutive_failure_limit = 0
c.Spawner.poll_interval = int(settings.reconcile_seconds)
c.Spawner.default_url = "/lab"

c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = settings.servers_per_user

c.JupyterHub.services = [
    {
        "name": "controller",
        "api_token": (settings.secrets_dir / "controller.token").read_text().strip(),
    },
    hub_service(settings),
]
c.JupyterHub.load_roles = [
    {
        "name": "controller",
        "description": "Take up waiting starts after a hub restart, see which groups there are",
        "services": ["controller"],
        "scopes": ["list:users", "list:groups", "read:servers", "servers"],
    },
    USER_ROLE,
    SERVER_ROLE,
    WEB_ROLE,
]
c.JupyterHub.custom_scopes = CUSTOM_SCOPES

configure_authenticator(c, settings, platform)
c.JupyterHub.authenticator_class = with_handlers(c.JupyterHub.authenticator_class)
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.template_vars = template_vars(
    simulated=settings.simulated_gpus,
    isolation_note=platform.engine.weaker_isolation,
    approvals=settings.authenticator == "dcloud",
)
c.JupyterHub.extra_handlers = form_handlers()
