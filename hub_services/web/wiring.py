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

USER_ROLE = {
    "name": "user",
    "description": "One's own things, and the pages and the API of DCloud",
    "scopes": ["self", WEB_SCOPE],
}


def hub_service(settings: Settings) -> dict[str, object]:
    """For ``c.JupyterHub.services``. It has no scopes of its own: it may only ask who somebody
    is, by that person's own token."""
    return {
        "name": SERVICE,
        "url": f"http://127.0.0.1:{settings.web_port}",
        "api_token": (settings.secrets_dir / "web.token").read_text().strip(),
        "oauth_client_id": WEB_CLIENT_ID,
        "oauth_client_allowed_scopes": [WEB_SCOPE, ADMINISTRATION_SCOPE],
        "oauth_no_confirm": True,
        "display": False,
    }
