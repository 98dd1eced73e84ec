"""How long GPUs lie idle between one who gives them back and the next. The figure itself is the
bench's (``make bench ARGS=handover``); here it may take three times as long, on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.handover import LIMIT_SECONDS, handovers
from tests.docker.people import People

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]


@pytest.fixture(scope="module")
def profiles_dir(quick_profiles: Path) -> Path:
    return quick_profiles


@pytest.mark.timeout(300)
def test_the_next_one_is_launched_soon_after_a_release(people: People) -> None:
    gaps = sorted(handovers(people, 12))
    assert len(gaps) == 12
    assert gaps[10] <= 3 * LIMIT_SECONDS, gaps
