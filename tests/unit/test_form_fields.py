"""Posted strings become a choice; what they mean is judged by options.validate alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcloud_spawner.errors import InvalidChoice
from dcloud_spawner.form.fields import choice_from_form
from dcloud_spawner.options import validate
from dcloud_spawner.profiles import load_profiles

PROFILES = load_profiles(Path(__file__).parents[1] / "browser" / "profiles")


def posted(**fields: str) -> dict[str, list[str]]:
    return {key: [value] for key, value in fields.items()}


def of_profile(profile: str, **fields: str) -> dict[str, list[str]]:
    return {f"{profile}.{key}": [value] for key, value in fields.items()}


def test_the_resources_of_the_chosen_profile_count_and_the_others_do_not() -> None:
    form = {
        **posted(profile="pytorch"),
        **of_profile("cpu", gpus="0", memory_gib="4", cpus="2", hours="1"),
        **of_profile("pytorch", gpus="3", memory_gib="64", cpus="16", hours="4", gpu_model=""),
    }
    assert choice_from_form(form) == {
        "profile": "pytorch",
        "gpus": 3,
        "memory_gib": 64,
        "cpus": 16,
        "hours": 4,
    }


def test_who_pays_is_one_field_for_all_profiles_and_empty_means_oneself() -> None:
    assert choice_from_form(posted(profile="cpu", account="vision-lab"))["account"] == "vision-lab"
    assert choice_from_form(posted(profile="cpu", account="")) == {"profile": "cpu"}


def test_ticked_datasets_come_with_their_version_and_mode_and_others_do_not() -> None:
    form = {
        **posted(profile="cpu"),
        "datasets": ["", "ann/cars", "lab/words", "ann/new"],
        "version@ann/cars": ["3"],
        "mode@ann/cars": ["stream"],
        "version@lab/words": ["latest"],
        "mode@lab/words": [""],
        "version@ann/not-ticked": ["1"],
    }
    assert choice_from_form(form)["datasets"] == [
        {"name": "ann/cars", "version": 3, "mode": "stream"},
        {"name": "lab/words", "version": "latest"},
        "ann/new",
    ]


def test_a_form_in_which_no_dataset_is_ticked_says_so() -> None:
    assert choice_from_form({"datasets": [""]}) == {"datasets": []}


def test_a_link_may_name_datasets_with_their_versions() -> None:
    link = {"datasets": ["ann/cars@3,lab/words", " a@lab.example/x "]}
    assert choice_from_form(link)["datasets"] == ["ann/cars@3", "lab/words", "a@lab.example/x"]


def test_plain_names_work_too() -> None:
    form = posted(profile="pytorch", gpus="2", memory_gib="16", gpu_model="NVIDIA RTX A5000")
    assert choice_from_form(form) == {
        "profile": "pytorch",
        "gpus": 2,
        "memory_gib": 16,
        "gpu_model": "NVIDIA RTX A5000",
    }


def test_what_was_not_sent_is_not_in_the_choice() -> None:
    assert choice_from_form({}) == {}
    assert choice_from_form(posted(profile="cpu")) == {"profile": "cpu"}


def test_the_xsrf_token_is_no_field() -> None:
    assert choice_from_form(posted(profile="cpu", _xsrf="secret")) == {"profile": "cpu"}


def test_fractions_of_a_core_are_numbers() -> None:
    assert choice_from_form(posted(cpus="0.5"))["cpus"] == 0.5


def test_the_list_of_models_does_not_matter_when_no_gpu_is_asked_for() -> None:
    form = {
        **posted(profile="pytorch"),
        **of_profile("pytorch", gpus="0", gpu_model="NVIDIA RTX A5000"),
    }
    assert "gpu_model" not in choice_from_form(form)


@pytest.mark.parametrize(
    "text", ["", "NaN", "inf", "1e3", "two", "0x2", "2,5", "２", "9" * 5000, "1.", "--1", "1 2"]
)
def test_text_that_is_no_number_is_passed_on_so_that_validation_names_the_field(text: str) -> None:
    choice = choice_from_form(posted(profile="pytorch", gpus=text))
    assert choice["gpus"] == text
    with pytest.raises(InvalidChoice) as refusal:
        validate(choice, PROFILES, groups=set())
    assert refusal.value.field == "gpus"


@pytest.mark.parametrize("text", ["-1", "5", "+7", "123456789012"])
def test_numbers_that_are_not_offered_are_still_numbers(text: str) -> None:
    choice = choice_from_form(posted(profile="pytorch", gpus=text))
    assert choice["gpus"] == int(text)
    with pytest.raises(InvalidChoice, match="not offered"):
        validate(choice, PROFILES, groups=set())


def test_a_field_sent_twice_is_passed_on_as_a_list() -> None:
    choice = choice_from_form({"profile": ["pytorch"], "pytorch.gpus": ["1", "2"]})
    assert choice["gpus"] == ["1", "2"]
    with pytest.raises(InvalidChoice) as refusal:
        validate(choice, PROFILES, groups=set())
    assert refusal.value.field == "gpus"


def test_an_unknown_field_is_passed_on_so_that_validation_refuses_it() -> None:
    choice = choice_from_form(posted(profile="cpu", privileged="true"))
    assert choice["privileged"] == "true"
    with pytest.raises(InvalidChoice, match="privileged"):
        validate(choice, PROFILES, groups=set())


def test_two_profiles_at_once_are_refused() -> None:
    choice = choice_from_form({"profile": ["cpu", "pytorch"]})
    with pytest.raises(InvalidChoice) as refusal:
        validate(choice, PROFILES, groups=set())
    assert refusal.value.field == "profile"


def test_an_empty_image_means_the_profiles_own() -> None:
    form = {**posted(profile="own-image"), **of_profile("own-image", image="  ")}
    assert "image" not in choice_from_form(form)
    form["own-image.image"] = [" lab/mine:1 "]
    assert choice_from_form(form)["image"] == "lab/mine:1"
