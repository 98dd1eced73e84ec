"""The API's requests: who may, what they sent, and every refusal in one shape."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError

from dcloud_spawner.errors import (
    InvalidChoice,
    NotAllowed,
    NotFound,
    TooManyAttempts,
    UserError,
)
from hub_services.web.api.operation import KEY_HEADER, Call, Nothing, Operation, Wire
from hub_services.web.handler import SAFE, Handler
from hub_services.web.viewer import Viewer

LARGEST_BODY_BYTES = 64 * 1024

AnyOperation = Operation[Any, Any, Any]


class ApiHandler(Handler):
    """All methods of one path."""

    def initialize(self, operations: Mapping[str, AnyOperation]) -> None:  # type: ignore[override]
        """``operations`` by method."""
        super().initialize()
        self.operations = operations

    async def prepare(self) -> None:
        """Nobody gets anywhere without a name, nor more often than they may."""
        await super().prepare()
        if self.viewer is None:
            error = NotAllowed(
                "Nobody is signed in.",
                hint="Send a token (Authorization: token …), or sign in and send the page's "
                "X-XSRFToken with every change.",
                code="not_signed_in",
            )
            error.status_code = 401 if "Authorization" in self.request.headers else 403
            raise error
        self.service.calls.count(self.viewer.name)

    def admits_server(self, viewer: Viewer) -> bool:
        """Operations say so one by one."""
        operation = self.operations.get(str(self.request.method))
        return viewer.server is not None and operation is not None and operation.by_server

    async def get(self, *values: str) -> None:
        """Read."""
        await self._run(values)

    async def post(self, *values: str) -> None:
        """Do something."""
        await self._run(values)

    async def put(self, *values: str) -> None:
        """Set."""
        await self._run(values)

    async def patch(self, *values: str) -> None:
        """Change a part."""
        await self._run(values)

    async def delete(self, *values: str) -> None:
        """Take back."""
        await self._run(values)

    async def _run(self, values: Sequence[str]) -> None:
        operation = self.operations.get(str(self.request.method))
        if operation is None:
            raise _no_such_method(self.operations)
        viewer = self.viewer
        assert viewer is not None
        if operation.administrators and not viewer.administrator:
            raise NotAllowed("Only administrators may do this.", hint="Ask one of them.")
        names = re.findall(r"\{(\w+)\}", operation.path)
        call = Call(
            service=self.service,
            viewer=viewer,
            actor=self.actor,
            path=dict(zip(names, (_segment(value) for value in values), strict=True)),
            query=self._query(operation.query),
            body=self._body(operation.body),
            key=self._key() if operation.takes_key else "",
        )
        answer = await operation.run(call)
        self.set_status(operation.status)
        self.set_header("Content-Type", "application/json")
        self.finish(answer.model_dump_json())

    def _query(self, model: type[Wire]) -> Wire:
        given: dict[str, object] = {}
        for name, sent in self.request.query_arguments.items():
            if name == "_xsrf":
                continue
            if len(sent) > 1:
                raise InvalidChoice(f"{name}: given more than once.", field=name)
            given[name] = _text(sent[0], name)
        try:
            return model.model_validate_strings(given)
        except ValidationError as error:
            raise _refusal(error, model) from error

    def _body(self, model: type[Wire]) -> Wire:
        sent = self.request.body
        if len(sent) > LARGEST_BODY_BYTES:
            refused = UserError("The request is too large.", hint="At most 64 KiB.")
            refused.status_code, refused.code = 413, "too_large"
            raise refused
        if self.request.method in SAFE or (model is Nothing and not sent.strip()):
            return model()
        try:
            return model.model_validate_json(sent or b"{}")
        except ValidationError as error:
            raise _refusal(error, model) from error

    def _key(self) -> str:
        sent = self.request.headers.get_list(KEY_HEADER)
        if sent and (len(sent) > 1 or not re.fullmatch(r"[\x21-\x7e]{1,128}", sent[0])):
            raise InvalidChoice(
                f"{KEY_HEADER}: not one key of 1 to 128 visible ASCII characters.",
                hint="A new UUID for every new thing to do.",
                field=KEY_HEADER,
            )
        return sent[0] if sent else ""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """``{"error": {"code", "message", "hint"}}``, and the field where it was one."""
        told: UserError = kwargs["told"]
        error = {"code": told.code, "message": told.message, "hint": told.hint}
        if told.field:
            error["field"] = told.field
        if isinstance(told, TooManyAttempts) and told.retry_after_seconds:
            self.set_header("Retry-After", str(told.retry_after_seconds))
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": error}))


class NoSuchPath(ApiHandler):
    """Every other path of the API."""

    def initialize(self) -> None:  # type: ignore[override]
        """Has no operations."""
        super().initialize({})

    async def _run(self, values: Sequence[str]) -> None:
        raise NotFound("The API has no such address.", hint="See openapi.json for those it has.")


def _segment(text: str) -> str:
    value = unquote(text)
    if "\x00" in value or len(value) > 255:
        raise NotFound("There is nothing of that name.")
    return value


def _text(sent: bytes, name: str) -> str:
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        raise InvalidChoice(f"{name}: not text in UTF-8.", field=name) from None
    if "\x00" in text:
        raise InvalidChoice(f"{name}: has a NUL.", field=name)
    return text


def _no_such_method(operations: Mapping[str, AnyOperation]) -> UserError:
    refused = UserError(
        "This address does not take that method.",
        hint=f"It takes {', '.join(sorted(operations))}.",
        code="method_not_allowed",
    )
    refused.status_code = 405
    return refused


def _refusal(error: ValidationError, model: type[BaseModel]) -> InvalidChoice:
    """The first thing that is wrong, by the name of its field."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    known = ", ".join(sorted(model.model_fields)) or "none"
    if first["type"] == "extra_forbidden":
        return InvalidChoice(f"{field}: there is no such field.", hint=f"There are: {known}.")
    if first["type"] == "json_invalid":
        return InvalidChoice("The body is not JSON.", hint=f"An object with: {known}.")
    message = _message(first["type"], first["msg"], first.get("ctx", {}))
    if not field:  # a rule of the whole says itself which field it is about
        about = message.partition(":")[0]
        return InvalidChoice(f"{message}.", field=about if about in model.model_fields else "")
    return InvalidChoice(f"{field}: {message}.", field=field)


WORDS = {
    "missing": "it is missing",
    "greater_than": "more than {gt} is needed",
    "greater_than_equal": "at least {ge} is needed",
    "less_than": "less than {lt} is possible",
    "less_than_equal": "at most {le} is possible",
    "string_too_short": "at least {min_length} characters are needed",
    "string_too_long": "at most {max_length} characters are possible",
    "string_pattern_mismatch": "it is not written as {pattern} asks",
}
"""What people see of the commonest refusals; the rest is in pydantic's words."""


def _message(kind: str, words: str, context: Mapping[str, Any]) -> str:
    known = WORDS.get(kind)
    return known.format(**context) if known else words.removeprefix("Value error, ")
