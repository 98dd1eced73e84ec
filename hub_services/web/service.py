"""What the web process holds, and the hub's part of its sign-in."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from urllib.parse import urlparse

from jupyterhub.services.auth import HubOAuth

from dcloud_spawner.authenticator.source import own_addresses
from dcloud_spawner.form.budget_lines import BudgetLine, budget_lines
from dcloud_spawner.form.purse import balance_words
from dcloud_spawner.live.ledger import payers_of
from dcloud_spawner.live.watch import PoolWatch
from dcloud_spawner.platform import Platform
from dcloud_spawner.settings import Settings
from dcloud_spawner.throttle import Throttle
from hub_services.web.board import BoardWatch
from hub_services.web.planner import Planner
from hub_services.web.wiring import SERVICE, WEB_CLIENT_ID, WEB_SCOPE

WHO_SECONDS = 10
"""How long an answer of the hub about a token is believed when something is only looked at."""


@dataclass(frozen=True)
class Paths:
    """Where the hub and this service are for browsers."""

    root: str
    """``/``, or what the public address has behind the host."""

    @property
    def hub(self) -> str:
        """The hub's pages, with a slash at the end."""
        return f"{self.root}hub/"

    @property
    def service(self) -> str:
        """This service, with a slash at the end."""
        return f"{self.root}services/{SERVICE}/"


def paths_of(settings: Settings) -> Paths:
    """Paths as the public address makes them."""
    return Paths(urlparse(settings.bind_url).path.rstrip("/") + "/")


@dataclass
class Service:
    """One for the process; handlers find it in the application's settings."""

    platform: Platform
    auth: HubOAuth
    paths: Paths
    cookie_secret: bytes = field(repr=False)
    pool: PoolWatch
    board: BoardWatch
    planner: Planner = field(default_factory=Planner)
    proxies: frozenset[str] = field(default_factory=lambda: frozenset(own_addresses()))
    """Addresses whose X-Forwarded-For is believed: the proxy is on this machine."""

    def __post_init__(self) -> None:
        self.calls = Throttle(self.platform.settings.api_calls_per_minute, "calls")

    def warnings(self, user: str) -> tuple[BudgetLine, ...]:
        """Budgets of a user that are near their end, of the last reading of the pool."""
        return budget_lines(self.pool.state.warnings.by_user.get(user, ()), self.paths.root)

    def balance(self, user: str) -> dict[str, str] | None:
        """What the bar shows of a user's accounts, of the last reading of the pool."""
        return balance_words(payers_of(self.pool.state.ledger, self.platform.settings, user))


def open_service(platform: Platform, hub_host: str) -> Service:
    """Read the service's own token and make everything that a request needs."""
    settings = platform.settings
    token = (settings.secrets_dir / "web.token").read_text().strip()
    paths = paths_of(settings)
    auth = HubOAuth(
        api_url=f"http://{hub_host}:{settings.hub_port}{paths.hub}api",
        api_token=token,
        hub_prefix=paths.hub,
        base_url=paths.service,
        oauth_client_id=WEB_CLIENT_ID,
        oauth_redirect_uri=f"{paths.service}oauth_callback",
        access_scopes={WEB_SCOPE, "access:services"},
        cache_max_age=WHO_SECONDS,
    )
    # Made from the token, so that a restart signs nobody out and there is no second secret.
    secret = hmac.new(token.encode(), b"cookies of the web service", hashlib.sha256).digest()
    pool = PoolWatch(platform)
    return Service(platform, auth, paths, secret, pool, BoardWatch(platform, pool))
