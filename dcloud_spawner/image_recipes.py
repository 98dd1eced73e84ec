"""Image recipes: one folder of ``images/`` each, with a Dockerfile.

The recipe NAME makes the image ``dcloud/NAME:latest``. A recipe that starts ``FROM dcloud/OTHER``
stands on another recipe. The digest of a recipe covers its files, its parent's digest and what
the host adds to its build; it is written into the image as a label, so an unchanged recipe is
never built twice and a changed one always is.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcloud_spawner.errors import ConfigurationError

NAMESPACE = "dcloud/"
LABEL_RECIPE = "dcloud.recipe"

CA_FOLDERS = (
    Path("/usr/local/share/ca-certificates"),
    Path("/etc/pki/ca-trust/source/anchors"),
)
"""Where Debian and Red Hat keep certificates that an administrator added."""

_FROM = re.compile(r"^FROM\s+(\S+)", re.IGNORECASE | re.MULTILINE)
_RUN_WEIGHT = 10
"""How much longer a RUN step takes than another one, for the progress bar."""


@dataclass(frozen=True)
class Recipe:
    """One folder of ``images/``."""

    name: str
    folder: Path
    base: str
    """What its Dockerfile is FROM."""
    digest: str
    steps: tuple[int, ...]
    """Weight of each step of the Dockerfile."""

    @property
    def tag(self) -> str:
        """The image it makes."""
        return f"{NAMESPACE}{self.name}:latest"

    def context(self) -> bytes:
        """The build context as a tar archive, with the host's certificates in ``ca/``."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in _files(self.folder).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                # One time for all files: the builder's cache must not see a fresh clone as new.
                entry.mtime = 0
                entry.mode = 0o644
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def recipe_name(image: str) -> str:
    """The recipe behind an image name, empty when the image is not one of ours."""
    name, _, tag = image.partition(":")
    return (
        name.removeprefix(NAMESPACE) if name.startswith(NAMESPACE) and tag in ("", "latest") else ""
    )


def load_recipes(images_dir: Path) -> Mapping[str, Recipe]:
    """Every recipe of a folder, parents before their children.

    Raises ConfigurationError for a Dockerfile without FROM, an unknown parent or a circle.
    """
    folders = {path.parent.name: path.parent for path in sorted(images_dir.glob("*/Dockerfile"))}
    recipes: dict[str, Recipe] = {}

    def load(name: str, on_the_way: tuple[str, ...]) -> Recipe:
        if name in on_the_way:
            circle = " -> ".join([*on_the_way, name])
            raise ConfigurationError(f"{images_dir}: recipes stand on each other: {circle}")
        if name not in recipes:
            dockerfile = folders[name] / "Dockerfile"
            text = dockerfile.read_text(encoding="utf-8")
            found = _FROM.findall(text)
            if not found:
                raise ConfigurationError(f"{dockerfile}: no FROM line")
            base = found[-1]
            parent = recipe_name(base)
            if parent and parent not in folders:
                raise ConfigurationError(f"{dockerfile}: FROM {base}, but there is no such recipe")
            above = load(parent, (*on_the_way, name)).digest if parent else base
            recipes[name] = Recipe(
                name, folders[name], base, _digest(folders[name], above), _steps(text)
            )
        return recipes[name]

    for name in folders:
        load(name, ())
    return recipes


def chain(recipes: Mapping[str, Recipe], name: str) -> tuple[Recipe, ...]:
    """A recipe with all it stands on, the lowest first."""
    recipe = recipes[name]
    parent = recipe_name(recipe.base)
    return (*chain(recipes, parent), recipe) if parent else (recipe,)


def host_certificates() -> Mapping[str, bytes]:
    """Certificates an administrator added to this machine, by file name.

    Where a network inspects TLS, downloads inside a build and inside a notebook need them too.
    """
    found: dict[str, bytes] = {}
    for folder in CA_FOLDERS:
        for path in sorted([*folder.rglob("*.crt"), *folder.rglob("*.pem")]):
            content = path.read_bytes()
            if b"PRIVATE KEY" not in content:
                found[f"{path.stem}.crt"] = content
    return found


def _files(folder: Path) -> Mapping[str, bytes]:
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if (folder / "ca").is_dir():
        found.update({f"ca/{name}": content for name, content in host_certificates().items()})
    return found


def _digest(folder: Path, above: str) -> str:
    digest = hashlib.sha256(above.encode())
    for name, content in sorted(_files(folder).items()):
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _steps(dockerfile: str) -> tuple[int, ...]:
    joined = re.sub(r"\\\s*\n", " ", dockerfile)
    words = [line.split()[0].upper() for line in joined.splitlines() if line.strip()]
    return tuple(_RUN_WEIGHT if word == "RUN" else 1 for word in words if not word.startswith("#"))
