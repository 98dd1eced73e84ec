"""Why a server ended, in the words of the pages."""

from __future__ import annotations

import pytest

from dcloud_spawner.form.ends import end_of
from dcloud_spawner.live.pool import TOLD

VIEW = {
    "server": "",
    "at": "2026-11-21T14:03:00+00:00",
    "detail": "",
    "memory_gib": 16.0,
    "hours": 4,
    "exit_code": 137,
}


@pytest.mark.parametrize("reason", TOLD)
def test_every_reason_that_is_told_has_a_sentence(reason: str) -> None:
    end = end_of({**VIEW, "reason": reason})
    assert end.sentence and end.at is not None


def test_a_server_that_ran_out_of_memory_says_how_much_it_had() -> None:
    end = end_of({**VIEW, "reason": "out of memory"})
    assert "16 GiB of memory" in end.sentence


def test_a_limit_is_told_in_singular_and_plural() -> None:
    assert "the 4 hours" in end_of({**VIEW, "reason": "time limit"}).sentence
    assert "the 1 hour " in end_of({**VIEW, "reason": "time limit", "hours": 1}).sentence


def test_a_failed_start_gives_its_own_reason() -> None:
    end = end_of({**VIEW, "server": "sweep", "reason": "failed", "detail": "Docker refused: no."})
    assert end.title == "Server “sweep”"
    assert end.sentence.endswith("Docker refused: no.")
