"""The service as the hub's configuration has it, and the rights that its callers need."""

from __future__ import annotations

from dcloud_spawner.settings import Settings

SERVICE = "dcloud"
WEB_CLIENT_ID = "service-dcloud"
WEB_SCOPE = f"access:services!service={SERVICE}"
"""Everybody has it; a token without it gets nowhere here."""

ADMINISTRATION_SCOPE = "admin-ui"
"""The hub gives it to administrators. A token of theirs that was made without it stays that of
a plain user."""

DATA_SCOPE = "custom:dcloud:data"
"""What a server's own token has: it reaches the operations of the API that say so
(``Operation.by_server``), as its user and from that one server, and no page."""

CUSTOM_SCOPES = {
    DATA_SCOPE: {"description": "Reach one's data from inside a server: credentials for storage"}
}

USER_ROLE = {
    "name": "user",
    "description": "One's own things, and the pages and the API of DCloud",
    "scopes": ["self", WEB_SCOPE, DATA_SCOPE],
}

SERVER_ROLE = {
    "name": "server",
    "description": "Say when it was used, and reach its user's data",
    "scopes": ["users:activity!user", "access:servers!server", f"{DATA_SCOPE}!server"],
}


WEB_ROLE = {
    "name": "dcloud-web",
    "description": "Say whether somebody has a name that was written into a form",
    "services": [SERVICE],
    "scopes": ["read:users:name", "read:groups:name"],
}


def hub_service(settings: Settings) -> dict[str, object]:
    """For ``c.JupyterHub.services``. Its own token only tells whether there is a user or group of
    a name (``WEB_ROLE``): who somebody is, the hub says by that person's own token."""
    return {
        "name": SERVICE,
        "url": f"http://127.0.0.1:{settings.web_port}",
        "api_token": (settings.secrets_dir / "web.token").read_text().strip(),
        "oauth_client_id": WEB_CLIENT_ID,
        "oauth_client_allowed_scopes": [WEB_SCOPE, ADMINISTRATION_SCOPE],
        "oauth_no_confirm": True,
        "display": False,
    }
