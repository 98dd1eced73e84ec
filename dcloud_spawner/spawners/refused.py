"""A start that did not happen, told to the person who asked."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException


class StartRefused(SpawnException):
    """Carries its text for the pages too: of a plain SpawnException the hub shows only its
    ``str()``, which begins with class, status and reason, and after a reload nothing at all."""

    def __init__(self, text: str, *, reason: str, status_code: int) -> None:
        super().__init__(text, reason=reason, status_code=status_code)
        self.jupyterhub_message = text
