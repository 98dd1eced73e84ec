"""Doing nothing twice: a request that names itself by a key is written once, however often it is
sent. The ledger itself remembers, in the entry that the first one wrote, so that the memory is as
lasting as the act. The same key with another content is a conflict."""

from __future__ import annotations

import hashlib
from typing import Any

from hub_services.web.api.operation import Call


def key_of(call: Call[Any, Any], act: str) -> str | None:
    """The ledger's key for a request; None when it named none.

    Callers choose their keys, so each caller's are their own, and those of each act on each thing.
    """
    if not call.key:
        return None
    who = "user" if call.viewer.person else "service"
    named = (who, call.viewer.name, act, *call.path.values(), call.key)
    return "api-" + hashlib.sha256("\0".join(named).encode()).hexdigest()[:40]
