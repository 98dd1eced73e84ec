"""Profiles: every mistake with its file and line, and a running hub that survives a broken edit."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.profiles import Profile, ProfileBook, load_profiles

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
title: CPU only
description: Small servers.
icon: cpu
image: lab/base:1
order: 10
gpus: {choices: [0, 1], default: 0}
memory_gib:
  choices: [0.5, 1, 2]
  default: 1
cpus: {choices: [1], default: 1}
hours: {default: 2, most: 24}
groups: [staff]
environment:
  OMP: "4"
"""


def write(folder: Path, name: str = "cpu.yaml", text: str = GOOD) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def problems(folder: Path) -> list[str]:
    """What is wrong with a folder, one mistake a line, without the folder's name."""
    with pytest.raises(ConfigurationError) as error:
        load_profiles(folder)
    return str(error.value).replace(f"{folder}/", "").splitlines()


def mistake(folder: Path, text: str) -> str:
    """The one mistake of one file."""
    write(folder, text=text)
    (found,) = problems(folder)
    return found


# ---------------------------------------------------------------------------- good ones


def test_the_shipped_profiles_are_valid_and_in_the_order_of_the_page() -> None:
    assert list(load_profiles(ROOT / "profiles")) == [
        "cpu",
        "pytorch",
        "tensorflow",
        "multi-gpu",
        "own-image",
    ]


def test_a_profile_is_named_by_its_file_unless_it_names_itself(tmp_path: Path) -> None:
    write(tmp_path, "small.yaml")
    write(tmp_path, "other.yaml", GOOD + "name: big\n")
    assert set(load_profiles(tmp_path)) == {"small", "big"}


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    write(
        tmp_path,
        text="title: T\nimage: i\nmemory_gib: {choices: [1], default: 1}\n"
        "cpus: {choices: [1], default: 1}\n",
    )
    profile = load_profiles(tmp_path)["cpu"]
    assert profile.gpus.choices == (0,)
    assert (profile.hours.default, profile.hours.most) == (4, 24)
    assert profile.groups == () and profile.allows(set())
    assert profile.image_pattern is None


def test_a_set_of_profiles_cannot_be_changed_by_whoever_reads_it(tmp_path: Path) -> None:
    write(tmp_path)
    profiles = load_profiles(tmp_path)
    with pytest.raises(TypeError):
        profiles["x"] = profiles["cpu"]  # type: ignore[index]
    with pytest.raises(ValidationError):
        profiles["cpu"].title = "x"
    with pytest.raises(TypeError):
        profiles["cpu"].environment["A"] = "b"  # type: ignore[index]


def test_anchors_may_save_typing(tmp_path: Path) -> None:
    text = changed("memory_gib:\n  choices: [0.5, 1, 2]\n  default: 1\n", "")
    text = text.replace("cpus: {", "cpus: &one {") + "memory_gib: *one\n"
    write(tmp_path, text=text)
    assert load_profiles(tmp_path)["cpu"].memory_gib.choices == (1,)


@pytest.mark.parametrize(
    ("groups", "admin", "allowed"),
    [(set(), False, False), ({"staff"}, False, True), ({"x"}, False, False), (set(), True, True)],
)
def test_a_profile_with_groups_is_for_their_members_and_administrators(
    tmp_path: Path, groups: set[str], admin: bool, allowed: bool
) -> None:
    write(tmp_path)
    assert load_profiles(tmp_path)["cpu"].allows(groups, admin=admin) == allowed


# ---------------------------------------------------------------------------- file and line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: CPU only", "titel: CPU only", "cpu.yaml:1: titel: Extra inputs are not permitted"),
        ("icon: cpu", "icon: rocket", "cpu.yaml:3: icon: Input should be 'cpu'"),
        ("image: lab/base:1", "image:", "cpu.yaml:4: image: Input should be a valid string"),
        ("image: lab/base:1", "image: ''", "cpu.yaml:4: image: String should have at least 1"),
        ("order: 10", "order: first", "cpu.yaml:5: order: Input should be a valid integer"),
        ("order: 10", "order: true", "cpu.yaml:5: order: Input should be a valid integer"),
        ("[0, 1]", "[0, 5]", "cpu.yaml:6: gpus.choices.1: Input should be less than or equal to 4"),
        ("[0, 1]", "[-1]", "cpu.yaml:6: gpus.choices.0: Input should be greater than or equal"),
        ("[0, 1]", "['0']", "cpu.yaml:6: gpus.choices.0: Input should be a valid integer"),
        ("[0, 1]", "[0.0]", "cpu.yaml:6: gpus.choices.0: Input should be a valid integer"),
        ("[0, 1]", "[true]", "cpu.yaml:6: gpus.choices.0: Input should be a valid integer"),
        ("[0, 1]", "[1]", "cpu.yaml:6: gpus: Value error, default 0 is not among choices [1]"),
        ("[0, 1]", "0", "cpu.yaml:6: gpus.choices: Input should be a valid tuple"),
        ("[0.5, 1, 2]", "[0.5, 1, two]", "cpu.yaml:8: memory_gib.choices.2: Input should be a"),
        ("[0.5, 1, 2]", "[0.5, '1']", "cpu.yaml:8: memory_gib.choices.1: Input should be a valid"),
        ("[0.5, 1, 2]", "[.nan]", "cpu.yaml:8: memory_gib.choices.0: Input should be a finite"),
        ("[0.5, 1, 2]", "[.inf]", "cpu.yaml:8: memory_gib.choices.0: Input should be a finite"),
        ("[0.5, 1, 2]", "[0]", "cpu.yaml:8: memory_gib.choices.0: Input should be greater than"),
        ("[0.5, 1, 2]", "[1, 0.001]", "cpu.yaml:8: memory_gib.choices.1: Input should be greater"),
        ("[0.5, 1, 2]", "[]", "cpu.yaml:8: memory_gib.choices: Tuple should have at least 1 item"),
        ("  default: 1\n", "  default: 7\n", "cpu.yaml:7: memory_gib: Value error, default 7 is"),
        ("  default: 1\n", "", "cpu.yaml:7: memory_gib.default: Field required"),
        ("default: 2, most: 24", "default: 9, most: 8", "cpu.yaml:11: hours: Value error, default"),
        ("default: 2, most: 24", "most: 1.5", "cpu.yaml:11: hours.most: Input should be a valid"),
        ("groups: [staff]", "groups: staff", "cpu.yaml:12: groups: Input should be a valid tuple"),
        ("groups: [staff]", "groups: [1]", "cpu.yaml:12: groups.0: Input should be a valid string"),
        ('OMP: "4"', "OMP: 4", "cpu.yaml:14: environment.OMP: Input should be a valid string"),
        ('OMP: "4"', "OMP: on", "cpu.yaml:14: environment.OMP: Input should be a valid string"),
        ('OMP: "4"', 'O-MP: "4"', "cpu.yaml:13: environment: Value error, 'O-MP' is no name of"),
        ('OMP: "4"', '4: "4"', "cpu.yaml:14: environment.4.[key]: Input should be a valid string"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    write(tmp_path, text=changed(old, new))
    found = problems(tmp_path)
    assert any(line.startswith(words) for line in found), found


def test_a_key_that_is_missing_is_told(tmp_path: Path) -> None:
    assert mistake(tmp_path, changed("image: lab/base:1\n", "")) == (
        "cpu.yaml:1: image: Field required"
    )


def test_every_mistake_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    text = (
        changed("icon: cpu", "icon: rocket").replace("[0, 1]", "[0, 9]").replace("most: 24", "x: 1")
    )
    write(tmp_path, "a.yaml", text)
    write(tmp_path, "b.yaml", "title: [")
    write(tmp_path, "c.yaml")
    found = [line.split(": ")[0] for line in problems(tmp_path)]
    assert found == ["a.yaml:3", "a.yaml:6", "a.yaml:11", "b.yaml:1"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("JUPYTERHUB_API_TOKEN", "is set by the platform"),
        ("JPY_API_TOKEN", "is set by the platform"),
        ("NVIDIA_VISIBLE_DEVICES", "is set by the platform"),
        ("CUDA_VISIBLE_DEVICES", "is set by the platform"),
        ("DCLOUD_WORKLOAD", "is set by the platform"),
        ("MEM_LIMIT", "is set by the platform"),
        ("CPU_LIMIT", "is set by the platform"),
        ("LD_PRELOAD", "is set by the platform"),
        ("A B", "is no name of an environment variable"),
        ("1A", "is no name of an environment variable"),
        ("A=B", "is no name of an environment variable"),
        ("", "is no name of an environment variable"),
        ("Ä", "is no name of an environment variable"),
        ('"A\\n"', "is no name of an environment variable"),
    ],
)
def test_environment_that_is_not_the_administrators_is_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    key = name if name.startswith('"') else f'"{name}"'
    found = mistake(tmp_path, changed('OMP: "4"', f'{key}: "x"'))
    assert found.startswith("cpu.yaml:13: environment: Value error,")
    assert words in found


def test_environment_of_the_administrators_own_is_fine(tmp_path: Path) -> None:
    write(tmp_path, text=changed('OMP: "4"', 'NCCL_DEBUG: "INFO"\n  LD_LIBRARY_PATH: "/opt"'))
    assert load_profiles(tmp_path)["cpu"].environment["NCCL_DEBUG"] == "INFO"


def test_a_value_no_environment_can_hold_is_refused(tmp_path: Path) -> None:
    assert "OMP holds a NUL" in mistake(tmp_path, changed('OMP: "4"', 'OMP: "4\\0"'))


@pytest.mark.parametrize("pattern", ["(", "[a-", "a{2,1}", "(?P<x"])
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, pattern: str) -> None:
    found = mistake(tmp_path, f"{GOOD}image_pattern: '{pattern}'\n")
    assert found.startswith("cpu.yaml:15: image_pattern: Value error, not a regular expression")


@pytest.mark.parametrize("name", ["CPU", "a_b", "-a", "a" * 64, "'a b'", "'a\n\n  b'", "ä"])
def test_a_name_that_cannot_be_in_an_address_is_refused(tmp_path: Path, name: str) -> None:
    found = mistake(tmp_path, f"{GOOD}name: {name}\n")
    assert found.startswith("cpu.yaml:15: name: String should match pattern")


# ---------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cpu.yaml:1: a profile is a mapping of keys to values"),
        ("# nothing\n", "cpu.yaml:1: a profile is a mapping of keys to values"),
        ("- title: x\n", "cpu.yaml:1: a profile is a mapping of keys to values"),
        ("just words", "cpu.yaml:1: a profile is a mapping of keys to values"),
        ("title: x\n\ticon: cpu\n", "cpu.yaml:2: found character '\\t' that cannot start"),
        ("title: x\ngpus: {choices: [0\n", "cpu.yaml:3: expected ',' or ']'"),
        ("title: x\n  icon: cpu\n", "cpu.yaml:2: mapping values are not allowed here"),
        ("title: 'x\n", "cpu.yaml:2: found unexpected end of stream"),
        ("title: *t\n", "cpu.yaml:1: found undefined alias 't'"),
        ("title: x\n---\ntitle: y\n", "cpu.yaml:2: but found another document"),
        ("title: !!python/object/apply:os.system [id]\n", "cpu.yaml:1: could not determine"),
        ("title: !secret x\n", "cpu.yaml:1: could not determine a constructor"),
        ("{[1]: 2}\n", "cpu.yaml:1: found unhashable key"),
        ("title: x\nicon: \x07\n", "cpu.yaml:2: a character that YAML does not take"),
        ("title: 2026-13-45\n", "cpu.yaml:1: month must be in 1..12"),
        ("order: " + "9" * 5000, "cpu.yaml:1: Exceeds the limit"),
        ("a: " + "[" * 5000, "cpu.yaml:1: nested too deeply"),
        ("title: x\nicon: cpu\ntitle: y\n", "cpu.yaml:3: title: given twice"),
        ("gpus:\n  default: 0\n  default: 1\n", "cpu.yaml:3: default: given twice"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    found = mistake(tmp_path, text)
    assert found.startswith(words), found


def test_a_file_that_contains_itself_is_refused_and_not_followed_for_ever(tmp_path: Path) -> None:
    write(tmp_path, text="title: x\ngpus: &a\n  choices: *a\n")
    assert any("cpu.yaml:3" in line for line in problems(tmp_path))


def test_a_bomb_of_anchors_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]")
    write(tmp_path, text="\n".join(lines) + "\ntitle: *i\n")
    assert any("Extra inputs" in line for line in problems(tmp_path))


def test_a_file_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_bytes(GOOD.replace("Small", "Kleine für").encode("latin-1"))
    assert problems(tmp_path) == ["cpu.yaml:2: not UTF-8"]


def test_a_file_that_is_no_file_is_told(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "missing")
    assert problems(tmp_path) == [
        "folder.yaml:1: Is a directory",
        "nowhere.yaml:1: No such file or directory",
    ]


def test_an_editors_hidden_files_are_no_profiles(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / ".#cpu.yaml").symlink_to("somebody@host.123")
    write(tmp_path, ".draft.yaml", "title: [")
    write(tmp_path, "notes.txt", "title: [")
    assert set(load_profiles(tmp_path)) == {"cpu"}


def test_two_files_with_one_name_are_told_with_the_line_and_the_other_file(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", GOOD + "name: b\n")
    write(tmp_path, "b.yaml")
    write(tmp_path, "c.yaml", GOOD + "name: b\n")
    assert problems(tmp_path) == [
        "b.yaml:1: name: 'b' is also that of a.yaml",
        "c.yaml:15: name: 'b' is also that of a.yaml",
    ]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_profiles_is_told(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "missing"
    with pytest.raises(ConfigurationError, match="there must be at least one"):
        load_profiles(folder)


# ---------------------------------------------------------------------------- while a hub runs


@pytest.fixture
def book(tmp_path: Path) -> ProfileBook:
    write(tmp_path, "cpu.yaml")
    write(tmp_path, "gpu.yaml", changed("title: CPU only", "title: GPU"))
    return ProfileBook(tmp_path)


def test_a_book_that_is_wrong_at_boot_is_no_book(tmp_path: Path) -> None:
    write(tmp_path, text="title: [")
    with pytest.raises(ConfigurationError, match=r"cpu\.yaml:1"):
        ProfileBook(tmp_path)


def test_an_edit_is_in_force_without_a_restart(book: ProfileBook, tmp_path: Path) -> None:
    assert book.current()["cpu"].title == "CPU only"
    write(tmp_path, text=changed("title: CPU only", "title: Only CPU"))
    assert book.current()["cpu"].title == "Only CPU"
    assert book.problem == ""


def test_nothing_is_read_again_while_nothing_changes(book: ProfileBook) -> None:
    assert book.current() is book.current()


def test_a_broken_edit_keeps_the_last_good_set_and_says_what_is_wrong(
    book: ProfileBook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, text=changed("[0, 1]", "[0, 7]"))
    for _ in range(2):
        assert book.current()["cpu"].gpus.choices == (0, 1)
        assert "cpu.yaml:6: gpus.choices.1" in book.problem
    assert caplog.text.count("cpu.yaml:6: gpus.choices.1") == 1  # in the log too, once


def test_a_good_edit_beside_a_broken_file_waits_for_it(book: ProfileBook, tmp_path: Path) -> None:
    write(tmp_path, "gpu.yaml", "title: [")
    write(tmp_path, text=changed("title: CPU only", "title: Only CPU"))
    assert book.current()["cpu"].title == "CPU only"
    assert "gpu.yaml" in book.problem and "cpu.yaml" not in book.problem
    (tmp_path / "gpu.yaml").unlink()
    assert book.current()["cpu"].title == "Only CPU"


def test_a_repaired_edit_is_in_force_and_the_complaint_is_gone(
    book: ProfileBook, tmp_path: Path
) -> None:
    write(tmp_path, text="title: [")
    book.current()
    assert book.problem
    write(tmp_path, text=changed("title: CPU only", "title: Repaired"))
    assert book.current()["cpu"].title == "Repaired"
    assert book.problem == ""


def test_a_deleted_file_takes_its_profile_away(book: ProfileBook, tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").unlink()
    assert set(book.current()) == {"cpu"}
    assert book.problem == ""


def test_a_new_file_brings_its_profile(book: ProfileBook, tmp_path: Path) -> None:
    write(tmp_path, "new.yaml")
    assert set(book.current()) == {"cpu", "gpu", "new"}


@pytest.mark.parametrize("how", ["files", "folder"])
def test_a_folder_that_is_emptied_keeps_the_last_good_set(
    book: ProfileBook, tmp_path: Path, how: str
) -> None:
    if how == "folder":
        shutil.rmtree(tmp_path)
    else:
        for path in tmp_path.glob("*.yaml"):
            path.unlink()
    assert set(book.current()) == {"cpu", "gpu"}
    assert "no profile" in book.problem


def test_a_file_that_is_put_in_place_with_an_old_date_is_noticed(
    book: ProfileBook, tmp_path: Path
) -> None:
    """As rsync -t, cp -p and restored backups do it: same size, same date, other contents."""
    book.current()
    old = (tmp_path / "cpu.yaml").stat()
    fresh = write(tmp_path, "draft", changed("title: CPU only", "title: CPU ONLY"))
    os.utime(fresh, ns=(old.st_atime_ns, old.st_mtime_ns))
    fresh.replace(tmp_path / "cpu.yaml")
    assert book.current()["cpu"].title == "CPU ONLY"


def test_a_file_that_may_be_read_again_is_read_again(book: ProfileBook, tmp_path: Path) -> None:
    """A file without permission looks like this to a hub that is not root."""
    path = tmp_path / "cpu.yaml"
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "nowhere")
    book.current()
    assert "cpu.yaml:1" in book.problem
    path.unlink()
    (tmp_path / "away").rename(path)
    assert book.current()["cpu"].title == "CPU only"
    assert book.problem == ""


def test_many_readers_during_an_edit_see_the_old_or_the_new_set_and_nothing_else(
    book: ProfileBook, tmp_path: Path
) -> None:
    seen: set[str] = set()
    failed: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                seen.add(book.current()["cpu"].title)
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(5):
        draft = write(tmp_path, "draft", changed("title: CPU only", f"title: Edit {number}"))
        draft.replace(tmp_path / "cpu.yaml")
        write(tmp_path, "gpu.yaml", "title: [" if number % 2 else GOOD)
    done.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert seen <= {"CPU only", *(f"Edit {number}" for number in range(5))}


def test_a_profile_as_json_can_be_read_again() -> None:
    profile = load_profiles(ROOT / "profiles")["own-image"]
    assert Profile.model_validate_json(profile.model_dump_json()) == profile
