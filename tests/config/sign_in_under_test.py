"""The hub's sign-in as it is, in front of JupyterHub's simplest spawner: no engine is needed."""

import os
import sys
from typing import cast

from dcloud_spawner.authenticator.select import configure_authenticator
from dcloud_spawner.engines.base import Engine
from dcloud_spawner.form.handlers import form_handlers
from dcloud_spawner.form.view import TEMPLATES, template_vars
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import load_settings

settings = load_settings()
platform = Platform(settings, engine=cast(Engine, object()))

c = get_config()  # noqa: F821
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.bind_url = f"http://127.0.0.1:{settings.port}/"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{settings.hub_port}"
c.JupyterHub.db_url = settings.hub_store_url
c.JupyterHub.cookie_secret_file = str(settings.secrets_dir / "cookie_secret")
c.JupyterHub.cleanup_servers = False
c.JupyterHub.default_url = "/hub/home"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.proxy_api_port}"
c.SimpleLocalProcessSpawner.home_dir_template = str(settings.state.absolute() / "homes/{username}")
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
configure_authenticator(c, settings, platform)
if settings.authenticator == "dcloud":
    # What would let people in elsewhere. Here it must not: see DCloudAuthenticator.
    c.Authenticator.allow_all = True
    c.Authenticator.allow_existing_users = True
    c.Authenticator.allowed_users = {"listed"}
    c.Authenticator.blocked_users = {"blocked"}
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.template_vars = template_vars(
    simulated=False, approvals=settings.authenticator == "dcloud"
)
c.JupyterHub.extra_handlers = form_handlers()
c.JupyterHub.log_level = 10
c.JupyterHub.services = [{"name": "tester", "api_token": os.environ["DCLOUD_TEST_TOKEN"]}]
c.JupyterHub.load_roles = [
    {
        "name": "tester",
        "services": ["tester"],
        "scopes": ["read:users", "list:users", "read:servers"],
    }
]
