"""One validation of a choice, for the spawn page, the REST API and the command line.

No side effects: what it refuses has changed nothing, and each refusal names the field, what
was given and what is allowed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

import regex
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dcloud_spawner.datasets.wishes import DatasetWish, parse_wishes
from dcloud_spawner.errors import InvalidChoice, NotAllowed
from dcloud_spawner.profiles import Profile

GIB = 2**30

log = logging.getLogger(__name__)

LONGEST_MODEL = 128
LONGEST_IMAGE = 255
LONGEST_ACCOUNT = 255
"""Characters; longer names exist nowhere."""

PATTERN_SECONDS = 0.1

_IMAGE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._/:@-]{{0,{LONGEST_IMAGE - 1}}}")

Number = TypeVar("Number", int, float)


class _Given(BaseModel):
    """The shape of a choice on the wire; numbers must be numbers, nothing else is known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    profile: str | None = None
    gpus: int | None = None
    gpu_model: Annotated[str, Field(max_length=128)] | None = None
    memory_gib: float | None = None
    cpus: float | None = None
    hours: int | None = None
    image: Annotated[str, Field(max_length=500)] | None = None
    account: Annotated[str, Field(max_length=500)] | None = None
    datasets: list[Any] | None = None


@dataclass(frozen=True)
class Choice:
    """A valid pick from a profile, every field decided."""

    profile: str
    gpus: int
    gpu_model: str | None
    memory_gib: float
    cpus: float
    hours: int
    image: str | None = None
    """Set only where the profile lets the user name the image."""
    account: str | None = None
    """Name of the project that pays; None: the user's own account. Whether it may be charged is
    judged where it is submitted: who is a member changes, and the choice is kept."""
    datasets: tuple[DatasetWish, ...] | None = None
    """To be mounted under ~/datasets; None: nothing was said, and the profile has none. Empty:
    none, whatever the profile has. Who may read them is judged where it is submitted."""

    def as_dict(self) -> dict[str, object]:
        """The choice as JSON, as the API takes it and the database keeps it."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        if self.datasets is not None:
            plain["datasets"] = [wish.as_dict() for wish in self.datasets]
        return plain

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes."""
        return int(self.memory_gib * GIB)

    @property
    def cpu_millicores(self) -> int:
        """CPU in thousandths of a core."""
        return round(self.cpus * 1000)

    @property
    def limit_seconds(self) -> int:
        """Longest run in seconds."""
        return self.hours * 3600


def validate(
    given: object, profiles: Mapping[str, Profile], *, groups: set[str], admin: bool = False
) -> Choice:
    """Turn what somebody sent into a choice.

    Missing fields take the profile's defaults. Raises InvalidChoice (400), or NotAllowed (403)
    when no profile at all is open to this person.
    """
    fields = _shape(given)
    profile = _profile(fields.profile, profiles, groups, admin)
    gpus = _one_of("gpus", fields.gpus, profile.gpus.choices, profile.gpus.default)
    choice = Choice(
        profile=profile.name,
        gpus=gpus,
        gpu_model=_gpu_model(fields.gpu_model, profile, gpus),
        memory_gib=_one_of(
            "memory_gib", fields.memory_gib, profile.memory_gib.choices, profile.memory_gib.default
        ),
        cpus=_one_of("cpus", fields.cpus, profile.cpus.choices, profile.cpus.default),
        hours=_hours(fields.hours, profile),
        image=_image(fields.image, profile),
        account=_account(fields.account),
        datasets=_datasets(fields.datasets, profile),
    )
    if choice.gpus == 0 and choice.gpu_model is not None:
        raise InvalidChoice(
            "gpu_model: a GPU model was chosen, but no GPU.",
            hint="Ask for at least 1 GPU or leave the model out.",
            field="gpu_model",
        )
    return choice


def image_of(choice: Choice, profile: Profile) -> str:
    """The image a choice runs."""
    return choice.image or profile.image


def _shape(given: object) -> _Given:
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InvalidChoice(
            f"The choice must be a JSON object, not {type(given).__name__}.",
            hint='For example {"profile": "cpu", "memory_gib": 4}.',
        )
    try:
        return _Given.model_validate(given)
    except ValidationError as error:
        item = error.errors()[0]
        field = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            raise InvalidChoice(
                f"{field[:60]!r} is not a field of a choice.",
                hint=f"Fields are {', '.join(_Given.model_fields)}.",
                field=field[:60],
            ) from error
        raise InvalidChoice(
            f"{field[:60]}: {item['msg']} (got {_shown(item.get('input'))}).", field=field[:60]
        ) from error


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in lists
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def _profile(
    name: str | None, profiles: Mapping[str, Profile], groups: set[str], admin: bool
) -> Profile:
    mine = [found for found in profiles.values() if found.allows(groups, admin=admin)]
    if not mine:
        raise NotAllowed(
            "No profile is open to you.", hint="Ask an administrator for a group.", field="profile"
        )
    if name is None:
        return mine[0]
    allowed = f"Profiles you may use: {', '.join(found.name for found in mine)}."
    profile = profiles.get(name)
    if profile is None:
        raise InvalidChoice(
            f"profile: there is no profile {_shown(name)}.", hint=allowed, field="profile"
        )
    if profile not in mine:
        raise InvalidChoice(
            f"profile: {name!r} is only for the group {' or '.join(profile.groups)}.",
            hint=allowed,
            field="profile",
        )
    return profile


def _one_of(
    field: str, value: Number | None, choices: tuple[Number, ...], default: Number
) -> Number:
    if value is None:
        return default
    if value not in choices:
        allowed = ", ".join(f"{choice:g}" for choice in choices)
        raise InvalidChoice(
            f"{field}: {_shown(value)} is not offered by this profile.",
            hint=f"Choose one of {allowed}.",
            field=field,
        )
    return value


def _gpu_model(model: str | None, profile: Profile, gpus: int) -> str | None:
    if model is None:
        # A profile that names its models offers no other one.
        return profile.gpu_models[0] if gpus and profile.gpu_models else None
    if not model.isprintable() or not 1 <= len(model) <= LONGEST_MODEL:
        raise InvalidChoice(
            f"gpu_model: {_shown(model)} is no name of a GPU model.",
            hint=f"Give 1 to {LONGEST_MODEL} printable characters, or leave the model out.",
            field="gpu_model",
        )
    if profile.gpu_models and model not in profile.gpu_models:
        raise InvalidChoice(
            f"gpu_model: {_shown(model)} is not offered by this profile.",
            hint=f"Choose one of {', '.join(profile.gpu_models)}.",
            field="gpu_model",
        )
    return model


def _hours(hours: int | None, profile: Profile) -> int:
    if hours is None:
        return profile.hours.default
    if not 1 <= hours <= profile.hours.most:
        raise InvalidChoice(
            f"hours: {_shown(hours)} is not possible.",
            hint=f"Choose 1 to {profile.hours.most}.",
            field="hours",
        )
    return hours


def _image(image: str | None, profile: Profile) -> str | None:
    if image is None or image == profile.image:
        return None
    if profile.image_pattern is None:
        raise InvalidChoice(
            "image: this profile has a fixed image.",
            hint="Leave the image out or choose a profile that lets you name one.",
            field="image",
        )
    if not _IMAGE.fullmatch(image):
        raise InvalidChoice(
            f"image: {_shown(image)} is no name of an image.",
            hint=f"1 to {LONGEST_IMAGE} characters of A-Z a-z 0-9 . _ - / : @",
            field="image",
        )
    if not _matches(profile.image_pattern, image):
        raise InvalidChoice(
            f"image: {_shown(image)} is not allowed.",
            hint=f"It must match {profile.image_pattern}",
            field="image",
        )
    return image


def _account(account: str | None) -> str | None:
    """Its shape only."""
    if account is None:
        return None
    if not account.isprintable() or not 1 <= len(account.strip()) <= LONGEST_ACCOUNT:
        raise InvalidChoice(
            f"account: {_shown(account)} is no name of a project.",
            hint="Leave it out to pay from your own account.",
            field="account",
        )
    return account.strip()


def _datasets(given: list[Any] | None, profile: Profile) -> tuple[DatasetWish, ...] | None:
    """What was said, or else what the profile brings."""
    if given is None:
        return profile.datasets or None
    return parse_wishes(given) or (() if profile.datasets else None)


def _matches(pattern: str, image: str) -> bool:
    """Whether the whole name matches. A pattern that backtracks without end would stop the hub
    for everybody: it gets a moment, and then it does not match."""
    try:
        return regex.fullmatch(pattern, image, timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        log.warning("The image pattern %s takes too long for %s.", pattern, image)
        return False
