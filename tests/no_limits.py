"""Roles of a deployment whose tests are not about limits: nobody has any."""

from __future__ import annotations

from typing import Any

NO_LIMITS: dict[str, Any] = {"standard": {}, "premium": {}}
