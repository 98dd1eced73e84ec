"""Preparing the images that profiles name, and saying how far that is.

A program of its own prepares them (``python -m dcloud_spawner.images``), so that the hub is up
before they are. How far each one is stands in ``STATE/images/NAME.json``, replaced whole at every
step; the hub and the pages read it with :meth:`ImageStore.status`, which asks no engine.
One builder works at a time, held apart by a file lock that ends with its process.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from dcloud_spawner.errors import ConfigurationError, EngineError, EngineUnreachable
from dcloud_spawner.image_build import UNANSWERED, Build, connect, image_id, is_current
from dcloud_spawner.image_recipes import Recipe, chain, load_recipes, recipe_name
from dcloud_spawner.profiles import load_profiles
from dcloud_spawner.settings import Settings, load_settings

log = logging.getLogger(__name__)


class ImageState(StrEnum):
    """How far an image is."""

    MISSING = "missing"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class ImageStatus:
    """What is known of one image of ours."""

    image: str
    state: ImageState = ImageState.MISSING
    progress: float = 0.0
    """From 0 to 1, over the image and all it stands on."""
    step: str = ""
    """The line of the Dockerfile that runs now, or ran last."""
    message: str = ""
    """One sentence for users; for a failure the reason."""
    tail: str = ""
    """For administrators: the last lines of a build that failed."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    log: str = ""
    """Path of the build's log."""


OnProgress = Callable[[ImageStatus], None]


class ImageStore:
    """The images of one deployment. Reading a status is cheap; preparing blocks for minutes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.state / "images"

    def recipes(self) -> Mapping[str, Recipe]:
        """All recipes by name; raises ConfigurationError."""
        return load_recipes(self._settings.images_dir)

    def status(self, image: str) -> ImageStatus | None:
        """How far an image is by its last builder's own word; asks no engine.

        None for an image that no recipe makes: whether it is there only the engine knows.
        """
        name = recipe_name(image)
        if not name or not (self._settings.images_dir / name / "Dockerfile").is_file():
            return None
        found = self._read(name)
        if found.state == "preparing" and not self._builder_is_alive():
            message = "The preparation was interrupted; the next `dcloud up` goes on with it."
            return replace(found, state=ImageState.FAILED, message=message)
        return found

    def prepare(
        self, image: str, on_progress: OnProgress | None = None, *, force: bool = False
    ) -> ImageStatus:
        """Build what is missing or out of date of a recipe's image and of all it stands on.

        Waits while another builder works. ``force`` builds its own layers afresh. A failure is
        not raised but returned and kept, with its reason; calling again tries again. Raises
        ConfigurationError for an unknown recipe, EngineUnreachable when Docker does not answer.
        """
        recipes = self.recipes()
        name = recipe_name(image) or image
        if name not in recipes:
            known = ", ".join(recipes) or "none"
            raise ConfigurationError(f"There is no image recipe {name!r}; there are: {known}.")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._settings.logs_dir.mkdir(parents=True, exist_ok=True)
        with self._lock():
            work = _Preparation(self, chain(recipes, name), on_progress)
            return work.run(connect(), force=force)

    def log_path(self, name: str) -> Path:
        """Where the build of a recipe writes."""
        return self._settings.logs_dir / f"image-{name}.log"

    def write(self, name: str, status: ImageStatus) -> None:
        """Replace the status of a recipe's image; a reader sees the old one or the new one."""
        path = self._folder / f"{name}.json"
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(json.dumps(asdict(status), default=_iso, indent=1), encoding="utf-8")
        os.replace(fresh, path)

    def supersede(self, image_id: str) -> None:
        """Remember an image that lost its tag to a newer one."""
        with (self._folder / "superseded").open("a", encoding="utf-8") as file:
            file.write(image_id + "\n")

    def remove_superseded(self, client: docker.APIClient) -> None:
        """Remove remembered images; one that a container still uses stays remembered.

        By name and not by `docker image prune`: layers of a build that another deployment runs
        at the moment look just the same to that.
        """
        path = self._folder / "superseded"
        if not path.exists():
            return
        left = []
        for old in path.read_text(encoding="utf-8").split():
            try:
                client.remove_image(old)
            except ImageNotFound:
                continue
            except APIError:
                left.append(old)
        path.write_text("".join(f"{old}\n" for old in left), encoding="utf-8")

    def _read(self, name: str) -> ImageStatus:
        image = f"dcloud/{name}:latest"
        try:
            data = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
            for key in ("started_at", "finished_at"):
                data[key] = datetime.fromisoformat(data[key]) if data[key] else None
            return ImageStatus(**{**data, "state": ImageState(data["state"])})
        except FileNotFoundError:
            return ImageStatus(image, message="The image has not been prepared yet.")
        except (OSError, ValueError, TypeError, KeyError) as error:
            return ImageStatus(image, message=f"The image's status cannot be read: {error}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _builder_is_alive(self) -> bool:
        try:
            with (self._folder / "lock").open("r") as file:
                # Shared, so that two readers do not take each other for a builder.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False


class _Preparation:
    """One run over a chain of recipes, the wanted one last."""

    def __init__(
        self, store: ImageStore, recipes: Sequence[Recipe], on_progress: OnProgress | None
    ) -> None:
        self._store = store
        self._recipes = recipes
        self._on_progress = on_progress
        self._stale: Sequence[Recipe] = ()
        self._last: deque[str] = deque(maxlen=15)
        self._status = {
            recipe.name: ImageStatus(
                recipe.tag,
                ImageState.PREPARING,
                started_at=datetime.now(UTC),
                log=str(store.log_path(recipe.name)),
            )
            for recipe in recipes
        }

    def run(self, client: docker.APIClient, *, force: bool) -> ImageStatus:
        wanted = self._recipes[-1]
        self._stale = [
            recipe
            for recipe in self._recipes
            if (force and recipe is wanted) or not is_current(client, recipe)
        ]
        for recipe in self._recipes:
            if recipe not in self._stale:
                self._ready(recipe)
        for recipe in self._stale:
            self._show(recipe, message="Waits for its turn.")
        for at, recipe in enumerate(self._stale):
            try:
                self._build(client, at, no_cache=force and recipe is wanted)
            except UNANSWERED as error:
                self._fail(at, f"Docker does not answer: {error}")
                break
            except (EngineError, DockerException, OSError) as error:
                self._fail(at, str(getattr(error, "explanation", None) or error))
                break
            self._ready(recipe)
        self._store.remove_superseded(client)
        return self._status[wanted.name]

    def _build(self, client: docker.APIClient, at: int, *, no_cache: bool) -> None:
        recipe = self._stale[at]
        before = image_id(client, recipe.tag)
        self._last.clear()
        with self._store.log_path(recipe.name).open("w", encoding="utf-8") as log_file:
            build = Build(
                client,
                recipe,
                log_file,
                on_step=lambda number, of, line: self._step(at, number, of, line),
                say=lambda sentence: self._show(recipe, message=sentence + "."),
                last=self._last,
            )
            build.run(no_cache=no_cache)
        if before and before != image_id(client, recipe.tag):
            self._store.supersede(before)

    def _step(self, at: int, number: int, of: int, line: str) -> None:
        stale, recipe = self._stale, self._stale[at]
        done = sum(sum(each.steps) for each in stale[:at]) + sum(recipe.steps[: number - 1])
        for end in range(at, len(stale)):
            # What waits for this one is as far as this one brings it.
            total = sum(sum(each.steps) for each in stale[: end + 1])
            self._show(
                stale[end],
                progress=round(min(done / total, 0.99), 3),
                step=line[:200],
                message=f"Preparing {recipe.tag.removesuffix(':latest')}, step {number} of {of}.",
            )

    def _ready(self, recipe: Recipe) -> None:
        self._show(
            recipe,
            state=ImageState.READY,
            progress=1.0,
            message="",
            finished_at=datetime.now(UTC),
        )

    def _fail(self, at: int, reason: str) -> None:
        failed = self._stale[at]
        for recipe in self._stale[at:]:
            prefix = "" if recipe is failed else f"{failed.tag} could not be built: "
            self._show(
                recipe,
                state=ImageState.FAILED,
                message=prefix + reason,
                tail="\n".join(self._last),
                finished_at=datetime.now(UTC),
            )

    def _show(self, recipe: Recipe, **changes: Any) -> None:
        status = replace(self._status[recipe.name], **changes)
        self._status[recipe.name] = status
        self._store.write(recipe.name, status)
        if self._on_progress is not None:
            self._on_progress(status)


def _iso(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()


def wanted_images(settings: Settings) -> tuple[str, ...]:
    """Recipes that the profiles name, in their order; all of them while profiles are broken."""
    recipes = load_recipes(settings.images_dir)
    try:
        named = {recipe_name(each.image) for each in load_profiles(settings.profiles_dir).values()}
    except ConfigurationError as error:
        log.warning("Preparing every image, for the profiles cannot be read: %s", error)
        return tuple(recipes)
    return tuple(name for name in recipes if name in named)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare images one after the other; the exit status is 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m dcloud_spawner.images", description=__doc__)
    parser.add_argument("names", nargs="*", help="recipes; those that the profiles name if none")
    parser.add_argument("--force", action="store_true", help="build afresh what is up to date too")
    options = parser.parse_args(arguments)
    settings = load_settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    store = ImageStore(settings)
    if settings.engine == "sandbox":
        log.info("The sandbox engine uses no images.")
        return 0
    failed = False
    for name in options.names or wanted_images(settings):
        try:
            status = store.prepare(name, _logger(), force=options.force)
        except EngineUnreachable as error:
            log.warning("%s", error)
            return 1 if settings.engine == "docker" else 0
        failed = failed or status.state is ImageState.FAILED
    return int(failed)


def _logger() -> OnProgress:
    """Logs a change of state, a failure's reason and each new step once."""
    seen: dict[str, tuple[str, str]] = {}

    def report(status: ImageStatus) -> None:
        now = (status.state, status.message)
        if seen.get(status.image) != now:
            seen[status.image] = now
            level = logging.ERROR if status.state is ImageState.FAILED else logging.INFO
            percent = round(status.progress * 100)
            log.log(level, "%s %s %d %% %s", status.image, status.state, percent, status.message)
            if status.tail:
                log.log(level, "%s said last:\n%s", status.image, status.tail)

    return report


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigurationError as problem:
        sys.exit(str(problem))
