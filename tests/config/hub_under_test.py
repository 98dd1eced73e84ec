"""The real configuration, plus a service that lets a test act as an administrator by REST."""

import os
from pathlib import Path

load_subconfig(str(Path(__file__).parents[2] / "jupyterhub_config.py"))  # noqa: F821

c.JupyterHub.services += [  # noqa: F821
    {"name": "tester", "api_token": os.environ["DCLOUD_TEST_TOKEN"]},
]
c.JupyterHub.load_roles += [  # noqa: F821
    {
        "name": "tester",
        "services": ["tester"],
        "scopes": [
            "admin:users",
            "admin:servers",
            "tokens",
            "admin:groups",
            "groups",
            "list:users",
            "access:servers",
        ],
    }
]
