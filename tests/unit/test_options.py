"""The one validation of a choice: what may come in, and what is said to everything else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dcloud_spawner.errors import InvalidChoice, NotAllowed, UserError
from dcloud_spawner.form.fields import choice_from_form
from dcloud_spawner.options import GIB, Choice, image_of, validate
from dcloud_spawner.profiles import Profile, load_profiles
from tests.patience import patient

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile.model_validate(
            {
                "name": "cpu",
                "title": "CPU",
                "image": "lab/base:1",
                "memory_gib": {"choices": [1, 2, 4096], "default": 2},
                "cpus": {"choices": [0.5, 1, 4], "default": 1},
                "hours": {"default": 8, "most": 72},
            }
        ),
        Profile.model_validate(
            {
                "name": "gpu",
                "title": "GPU",
                "image": "lab/torch:1",
                "gpus": {"choices": [0, 1, 2, 3, 4], "default": 1},
                "memory_gib": {"choices": [0.5, 16], "default": 16},
                "cpus": {"choices": [2], "default": 2},
            }
        ),
        Profile.model_validate(
            {
                "name": "models",
                "title": "Models",
                "image": "lab/torch:1",
                "gpus": {"choices": [0, 1, 2], "default": 1},
                "gpu_models": ["A100", "H100"],
                "memory_gib": {"choices": [16], "default": 16},
                "cpus": {"choices": [2], "default": 2},
            }
        ),
        Profile.model_validate(
            {
                "name": "own",
                "title": "Own image",
                "image": "lab/base:1",
                "image_pattern": r"lab/[a-z]{1,20}(:[a-z0-9]{1,20})?",
                "groups": ["trusted"],
                "memory_gib": {"choices": [1], "default": 1},
                "cpus": {"choices": [1], "default": 1},
            }
        ),
        Profile.model_validate(
            {
                "name": "anything",
                "title": "Any image",
                "image": "lab/base:1",
                "image_pattern": r"[\s\S]*",
                "groups": ["trusted", "staff"],
                "memory_gib": {"choices": [1], "default": 1},
                "cpus": {"choices": [1], "default": 1},
            }
        ),
    )
}


def ask(given_: object, *groups: str, admin: bool = False) -> Choice:
    return validate(given_, PROFILES, groups=set(groups), admin=admin)


# ---------------------------------------------------------------------------- what is refused

HUGE = 10**5000
NESTED: list[Any] = []
for _ in range(3000):
    NESTED = [NESTED]

BAD: list[tuple[str, object, str]] = [
    # the whole
    ("a list", [], ""),
    ("a list of pairs", [["profile", "cpu"]], ""),
    ("a text", "cpu", ""),
    ("a text of JSON", '{"profile": "cpu"}', ""),
    ("a number", 1, ""),
    ("zero", 0, ""),
    ("true", True, ""),
    ("false", False, ""),
    ("a float", 1.5, ""),
    ("bytes", b"{}", ""),
    ("an empty text", "", ""),
    # unknown keys
    ("an unknown key", {"gpu": 1}, "gpu"),
    ("a key in capitals", {"GPUs": 1}, "GPUs"),
    ("a key with a blank", {"gpus ": 1}, "gpus "),
    ("an empty key", {"": 1}, ""),
    ("a key of our own row", {"state": "running"}, "state"),
    ("a key of the spawner", {"environment": {"A": "b"}}, "environment"),
    ("a key of Python", {"__class__": "x"}, "__class__"),
    ("a key of a model", {"model_config": {}}, "model_config"),
    ("a key that is a path", {"../gpus": 1}, "../gpus"),
    ("a key with a newline", {"gpus\n": 1}, "gpus\n"),
    ("a long key", {"x" * 10_000: 1}, "x" * 60),
    ("a key that looks alike", {"gpuѕ": 1}, "gpuѕ"),
    ("a number as key", {1: 2}, "1"),
    ("a profile's own key", {"gpus": 0, "image_pattern": ".*"}, "image_pattern"),
    # profile
    ("no such profile", {"profile": "nope"}, "profile"),
    ("an empty profile", {"profile": ""}, "profile"),
    ("a profile in capitals", {"profile": "CPU"}, "profile"),
    ("a profile with a blank", {"profile": "cpu "}, "profile"),
    ("a profile with a newline", {"profile": "cpu\n"}, "profile"),
    ("a profile with NUL", {"profile": "cpu\x00"}, "profile"),
    ("a profile that is a path", {"profile": "../cpu"}, "profile"),
    ("a profile that is a number", {"profile": 1}, "profile"),
    ("a profile that is true", {"profile": True}, "profile"),
    ("two profiles", {"profile": ["cpu", "gpu"]}, "profile"),
    ("a profile that is an object", {"profile": {"name": "cpu"}}, "profile"),
    ("a long profile", {"profile": "x" * 100_000}, "profile"),
    ("half a character as profile", {"profile": "\ud800"}, "profile"),
    ("a profile of another group", {"profile": "own"}, "profile"),
    # gpus
    ("five GPUs", {"profile": "gpu", "gpus": 5}, "gpus"),
    ("minus one GPU", {"profile": "gpu", "gpus": -1}, "gpus"),
    ("a GPU of a profile without", {"profile": "cpu", "gpus": 1}, "gpus"),
    ("half a GPU", {"profile": "gpu", "gpus": 0.5}, "gpus"),
    ("one GPU as a float", {"profile": "gpu", "gpus": 1.0}, "gpus"),
    ("a digit", {"profile": "gpu", "gpus": "1"}, "gpus"),
    ("an Arabic digit", {"profile": "gpu", "gpus": "١"}, "gpus"),
    ("an empty text for GPUs", {"profile": "gpu", "gpus": ""}, "gpus"),
    ("true for GPUs", {"profile": "gpu", "gpus": True}, "gpus"),
    ("false for GPUs", {"profile": "gpu", "gpus": False}, "gpus"),
    ("a list of GPUs", {"profile": "gpu", "gpus": [1]}, "gpus"),
    ("UUIDs for GPUs", {"profile": "gpu", "gpus": ["GPU-1"]}, "gpus"),
    ("an object for GPUs", {"profile": "gpu", "gpus": {"count": 1}}, "gpus"),
    ("NaN GPUs", {"profile": "gpu", "gpus": math.nan}, "gpus"),
    ("infinitely many GPUs", {"profile": "gpu", "gpus": math.inf}, "gpus"),
    ("more GPUs than a word holds", {"profile": "gpu", "gpus": 2**63}, "gpus"),
    ("more GPUs than can be printed", {"profile": "gpu", "gpus": HUGE}, "gpus"),
    ("GPUs in lists in lists", {"profile": "gpu", "gpus": NESTED}, "gpus"),
    ("all GPUs", {"profile": "gpu", "gpus": "all"}, "gpus"),
    # gpu_model
    ("a model without a GPU", {"profile": "gpu", "gpus": 0, "gpu_model": "A100"}, "gpu_model"),
    ("a model by default without a GPU", {"profile": "cpu", "gpu_model": "A100"}, "gpu_model"),
    ("a model that is not offered", {"profile": "models", "gpu_model": "B200"}, "gpu_model"),
    ("a model in small letters", {"profile": "models", "gpu_model": "a100"}, "gpu_model"),
    ("an empty model", {"profile": "gpu", "gpu_model": ""}, "gpu_model"),
    ("a model with NUL", {"profile": "gpu", "gpu_model": "A100\x00"}, "gpu_model"),
    ("a model with a newline", {"profile": "gpu", "gpu_model": "A100\n"}, "gpu_model"),
    ("half a character as model", {"profile": "gpu", "gpu_model": "\udfff"}, "gpu_model"),
    ("a model turned around", {"profile": "gpu", "gpu_model": "\u202e001A"}, "gpu_model"),
    ("a long model", {"profile": "gpu", "gpu_model": "A" * 129}, "gpu_model"),
    ("a number as model", {"profile": "gpu", "gpu_model": 100}, "gpu_model"),
    ("two models", {"profile": "models", "gpu_model": ["A100", "H100"]}, "gpu_model"),
    # memory_gib
    ("memory not offered", {"profile": "cpu", "memory_gib": 3}, "memory_gib"),
    ("no memory", {"profile": "cpu", "memory_gib": 0}, "memory_gib"),
    ("minus nothing", {"profile": "cpu", "memory_gib": -0.0}, "memory_gib"),
    ("negative memory", {"profile": "cpu", "memory_gib": -2}, "memory_gib"),
    ("almost the memory", {"profile": "cpu", "memory_gib": 2.0000001}, "memory_gib"),
    ("a text for memory", {"profile": "cpu", "memory_gib": "2"}, "memory_gib"),
    ("memory with a unit", {"profile": "cpu", "memory_gib": "2G"}, "memory_gib"),
    ("true for memory", {"profile": "cpu", "memory_gib": True}, "memory_gib"),
    ("NaN memory", {"profile": "cpu", "memory_gib": math.nan}, "memory_gib"),
    ("infinite memory", {"profile": "cpu", "memory_gib": math.inf}, "memory_gib"),
    ("minus infinite memory", {"profile": "cpu", "memory_gib": -math.inf}, "memory_gib"),
    ("memory as large as a float", {"profile": "cpu", "memory_gib": 1.7e308}, "memory_gib"),
    ("memory larger than a float", {"profile": "cpu", "memory_gib": 10**400}, "memory_gib"),
    ("memory that cannot be printed", {"profile": "cpu", "memory_gib": HUGE}, "memory_gib"),
    ("a complex memory", {"profile": "cpu", "memory_gib": 2j}, "memory_gib"),
    ("a list for memory", {"profile": "cpu", "memory_gib": [2]}, "memory_gib"),
    # cpus
    ("cores not offered", {"profile": "cpu", "cpus": 3}, "cpus"),
    ("no cores", {"profile": "cpu", "cpus": 0}, "cpus"),
    ("negative cores", {"profile": "cpu", "cpus": -1}, "cpus"),
    ("a tiny core", {"profile": "cpu", "cpus": 5e-324}, "cpus"),
    ("a text for cores", {"profile": "cpu", "cpus": "1"}, "cpus"),
    ("NaN cores", {"profile": "cpu", "cpus": math.nan}, "cpus"),
    ("false for cores", {"profile": "cpu", "cpus": False}, "cpus"),
    ("an object for cores", {"profile": "cpu", "cpus": {}}, "cpus"),
    # hours
    ("no hours", {"profile": "cpu", "hours": 0}, "hours"),
    ("too many hours", {"profile": "cpu", "hours": 73}, "hours"),
    ("negative hours", {"profile": "cpu", "hours": -1}, "hours"),
    ("half an hour", {"profile": "cpu", "hours": 0.5}, "hours"),
    ("an hour as a float", {"profile": "cpu", "hours": 1.0}, "hours"),
    ("an hour as text", {"profile": "cpu", "hours": "1"}, "hours"),
    ("true for hours", {"profile": "cpu", "hours": True}, "hours"),
    ("more hours than can be printed", {"profile": "cpu", "hours": HUGE}, "hours"),
    ("for ever", {"profile": "cpu", "hours": math.inf}, "hours"),
    # image
    ("an image of a fixed profile", {"profile": "cpu", "image": "lab/other"}, "image"),
    ("an image as a number", {"profile": "cpu", "image": 1}, "image"),
    ("an image as a list", {"profile": "cpu", "image": ["lab/base:1"]}, "image"),
    ("the fixed image with a newline", {"profile": "cpu", "image": "lab/base:1\n"}, "image"),
]

OWN = [
    ("a newline behind it", "lab/base\n"),
    ("a newline before it", "\nlab/base"),
    ("a second line", "lab/base\nlab/evil"),
    ("something before it", "evil.example/lab/base"),
    ("something behind it", "lab/base:1@sha256:0"),
    ("another registry", "docker.io/lab/base"),
    ("a blank before it", " lab/base"),
    ("a blank behind it", "lab/base "),
    ("a tab", "lab/\tbase"),
    ("NUL", "lab/base\x00"),
    ("capitals", "Lab/base"),
    ("a folder above", "lab/../evil"),
    ("an option", "--privileged"),
    ("letters that look alike", "lаb/base"),
    ("full-width letters", "lab/ｂase"),
    ("nothing", ""),
    ("half a character", "lab/\ud800"),
    ("a long name", "lab/" + "a" * 21),
    ("a very long name", "lab/" + "a" * 1_000_000),
]
BAD += [
    (f"an image with {name}", {"profile": "own", "image": image}, "image") for name, image in OWN
]
# Even a pattern that allows anything allows only what can be the name of an image.
BAD += [
    (f"any image, with {name}", {"profile": "anything", "image": image}, "image")
    for name, image in OWN
    if not image.isascii() or not image.isprintable() or " " in image or image[:1] in ("", "-")
]
BAD += [("any image, too long", {"profile": "anything", "image": "a" * 256}, "image")]
BAD += [
    (f"an account that is {name}", {"account": account}, "account")
    for name, account in (
        ("a number", 7),
        ("a list", ["vision-lab"]),
        ("empty", ""),
        ("blanks", "   "),
        ("two lines", "vision\nlab"),
        ("with a NUL", "vision\x00lab"),
        ("half a character", "vision\ud800"),
        ("long", "v" * 256),
        ("very long", "v" * 1_000_000),
    )
]
BAD += [
    (f"datasets that are {name}", {"datasets": datasets}, "datasets")
    for name, datasets in (
        ("a text", "ann/cars"),
        ("an object", {"name": "ann/cars"}),
        ("a number", 7),
        ("numbers", [1]),
        ("nothing in a list", [None]),
        ("lists", [["ann/cars"]]),
        ("without a name", [{}]),
        ("without an owner", ["cars"]),
        ("without a dataset", ["ann/"]),
        ("of nobody", ["/cars"]),
        ("a path", ["ann/../cars/.."]),
        ("in capitals", ["ann/Cars"]),
        ("with a NUL", ["an\x00n/cars"]),
        ("two lines", ["an\nn/cars"]),
        ("half a character", ["an\ud800/cars"]),
        ("very long", ["a" * 1_000_000 + "/cars"]),
        ("too many", [f"ann/cars-{n}" for n in range(21)]),
        ("there twice", ["ann/cars", {"name": "ann/cars", "mode": "stream"}]),
        ("with a version of zero", ["ann/cars@0"]),
        ("with a version below zero", [{"name": "ann/cars", "version": -1}]),
        ("with half a version", [{"name": "ann/cars", "version": 1.5}]),
        ("with a version that is true", [{"name": "ann/cars", "version": True}]),
        ("with a version that is a list", [{"name": "ann/cars", "version": [1]}]),
        ("with a long version", [{"name": "ann/cars", "version": "1" * 100_000}]),
        ("with a draft", [{"name": "ann/cars", "version": "draft"}]),
        ("with two versions", [{"name": "ann/cars@1", "version": 2}]),
        ("with an unknown mode", [{"name": "ann/cars", "mode": "write"}]),
        ("with a mode that is a list", [{"name": "ann/cars", "mode": ["stream"]}]),
        ("with a target", [{"name": "ann/cars", "target": "/etc"}]),
    )
]


def test_the_table_is_long_enough() -> None:
    assert len(BAD) >= 80
    assert len({name for name, _, _ in BAD}) == len(BAD)


@pytest.mark.parametrize(("given_", "field"), [pytest.param(g, f, id=n) for n, g, f in BAD])
def test_a_bad_choice_is_refused_and_its_field_is_named(given_: object, field: str) -> None:
    groups = ["trusted"] if field == "image" else []
    with pytest.raises(InvalidChoice) as refused:
        ask(given_, *groups)
    error = refused.value
    assert (error.field, error.status_code, error.code) == (field, 400, "invalid_choice")
    assert field in error.message or not error.message.isascii() or "\\" in error.message
    assert len(error.text) < 600
    json.dumps(error.text).encode()  # it can be sent
    assert error.text.isprintable()


MINE = "Profiles you may use: cpu, gpu, models."


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        (
            {"profile": "gpu", "gpus": 5},
            "gpus: 5 is not offered by this profile. Choose one of 0, 1, 2, 3, 4.",
        ),
        (
            {"profile": "cpu", "memory_gib": 3},
            "memory_gib: 3 is not offered by this profile. Choose one of 1, 2, 4096.",
        ),
        ({"profile": "cpu", "hours": 73}, "hours: 73 is not possible. Choose 1 to 72."),
        ({"profile": "nope"}, f"profile: there is no profile 'nope'. {MINE}"),
        ({"profile": "own"}, f"profile: 'own' is only for the group trusted. {MINE}"),
        (
            {"profile": "anything"},
            f"profile: 'anything' is only for the group trusted or staff. {MINE}",
        ),
        (
            {"gpu": 1},
            "'gpu' is not a field of a choice. "
            "Fields are profile, gpus, gpu_model, memory_gib, cpus, hours, image, account, "
            "datasets.",
        ),
        # What the planner could use and no deployment can say is refused, not ignored.
        *(
            (
                {"profile": "gpu", "gpus": 1, field: value},
                f"{field!r} is not a field of a choice. "
                "Fields are profile, gpus, gpu_model, memory_gib, cpus, hours, image, account, "
                "datasets.",
            )
            for field, value in (("link_domain", "0"), ("labels", ["disk=fast"]), ("slot", 1))
        ),
        (
            {"profile": "gpu", "gpus": 0.5},
            "gpus: Input should be a valid integer (got 0.5).",
        ),
        (
            {"profile": "models", "gpu_model": "B200"},
            "gpu_model: 'B200' is not offered by this profile. Choose one of A100, H100.",
        ),
    ],
)
def test_a_bad_choice_says_what_is_allowed(given_: object, words: str) -> None:
    with pytest.raises(InvalidChoice) as refused:
        ask(given_)
    assert refused.value.text == words


def test_somebody_without_any_profile_is_told_to_ask_for_a_group() -> None:
    mine = {"own": PROFILES["own"]}
    with pytest.raises(NotAllowed) as refused:
        validate({}, mine, groups={"students"})
    assert refused.value.status_code == 403
    assert validate({}, mine, groups={"students"}, admin=True).profile == "own"


def with_pattern(pattern: str) -> Mapping[str, Profile]:
    values = {**PROFILES["own"].model_dump(), "image_pattern": pattern, "groups": []}
    return {"own": Profile.model_validate(values)}


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("(a|aa)+[bc]", "a" * 100),
        ("([a-z]+)*[0-9]", "a" * 200 + "A"),
        ("([a-z]|[a-w]|[b-z])*:[0-9]", "b" * 100 + ":b"),
        ("[a-z]*" * 20 + "[0-9]", "a" * 250 + "A"),
    ],
)
def test_no_pattern_and_no_name_can_stop_the_hub(pattern: str, image: str) -> None:
    profiles = with_pattern(pattern)
    begin = time.monotonic()
    with pytest.raises(InvalidChoice) as refused:
        validate({"image": image}, profiles, groups=set())
    assert refused.value.field == "image"
    assert time.monotonic() - begin < patient(2)


def test_a_name_of_millions_of_characters_is_not_even_matched() -> None:
    begin = time.monotonic()
    with pytest.raises(InvalidChoice):
        validate({"image": "a" * 10_000_000}, with_pattern("[a-z]*[a-z]*:x"), groups=set())
    assert time.monotonic() - begin < patient(1)


@pytest.mark.parametrize("pattern", ["lab/a|evil/b", "(?i:lab/A)", "lab/a$", "^lab/a", "lab/a\\Z"])
def test_a_pattern_is_always_for_the_whole_name(pattern: str) -> None:
    profiles = with_pattern(pattern)
    assert validate({"image": "lab/a"}, profiles, groups=set()).image == "lab/a"
    for image in ("lab/ab", "xlab/a", "evil/lab/a", "lab/a/evil"):
        with pytest.raises(InvalidChoice):
            validate({"image": image}, profiles, groups=set())


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.sampled_from(("cpu", "gpu", "own", 0, 1, 2, 4, 5, 0.5, 16, "lab/base"))
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
names = st.sampled_from(
    ("profile", "gpus", "gpu_model", "memory_gib", "cpus", "hours", "image", "datasets", "other")
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, anything, max_size=7) | anything)
def test_whatever_comes_in_it_is_a_valid_choice_or_a_readable_refusal(given_: object) -> None:
    try:
        choice = ask(given_, "trusted")
    except UserError as error:
        assert error.message.isprintable() and error.status_code in (400, 403)
        return
    profile = PROFILES[choice.profile]
    assert choice.gpus in profile.gpus.choices
    assert choice.memory_gib in profile.memory_gib.choices
    assert choice.cpus in profile.cpus.choices
    assert 1 <= choice.hours <= profile.hours.most
    assert choice.gpus or choice.gpu_model is None
    assert ask(choice.as_dict(), "trusted") == choice


# ---------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("nothing", [None, {}])
def test_nothing_at_all_means_the_defaults_of_the_first_profile(nothing: object) -> None:
    assert ask(nothing) == Choice("cpu", 0, None, 2, 1, 8)


def test_a_field_that_is_null_means_its_default() -> None:
    fields = dict.fromkeys(("gpus", "gpu_model", "memory_gib", "cpus", "hours", "image"))
    assert ask({"profile": "gpu", **fields}) == Choice("gpu", 1, None, 16, 2, 4)


def test_everything_may_be_chosen() -> None:
    given_ = {
        "profile": "models",
        "gpus": 2,
        "gpu_model": "H100",
        "memory_gib": 16,
        "cpus": 2,
        "hours": 24,
    }
    choice = ask(given_)
    assert choice == Choice("models", 2, "H100", 16, 2, 24)
    assert choice.as_dict() == given_


def test_whole_numbers_are_fine_where_decimals_are_possible() -> None:
    assert ask({"profile": "cpu", "memory_gib": 2, "cpus": 1}) == ask(
        {"profile": "cpu", "memory_gib": 2.0, "cpus": 1.0}
    )


def test_a_model_of_a_profile_without_a_list_is_left_to_the_pool() -> None:
    assert ask({"profile": "gpu", "gpu_model": "NVIDIA H100 80GB HBM3"}).gpu_model is not None


def test_a_profile_that_names_models_gives_no_other_one() -> None:
    assert ask({"profile": "models"}).gpu_model == "A100"
    assert ask({"profile": "models", "gpus": 0}).gpu_model is None


def test_the_profiles_own_image_may_be_named_everywhere() -> None:
    choice = ask({"profile": "cpu", "image": "lab/base:1"})
    assert choice.image is None
    assert image_of(choice, PROFILES["cpu"]) == "lab/base:1"


def test_an_image_that_matches_the_whole_pattern_is_taken() -> None:
    choice = ask({"profile": "own", "image": "lab/mine:v2"}, "trusted")
    assert image_of(choice, PROFILES["own"]) == "lab/mine:v2"
    assert choice.as_dict()["image"] == "lab/mine:v2"


def test_who_pays_is_a_field_of_the_choice_and_nobody_else_means_oneself() -> None:
    assert ask({"account": "vision-lab"}).as_dict()["account"] == "vision-lab"
    assert ask({}).account is None
    assert "account" not in ask({}).as_dict()


def test_datasets_are_named_as_text_or_in_full() -> None:
    choice = ask(
        {
            "datasets": [
                "ann/cars",
                "project:lab/cars@3",
                {"name": "a@lab.example/x", "version": "latest", "mode": "stream"},
            ]
        }
    )
    assert choice.as_dict()["datasets"] == [
        {"name": "ann/cars", "version": "latest"},
        {"name": "project:lab/cars", "version": 3},
        {"name": "a@lab.example/x", "version": "latest", "mode": "stream"},
    ]
    assert ask(choice.as_dict()) == choice


def test_two_versions_of_a_dataset_may_be_chosen() -> None:
    choice = ask({"datasets": ["ann/cars@1", "ann/cars@2", "ann/cars"]})
    assert [str(wish) for wish in choice.datasets or ()] == ["ann/cars@1", "ann/cars@2", "ann/cars"]


def test_a_profile_may_bring_datasets_and_a_choice_may_leave_them_out() -> None:
    profile = PROFILES["cpu"].model_dump(exclude={"datasets"})
    brings = Profile.model_validate({**profile, "datasets": ["lab/words@2"]})

    def of(given_: dict[str, object]) -> Choice:
        return validate(given_, {"cpu": brings}, groups=set())

    assert of({}).as_dict()["datasets"] == [{"name": "lab/words", "version": 2}]
    without = of({"datasets": []})
    assert without.as_dict()["datasets"] == []
    assert of(without.as_dict()) == without
    assert "datasets" not in ask({"datasets": []}).as_dict()


def test_a_profile_with_a_dataset_that_is_none_is_refused() -> None:
    profile = PROFILES["cpu"].model_dump(exclude={"datasets"})
    with pytest.raises(ValidationError, match="is no dataset"):
        Profile.model_validate({**profile, "datasets": ["words"]})


def test_an_administrator_may_use_every_profile() -> None:
    assert ask({"profile": "own"}, admin=True).profile == "own"
    assert ask({"profile": "own"}, "other", "trusted").profile == "own"


def test_amounts_become_exact_units() -> None:
    choice = Choice("x", 0, None, 0.5, 0.29, 2)
    assert choice.memory_bytes == GIB // 2
    assert choice.limit_seconds == 7200
    for millicores in range(1, 5000):
        assert Choice("x", 0, None, 1, millicores / 1000, 1).cpu_millicores == millicores


def test_every_shipped_profile_takes_its_own_defaults() -> None:
    shipped = load_profiles(Path(__file__).resolve().parents[2] / "profiles")
    for name in shipped:
        choice = validate({"profile": name}, shipped, groups=set(), admin=True)
        assert validate(choice.as_dict(), shipped, groups=set(), admin=True) == choice


# ---------------------------------------------------------------------------- the page's form


def form_of(choice: Choice) -> dict[str, list[str]]:
    """What a browser posts: the resources of every profile, and an XSRF token."""
    form = {"_xsrf": ["token"], "profile": [choice.profile]}
    for profile in PROFILES.values():
        form[f"{profile.name}.gpus"] = [str(profile.gpus.default)]
        form[f"{profile.name}.memory_gib"] = [f"{profile.memory_gib.default:g}"]
        form[f"{profile.name}.gpu_model"] = [""]
    for field, value in choice.as_dict().items():
        if field != "profile":
            text = f"{value:g}" if isinstance(value, float) else str(value)
            form[f"{choice.profile}.{field}"] = [text]
    return form


every_choice = st.sampled_from(sorted(PROFILES)).flatmap(
    lambda name: st.builds(
        lambda gpus, model, memory, cpus, hours, image: ask(
            {
                "profile": name,
                "gpus": gpus,
                "gpu_model": model if gpus and name == "models" else None,
                "memory_gib": memory,
                "cpus": cpus,
                "hours": hours,
                "image": image if name == "own" else None,
            },
            "trusted",
        ),
        st.sampled_from(PROFILES[name].gpus.choices),
        st.sampled_from((None, "A100", "H100")),
        st.sampled_from(PROFILES[name].memory_gib.choices),
        st.sampled_from(PROFILES[name].cpus.choices),
        st.integers(1, PROFILES[name].hours.most),
        st.sampled_from((None, "lab/mine:v2")),
    )
)


@settings(max_examples=150, deadline=None)
@given(every_choice)
def test_a_choice_comes_through_the_form_as_it_was(choice: Choice) -> None:
    assert ask(choice_from_form(form_of(choice)), "trusted") == choice


def test_plain_names_work_in_a_form_too() -> None:
    form = {"profile": ["gpu"], "gpus": ["2"], "memory_gib": ["0.5"], "hours": [" 3 "]}
    assert ask(choice_from_form(form)) == Choice("gpu", 2, None, 0.5, 2, 3)


def test_an_empty_form_means_the_defaults() -> None:
    assert ask(choice_from_form({})) == ask({})


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"profile": ["gpu"], "gpus": ["5"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["-1"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["1.0"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["1e0"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["0x1"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["1_0"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["١"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["one"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": [""]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["1", "2"]}, "gpus"),
        ({"profile": ["gpu"], "gpus": ["9" * 5000]}, "gpus"),
        ({"profile": ["cpu"], "memory_gib": ["NaN"]}, "memory_gib"),
        ({"profile": ["cpu"], "memory_gib": ["inf"]}, "memory_gib"),
        ({"profile": ["cpu"], "memory_gib": ["2\x00"]}, "memory_gib"),
        ({"profile": ["cpu"], "cpus": ["1e999"]}, "cpus"),
        ({"profile": ["cpu"], "hours": ["0"]}, "hours"),
        ({"profile": ["cpu"], "image": ["lab/evil"]}, "image"),
        ({"profile": ["cpu", "gpu"]}, "profile"),
        ({"profile": ["nope"]}, "profile"),
        ({"profile": ["own"]}, "profile"),
        ({"profile": ["cpu"], "gpu_model": ["A100"]}, "gpu_model"),
        ({"profile": ["cpu"], "surprise": ["1"]}, "surprise"),
        ({"profile": ["cpu"], "cpu.surprise": ["1"]}, "cpu.surprise"),
        ({"profile": ["cpu"], "a.b.gpus": ["1"]}, "a.b.gpus"),
    ],
)
def test_a_bad_form_is_refused_with_the_same_words_as_a_bad_request(
    form: dict[str, list[str]], field: str
) -> None:
    with pytest.raises(InvalidChoice) as refused:
        ask(choice_from_form(form))
    assert refused.value.field == field


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("profile", "gpus", "cpu.gpus", "gpu.gpu_model", "image", "cpu.hours", "x"))
        | st.text(max_size=10),
        st.lists(st.text(max_size=10) | st.sampled_from(("cpu", "gpu", "1", "2.5")), max_size=3),
        max_size=6,
    )
)
def test_whatever_is_posted_it_is_a_choice_or_a_readable_refusal(
    form: dict[str, list[str]],
) -> None:
    try:
        ask(choice_from_form(form))
    except UserError as error:
        assert error.message.isprintable()
