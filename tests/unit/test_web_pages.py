"""The pages of the web service as values: what goes into them for whom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dcloud_spawner import accounting, drains, granting, queueing, reservations
from dcloud_spawner.ledger.rates import MICRO, Resource
from dcloud_spawner.live.pool import read_pool
from dcloud_spawner.platform import Platform
from dcloud_spawner.scheduler.band import Band, Free
from dcloud_spawner.scheduler.reasons import of_somebody
from dcloud_spawner.store.events import Actor
from dcloud_spawner.store.reservations import NewReservation
from hub_services.web.api.views import queue_row_view, workload_view
from hub_services.web.board import Board, read_board
from hub_services.web.pages.chart import HEIGHT, WIDTH, step_chart, steps_of
from hub_services.web.pages.gpus import NODES_SHOWN, gpus_page
from hub_services.web.pages.queue import SHOWN, queue_page
from hub_services.web.pages.reservations import reservations_page
from hub_services.web.viewer import Viewer, viewer_of
from tests import platforms
from tests.memory_engine import MemoryEngine, node

BOSS = Viewer("boss", administrator=True)
ALICE = Viewer("alice")
STRANGER = Viewer("stranger")


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    """Four GPUs, all held by one server."""
    settings = platforms.settings_for(database_url, tmp_path)
    with platforms.opened(settings, MemoryEngine(node(gib=1000, cores=200))) as opened:
        platforms.start(opened, "holder", 4, hours=2)
        yield opened


def board_of(platform: Platform, band: Band | None = None) -> Board:
    return read_board(platform, read_pool(platform), band)


def band(**values: tuple[int, ...]) -> Band:
    """A band of one model with these lists."""
    count = len(next(iter(values.values())))
    free = Free(**{"total": 4, **values})  # type: ignore[arg-type]
    return Band(tuple(1_800_000_000 + 900.0 * n for n in range(count)), {"A100": free})


# ---------------------------------------------------------------------------- the chart


def test_equal_neighbours_of_a_forecast_are_one_step() -> None:
    steps = steps_of(band(low=(0, 0, 0, 1), median=(0, 0, 2, 2), high=(1, 0, 4, 4)), 0)
    assert [(step.low, step.median, step.high) for step in steps] == [
        (0, 0, 0),
        (0, 2, 4),
        (1, 2, 4),
    ]
    assert steps[0].at == datetime.fromtimestamp(1_800_000_000, UTC)


def test_now_is_what_is_free_now_and_no_forecast() -> None:
    assert steps_of(band(low=(0, 0), median=(0, 0), high=(0, 0)), 3)[0].low == 3


def test_models_are_added_up_in_the_chart() -> None:
    one = Free((1, 0), (1, 1), (2, 2), 4)
    chart = step_chart(Band((0.0, 900.0), {"A100": one, "A5000": one}), 3)
    assert chart.total == 8
    assert [(step.low, step.median, step.high) for step in chart.steps] == [(3, 3, 3), (0, 2, 4)]
    assert "0 to 4 of the 8 GPUs" in chart.words


def test_the_chart_stays_inside_its_frame() -> None:
    chart = step_chart(band(low=(0, 4), median=(2, 4), high=(4, 4)), 4)
    for path in (chart.low_area, chart.band, chart.median_line):
        points = [point.split() for point in path.strip("MZ").split("L")]
        assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points)
    assert chart.labels == (4, 2, 0)


def test_a_label_between_stands_where_its_value_is() -> None:
    chart = step_chart(Band((0.0, 900.0), {"A100": Free((0, 1), (2, 3), (3, 3), 3)}), 3)
    assert chart.labels == (3, 0)  # the page spreads them evenly over the height


def test_only_who_waits_is_told_you() -> None:
    said = (
        "You asked for 2 GPUs and none is free.",
        "2 requests are ahead of you.",
        "Your limit is 2 GPUs, and your default server uses 2.",
        "Your account has 0.00 credits left.",
    )
    assert [of_somebody(reason) for reason in said] == [
        "Asked for 2 GPUs and none is free.",
        "2 requests are ahead.",
        "Their limit is 2 GPUs, and their default server uses 2.",
        "Their account has 0.00 credits left.",
    ]


# ---------------------------------------------------------------------------- for whom


def test_a_stranger_is_shown_sizes_and_due_times_only(platform: Platform) -> None:
    found = platforms.submit(platform, "alice", 2, server="sweep")
    platform.run_pass()
    queueing.hold(platform, found.id, "a secret reason", Actor("boss"))
    page = queue_page(board_of(platform), STRANGER)
    text = str(page)
    for word in ("alice", "sweep", "a secret reason", "holder", found.id, "local"):
        assert word not in text
    assert page.waiting[0].size == "2 GPUs"
    assert page.waiting[0].due_at == platforms.get(platform, found.id).due_at


def test_the_owner_and_the_administrator_are_shown_why(platform: Platform) -> None:
    found = platforms.submit(platform, "alice", 2)
    platform.run_pass()
    queueing.hold(platform, found.id, "the class comes first", Actor("boss"))
    board = board_of(platform)
    own, all_of_it = queue_page(board, ALICE).waiting[0], queue_page(board, BOSS).waiting[0]
    assert (own.who, own.note) == ("You", "On hold: the class comes first")
    assert (all_of_it.who, all_of_it.note) == ("alice", "On hold by boss: the class comes first")


def test_a_blocked_request_has_a_reason_for_its_owner_and_no_place(platform: Platform) -> None:
    boss = Actor("boss")
    accounting.change_rate(platform, Resource.CPU_CORE, MICRO, boss)
    project = accounting.create_project(platform, "lab", ["alice"], boss)
    granting.grant(platform, project.id, 3 * MICRO, boss, reason="for the class")
    platforms.start(platform, "alice", 0, account="lab", server="notes")
    found = platforms.submit(platform, "alice", 2, account="lab")
    board = board_of(platform)
    own, strangers = queue_page(board, ALICE), queue_page(board, STRANGER)
    row = own.waiting[0]
    assert platforms.get(platform, found.id).blocked == "budget"
    assert (row.place, row.blocked, row.on_hold, row.expected_from) == (None, True, False, None)
    assert row.reasons[0].startswith("lab has 2.00 credits left beside what")
    assert own.news == "Your request may not start yet."
    assert strangers.waiting[0].blocked and not strangers.waiting[0].reasons
    view = workload_view(platforms.get(platform, found.id), board.state)
    assert (view.blocked, view.place) == ("budget", None)
    assert view.blocked_reason.startswith(view.reasons[0])
    assert queue_row_view(None, platforms.get(platform, found.id), board.state, ALICE).state == (
        "blocked"
    )


def test_ones_own_request_is_listed_however_far_behind(platform: Platform) -> None:
    for number in range(SHOWN + 3):
        platforms.submit(platform, f"user-{number}", 1, hours=1)
    platforms.submit(platform, "alice", 4, hours=24)
    board = board_of(platform)
    mine, others = queue_page(board, ALICE), queue_page(board, STRANGER)
    assert len(mine.waiting) == SHOWN + 1 and mine.waiting[-1].mine
    assert (mine.hidden, others.hidden) == (3, 4)
    assert mine.tab == f"Place {SHOWN + 4}, queue"


def test_viewers_with_nothing_of_their_own_share_one_drawing(platform: Platform) -> None:
    platforms.submit(platform, "alice", 1)
    start = datetime.now(UTC) + timedelta(days=2)
    booked = NewReservation("Class", start, start + timedelta(hours=1), 1, users=("carol",))
    reservations.reserve(platform, booked, Actor("boss"))
    board = board_of(platform)
    shared = board.stake(STRANGER)
    assert board.stake(Viewer("another")) == shared
    assert board.stake(Viewer("alice", person=False)) == shared
    personal = {board.stake(ALICE), board.stake(BOSS), board.stake(Viewer("carol"))}
    assert len(personal) == 3 and shared not in personal


def test_a_reservation_has_a_name_only_for_those_whom_it_concerns(platform: Platform) -> None:
    start = datetime.now(UTC) + timedelta(days=2)
    booked = NewReservation(
        "Secret class", start, start + timedelta(hours=1), 1, users=("carol",), groups=("course",)
    )
    reservations.reserve(platform, booked, Actor("boss"))
    board = board_of(platform)
    member = Viewer("dave", groups=frozenset({"course"}))
    for viewer, named in ((STRANGER, False), (member, True), (BOSS, True)):
        row = reservations_page(board, viewer).coming[0]
        assert (row.title == "Secret class") is named
        assert bool(row.whom) is named
    assert reservations_page(board, member).coming[0].yours


def test_the_question_before_a_drain_names_who_runs_there(platform: Platform) -> None:
    page = gpus_page(board_of(platform), BOSS)
    assert page.nodes[0].runs.startswith("Runs there: holder (4 GPUs, at most until ")
    assert [tile.state for tile in page.nodes[0].tiles] == ["busy"] * 4


# ---------------------------------------------------------------------------- who asks


@pytest.mark.parametrize(
    ("model", "administrator"),
    [
        ({"admin": True, "scopes": ["admin-ui"]}, True),
        ({"admin": True, "scopes": []}, False),
        ({"admin": False, "scopes": ["admin-ui"]}, False),
        ({"scopes": ["admin-ui"]}, False),
    ],
)
def test_an_administrator_needs_the_right_and_a_token_that_carries_it(
    model: dict[str, object], administrator: bool
) -> None:
    assert viewer_of({"name": "x", **model}).administrator is administrator


def test_of_many_nodes_those_with_trouble_come_first(database_url: str, tmp_path: Path) -> None:
    settings = platforms.settings_for(database_url, tmp_path)
    nodes = [node(1, name=f"n{number:03}") for number in range(NODES_SHOWN + 6)]
    with platforms.opened(settings, MemoryEngine(*nodes)) as opened:
        drains.drain_node(opened, nodes[-1].name, "memory test", Actor("boss"))
        page = gpus_page(board_of(opened), BOSS)
    assert page.nodes[0].name == nodes[-1].name
    assert (len(page.nodes), page.hidden, page.total) == (NODES_SHOWN, 6, NODES_SHOWN + 6)
