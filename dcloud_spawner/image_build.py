"""One build on the Docker engine: a recipe's context in, an image out, each step told."""

from __future__ import annotations

import io
import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

import docker
import requests.exceptions
from docker.errors import DockerException, ImageNotFound
from docker.utils import kwargs_from_env

from dcloud_spawner.errors import EngineError, EngineUnreachable
from dcloud_spawner.image_base import ensure_image
from dcloud_spawner.image_recipes import LABEL_RECIPE, Recipe, recipe_name

SILENCE_SECONDS = 3600
"""How long a build step may say nothing: unpacking some GB of wheels is silent for minutes."""

UNANSWERED = (requests.exceptions.ConnectionError, requests.exceptions.Timeout)

_PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)")

OnStep = Callable[[int, int, str], None]
"""Called with the number of a step that begins, how many there are, and its line."""


class BuildFailed(EngineError):
    """An image could not be built; the text has the reason."""


def connect() -> docker.APIClient:
    """A client patient enough for builds; raises EngineUnreachable."""
    try:
        client = docker.APIClient(version="auto", timeout=SILENCE_SECONDS, **kwargs_from_env())
        client.ping()
    except (DockerException, *UNANSWERED) as error:
        raise EngineUnreachable(f"Docker does not answer: {error}") from error
    return client


@dataclass
class Build:
    """One build of one recipe."""

    client: docker.APIClient
    recipe: Recipe
    log: TextIO
    on_step: OnStep
    say: Callable[[str], None]
    """Told in a sentence what is done before the first step."""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=15))
    """The last lines that were written."""

    def run(self, *, no_cache: bool) -> None:
        """Build and tag the image. Raises EngineError or docker-py's own errors."""
        if not recipe_name(self.recipe.base):
            ensure_image(self.client, self.recipe.base, self._before)
        stream = self.client.build(
            fileobj=io.BytesIO(self.recipe.context()),
            custom_context=True,
            tag=self.recipe.tag,
            rm=True,
            forcerm=True,
            decode=True,
            nocache=no_cache,
            buildargs=_build_arguments(),
            labels={LABEL_RECIPE: self.recipe.digest},
        )
        for event in stream:
            said = event.get("stream") or event.get("status") or event.get("error") or ""
            text = _COLOURS.sub("", str(said))
            self._write(text)
            if "error" in event:
                raise BuildFailed(str(event["error"]))
            step = _STEP.match(text)
            if step is not None:
                self.on_step(int(step[1]), int(step[2]), step[3].strip())

    def _before(self, sentence: str) -> None:
        self._write(sentence)
        self.say(sentence)

    def _write(self, text: str) -> None:
        if text.strip():
            self.log.write(text if text.endswith("\n") else text + "\n")
            self.log.flush()
            self.last.extend(line for line in text.splitlines() if line.strip())


def is_current(client: docker.APIClient, recipe: Recipe) -> bool:
    """Whether the image there was built from this very recipe."""
    try:
        found = client.inspect_image(recipe.tag)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return False
    labels = found["Config"].get("Labels") or {}
    return bool(labels.get(LABEL_RECIPE) == recipe.digest)


def image_id(client: docker.APIClient, tag: str) -> str:
    """The engine's identifier of an image, empty when there is none of that name."""
    try:
        return str(client.inspect_image(tag)["Id"])  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return ""


def _build_arguments() -> dict[str, str]:
    """What a build needs to reach its packages. Docker keeps proxies out of an image's history."""
    found = {name: os.environ[name] for name in _PROXY_VARIABLES if name in os.environ}
    index = os.environ.get("PIP_INDEX_URL", "")
    # Other arguments do stay in the history, so an address with credentials in it must not.
    if index and "@" not in index:
        found["PIP_INDEX_URL"] = index
    return found
