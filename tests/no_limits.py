"""Roles of a deployment whose tests are not about limits: nobody has any."""

from __future__ import annotations

from typing import Any

NO_LIMITS: dict[str, Any] = {"standard": {}, "premium": {}}

NO_HURRY: dict[str, Any] = {"starts_per_minute": 10_000, "api_calls_per_minute": 1_000_000}
"""Tests ask more often than people do."""
