"""A manifest is one text for the same files, whatever their order."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from dcloud_spawner.datasets.manifest import Entry, digest, lines, parse

FILES = [
    Entry("b.csv", 2, "b" * 64),
    Entry("a/ä.png", 1, "a" * 64),
    Entry("a b.csv", 0, "c" * 64),
    Entry('q"uote\u00a0.txt', 9, "d" * 64),
]


def test_the_same_files_have_the_same_manifest_in_any_order() -> None:
    shuffled = random.Random(1).sample(FILES, len(FILES))
    text = b"".join(lines(shuffled))
    assert text == b"".join(lines(FILES))
    assert digest(FILES) == hashlib.sha256(text).hexdigest()


def test_it_is_json_and_reads_back() -> None:
    text = b"".join(lines(FILES))
    assert [row["path"] for row in json.loads(text)] == [
        "a b.csv",
        "a/ä.png",
        "b.csv",
        'q"uote\u00a0.txt',
    ]
    assert set(parse(text)) == set(FILES)
    assert json.loads(b"".join(lines([]))) == []


@pytest.mark.parametrize("changed", [("b.csv", 3, "b"), ("b.csv", 2, "e"), ("c.csv", 2, "b")])
def test_any_change_of_a_file_changes_the_digest(changed: tuple[str, int, str]) -> None:
    path, size, letter = changed
    assert digest([*FILES[1:], Entry(path, size, letter * 64)]) != digest(FILES)


@pytest.mark.parametrize("text", [b"{}", b"[1]", b'[{"path":"a"}]', b"no"])
def test_what_is_no_manifest_is_not_read_as_one(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)
