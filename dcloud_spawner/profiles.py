"""Profiles: what an administrator offers, from ``profiles/*.yaml``.

One file is one profile. An error names the file, the line and what is allowed. A running hub
reads a changed folder again by itself; while a file is broken, the last good set stays in
force and :attr:`ProfileBook.problem` says what is wrong.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import regex
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dcloud_spawner.datasets.wishes import DatasetWish, parse_wishes
from dcloud_spawner.errors import ConfigurationError, InvalidChoice

log = logging.getLogger(__name__)

Icon = Literal["cpu", "torch", "tensor", "multi", "code", "stack"]
Gpus = Annotated[int, Field(ge=0, le=4, strict=True)]
Amount = Annotated[float, Field(ge=0.01, le=65536, allow_inf_nan=False, strict=True)]

RESERVED = ("JUPYTERHUB_", "JPY_", "NVIDIA_", "DCLOUD_")
RESERVED_NAMES = frozenset({"CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "MEM_LIMIT", "CPU_LIMIT"})
"""Environment that the platform sets, and that would lie or break out if a profile did."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuChoices(_Model):
    """How many GPUs may be asked for."""

    choices: tuple[Gpus, ...] = Field((0,), min_length=1)
    default: Gpus = 0

    @model_validator(mode="after")
    def _default_is_offered(self) -> GpuChoices:
        if self.default not in self.choices:
            raise ValueError(f"default {self.default} is not among choices {list(self.choices)}")
        return self


class AmountChoices(_Model):
    """GiB of memory or CPU cores that may be asked for."""

    choices: tuple[Amount, ...] = Field(min_length=1)
    default: Amount

    @model_validator(mode="after")
    def _default_is_offered(self) -> AmountChoices:
        if self.default not in self.choices:
            raise ValueError(f"default {self.default:g} is not among choices")
        return self


class Hours(_Model):
    """How long a server may run."""

    default: Annotated[int, Field(ge=1, strict=True)] = 4
    most: Annotated[int, Field(ge=1, le=24 * 365, strict=True)] = 24

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Hours:
        if self.default > self.most:
            raise ValueError(f"default {self.default} is more than most {self.most}")
        return self


class Profile(_Model):
    """One profile as the spawn page offers it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    title: str = Field(min_length=1, max_length=60)
    description: str = Field("", max_length=300)
    icon: Icon = "stack"
    image: str = Field(min_length=1, max_length=500)
    image_pattern: str | None = None
    """A regular expression for the whole name; when set, the user may name another image."""
    gpus: GpuChoices = GpuChoices(choices=(0,))
    gpu_models: tuple[str, ...] = ()
    """Models that may be asked for by name; empty means every model there is."""
    memory_gib: AmountChoices
    cpus: AmountChoices
    hours: Hours = Hours()
    notebooks: Literal["home", "storage"] = "home"
    """storage: JupyterLab shows the user's own space in storage beside the home, where the storage
    gives short-lived keys; notebooks that are kept there survive a lost host."""
    groups: tuple[str, ...] = ()
    """Hub groups that may use it; empty means everyone."""
    environment: Mapping[str, str] = Field(default_factory=dict)
    datasets: tuple[DatasetWish, ...] = ()
    """Mounted unless a choice says otherwise, for those who may read them."""
    order: Annotated[int, Field(strict=True)] = 100

    @field_validator("image_pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @field_validator("datasets", mode="before")
    @classmethod
    def _datasets_are_named(cls, given: object) -> tuple[DatasetWish, ...]:
        try:
            return parse_wishes(given)
        except InvalidChoice as error:
            raise ValueError(error.text.removeprefix("datasets: ")) from error

    @field_validator("environment")
    @classmethod
    def _environment_is_ours_to_set(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if name.startswith(RESERVED) or name in RESERVED_NAMES:
                raise ValueError(f"{name} is set by the platform")
            if "\x00" in environment[name]:
                raise ValueError(f"{name} holds a NUL, which no environment can")
        return MappingProxyType(dict(environment))

    def allows(self, groups: set[str], *, admin: bool = False) -> bool:
        """Whether a user with these groups may choose it."""
        return admin or not self.groups or bool(groups.intersection(self.groups))


def load_profiles(folder: Path) -> Mapping[str, Profile]:
    """Read every ``*.yaml`` of a folder, in the order of the page.

    Raises ConfigurationError that names file and line of every mistake found.
    """
    files = _files(folder)
    if not files:
        raise ConfigurationError(f"{folder}: no profile (*.yaml) here; there must be at least one.")
    problems: list[str] = []
    profiles: dict[str, Profile] = {}
    first: dict[str, Path] = {}
    for path in files:
        try:
            profile, line = _read_one(path)
        except ConfigurationError as error:
            problems.append(str(error))
            continue
        other = first.setdefault(profile.name, path)
        if other != path:
            problems.append(f"{path}:{line}: name: {profile.name!r} is also that of {other.name}")
        profiles[profile.name] = profile
    if problems:
        raise ConfigurationError("\n".join(problems))
    ranked = sorted(profiles.values(), key=lambda found: (found.order, found.title))
    return MappingProxyType({profile.name: profile for profile in ranked})


def _files(folder: Path) -> list[Path]:
    """The profile files; an editor's hidden ones (locks, drafts) are none."""
    return sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("."))


def _read_one(path: Path) -> tuple[Profile, int]:
    """One profile and the line of its name; raises ConfigurationError."""
    tree, data = _parse(path)
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path}:1: a profile is a mapping of keys to values")
    data.setdefault("name", path.stem)
    try:
        return Profile.model_validate(data), _line_of(tree, ("name",))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"]) or "profile"
            line = _line_of(tree, item["loc"])
            lines.append(f"{path}:{line}: {where}: {item['msg']}")
        raise ConfigurationError("\n".join(lines)) from error


def _parse(path: Path) -> tuple[yaml.Node | None, object]:
    """The file as a tree with lines and as plain values; raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        again = _given_twice(tree)
        if again is not None:
            line = again.start_mark.line + 1
            raise ConfigurationError(f"{path}:{line}: {again.value}: given twice")
        return tree, yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}:{line}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(f"{path}:{line}: a character that YAML does not take") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"{path}:1: {error.strerror or error}") from error
    except ValueError as error:  # a date that does not exist, a number too long
        raise ConfigurationError(f"{path}:1: {error}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path}:1: nested too deeply") from error


def _given_twice(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """The second of two equal keys of one mapping: YAML alone silently takes the last."""
    stack, done = [node], set()
    while stack:
        found = stack.pop()
        if id(found) in done:
            continue  # an anchor used again, perhaps inside itself
        done.add(id(found))
        if isinstance(found, yaml.SequenceNode):
            stack += found.value
        elif isinstance(found, yaml.MappingNode):
            seen = set()
            for key, value in found.value:
                stack.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        return key
                    seen.add(key.value)
    return None


def _line_of(node: yaml.Node | None, location: tuple[Any, ...]) -> int:
    """Line of the deepest part of a location that the file has, counted from 1."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return line


class ProfileBook:
    """The profiles in force, read again when a file of the folder changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp = self._fingerprint()
        self._profiles = load_profiles(folder)
        self.problem = ""
        """What is wrong with the folder now; empty when the last read was good."""

    def _fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        found = []
        for path in _files(self._folder):
            try:
                stat = path.stat()
            except OSError:
                continue
            # The time of change, not of modification: it also tells of a file that was put in
            # place with an old date, or that may be read now and might not before.
            found.append((path.name, stat.st_ino, stat.st_ctime_ns, stat.st_size))
        return tuple(found)

    def current(self) -> Mapping[str, Profile]:
        """The last good set. Looks at the folder's time stamps first: a few microseconds."""
        with self._lock:
            stamp = self._fingerprint()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._profiles = load_profiles(self._folder)
                    self.problem = ""
                    log.info("profiles read again: %s", ", ".join(self._profiles))
                except ConfigurationError as error:
                    self.problem = str(error)
                    log.error("broken profiles, the last good ones stay in force:\n%s", error)
            return self._profiles
