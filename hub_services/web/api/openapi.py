"""The OpenAPI 3.1 document, made from the operations themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hub_services.web.api.models import Refusal
from hub_services.web.api.operation import KEY_HEADER, Nothing, Operation

REFERENCE = "#/components/schemas/{model}"

_ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def document(operations: Sequence[Operation[Any, Any, Any]], server: str) -> dict[str, object]:
    """The document; ``server`` is the path that all paths begin with."""
    models = {model for each in operations for model in (each.body, each.answer)} | {Refusal}
    models.discard(Nothing)
    chosen = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, _mode(model, operations)) for model in chosen], ref_template=REFERENCE
    )
    paths: dict[str, dict[str, object]] = {}
    for each in operations:
        paths.setdefault(f"/{each.path}", {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DCloud",
            "version": "1",
            "description": "What is free, who waits, what was used and who pays. Every refusal "
            "has the shape of Refusal; lists page by cursor. Times are UTC. Money is exact: "
            "integers of micro-credits, a millionth of a credit; answers have the same in credits "
            "as a text beside it.",
        },
        "servers": [{"url": server}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token TOKEN`, with a token from the page Tokens.",
                }
            },
        },
    }


def _mode(model: type[BaseModel], operations: Sequence[Operation[Any, Any, Any]]) -> Any:
    return "validation" if any(each.body is model for each in operations) else "serialization"


def _operation(each: Operation[Any, Any, Any]) -> dict[str, object]:
    refusals = {*_ALWAYS, *each.refusals}
    found: dict[str, object] = {
        "operationId": each.name,
        "summary": each.summary,
        "description": (each.run.__doc__ or "").strip(),
        "parameters": [
            *_path_parameters(each.path),
            *_query_parameters(each.query),
            *_headers(each),
        ],
        "responses": {
            str(int(each.status)): _content(each.answer, "Done."),
            **{str(int(s)): _content(Refusal, s.phrase) for s in sorted(refusals)},
        },
        "tags": ["administration" if each.administrators else "everybody"],
    }
    if each.body is not Nothing:
        found["requestBody"] = {"required": True, **_content(each.body, "")}
    return found


def _content(model: type[BaseModel], description: str) -> dict[str, object]:
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    content: dict[str, object] = {"content": {"application/json": {"schema": schema}}}
    return {"description": description, **content} if description else content


def _path_parameters(path: str) -> list[dict[str, object]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _headers(each: Operation[Any, Any, Any]) -> list[dict[str, object]]:
    if not each.takes_key:
        return []
    words = "Of your own choice, new for every new thing to do: sent again, it does nothing twice."
    schema = {"type": "string", "minLength": 1, "maxLength": 128}
    return [{"name": KEY_HEADER, "in": "header", "description": words, "schema": schema}]


def _query_parameters(model: type[BaseModel]) -> list[dict[str, object]]:
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": rules.get("description", ""),
            "schema": {key: value for key, value in rules.items() if key != "description"},
        }
        for name, rules in schema.get("properties", {}).items()
    ]
