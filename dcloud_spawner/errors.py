"""The one error tree.

DCloudError                 only the log gets its text
├── UserError               a user may read it: message, hint, HTTP status
│   ├── InvalidChoice       400  a field of a request is wrong; names it and what is allowed
│   ├── NotAllowed          403  the thing exists but is not theirs to use
│   ├── NotFound            404
│   ├── Conflict            409  the request is fine but something is in its way
│   ├── TooManyAttempts     429  right or wrong, it is not looked at for a while
│   └── Unavailable         503  a part of the platform is away; trying again helps
├── ConfigurationError      an administrator's file or setting is wrong; says where
└── EngineError             the engine refused or did not answer
    ├── EngineUnreachable   no answer: nothing is known, so nothing is freed
    └── LaunchFailed        the engine answered that the container cannot run
"""

from __future__ import annotations


class DCloudError(Exception):
    """Base of all errors of this project."""


class UserError(DCloudError):
    """An error whose text is meant for the person who asked.

    ``message`` says what was wrong and where, ``hint`` what to do next,
    ``field`` which field of the request it was, ``code`` is a stable,
    low-cardinality name for scripts and metrics.
    """

    status_code = 400
    code = "bad_request"

    def __init__(
        self, message: str, *, hint: str = "", field: str = "", code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        if code is not None:
            self.code = code

    @property
    def text(self) -> str:
        """Message and hint in one line."""
        return f"{self.message} {self.hint}".strip()


class InvalidChoice(UserError):
    """A field of a choice is unknown, of the wrong type or out of range."""

    code = "invalid_choice"


class NotAllowed(UserError):
    """The thing exists, but this person may not use it."""

    status_code = 403
    code = "not_allowed"


class NotFound(UserError):
    """No such thing."""

    status_code = 404
    code = "not_found"


class Conflict(UserError):
    """The request is well formed but contradicts the present state."""

    status_code = 409
    code = "conflict"


class TooManyAttempts(UserError):
    """Too many tries in too short a time; the message says when the next one counts."""

    status_code = 429
    code = "too_many_attempts"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str = "",
        code: str | None = None,
        retry_after_seconds: int = 0,
    ) -> None:
        super().__init__(message, hint=hint, field=field, code=code)
        self.retry_after_seconds = retry_after_seconds
        """When the next one counts; 0: the message alone says it."""


class Unavailable(UserError):
    """A part of the platform does not answer; the same request may work later."""

    status_code = 503
    code = "unavailable"


class ConfigurationError(DCloudError):
    """A file or setting of the administrator is wrong. The text says which, where and what."""


class EngineError(DCloudError):
    """The container engine refused a call or did not answer."""


class EngineUnreachable(EngineError):
    """The engine did not answer. Nothing is known about its containers, so nothing is freed."""


class LaunchFailed(EngineError):
    """The engine answered, and the container cannot run (image, GPU, limits)."""
