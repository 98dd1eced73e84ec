"""One operation of the API: what it takes, does and answers. Routes, checks and the OpenAPI
document are all made from the same list, so that none of them can differ from another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from dcloud_spawner.store.events import Actor
from hub_services.web.service import Service
from hub_services.web.viewer import Viewer

KEY_HEADER = "Idempotency-Key"
"""Whoever may have to send a request twice names it by this."""


class Wire(BaseModel):
    """What comes from outside: unknown fields and wrong types are refused, not guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    """What goes out."""

    model_config = ConfigDict(frozen=True)


class Nothing(Wire):
    """No query, or no body."""


Query = TypeVar("Query", bound=Wire)
Body = TypeVar("Body", bound=Wire)
Answer = TypeVar("Answer", bound=View)


@dataclass(frozen=True)
class Call(Generic[Query, Body]):
    """One request, checked."""

    service: Service
    viewer: Viewer
    actor: Actor
    path: Mapping[str, str]
    """Values of the names in braces."""
    query: Query
    body: Body
    key: str = ""
    """Idempotency-Key of the request; empty: none. See ``idempotency``."""


@dataclass(frozen=True)
class Operation(Generic[Query, Body, Answer]):
    """One method of one path under ``api/v1/``."""

    method: str
    path: str
    """Names in braces stand for one segment each: ``workloads/{id}/hold``."""
    summary: str
    run: Callable[[Call[Query, Body]], Awaitable[Answer]]
    query: type[Query]
    body: type[Body]
    answer: type[Answer]
    administrators: bool = False
    """Nobody else may."""
    status: HTTPStatus = HTTPStatus.OK
    refusals: tuple[HTTPStatus, ...] = ()
    """Beside those that any operation may answer with."""
    takes_key: bool = False
    """Whether an Idempotency-Key makes a repeated request do nothing twice."""
    by_server: bool = False
    """Whether a program inside a server may ask for it with the server's own token."""

    @property
    def name(self) -> str:
        """A stable name for clients that are made from the document: that of the function."""
        return self.run.__name__
