"""A real hub with the web service's own wiring, in front of JupyterHub's simplest spawner: what
is in the store is arranged by the test."""

import os
import sys
from pathlib import Path

from dcloud_spawner.form.handlers import form_handlers
from dcloud_spawner.form.view import TEMPLATES, template_vars
from dcloud_spawner.settings import load_settings
from dcloud_spawner.storage.access import upload_route
from hub_services.web.wiring import (
    CUSTOM_SCOPES,
    SERVER_ROLE,
    USER_ROLE,
    WEB_ROLE,
    WEB_SCOPE,
    hub_service,
)

settings = load_settings()

c = get_config()  # noqa: F821
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ["DCLOUD_TEST_TOKEN"]
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin-a"}
c.JupyterHub.bind_url = settings.bind_url
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{settings.hub_port}"
c.JupyterHub.db_url = settings.hub_store_url
c.JupyterHub.cookie_secret_file = str(settings.secrets_dir / "cookie_secret")
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.default_url = "/hub/home"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.proxy_api_port}"
c.Proxy.extra_routes = upload_route(settings)
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.template_vars = template_vars(simulated=settings.simulated_gpus)
c.JupyterHub.extra_handlers = form_handlers()
c.JupyterHub.services = [
    {"name": "tester", "api_token": os.environ["DCLOUD_TEST_TOKEN"]},
    hub_service(settings),
]
c.JupyterHub.load_roles = [
    {
        "name": "tester",
        "services": ["tester"],
        "scopes": ["admin:users", "admin:servers", "admin:groups", "tokens", WEB_SCOPE],
    },
    USER_ROLE,
    SERVER_ROLE,
    WEB_ROLE,
]
c.JupyterHub.custom_scopes = CUSTOM_SCOPES

if "DCLOUD_TEST_TOKENS" in os.environ:
    server = Path(__file__).parents[1] / "storage" / "token_server.py"
    c.Spawner.cmd = [sys.executable, str(server)]
    c.Spawner.environment = {"DCLOUD_TEST_TOKENS": os.environ["DCLOUD_TEST_TOKENS"]}
