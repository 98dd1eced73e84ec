"""The start page's form: what fits now, what waits, what cannot be, and the HTML of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcloud_spawner.form.fields import choice_from_form
from dcloud_spawner.form.fit import fit_amount, fit_gpus, reason
from dcloud_spawner.form.servers import PageWords
from dcloud_spawner.form.view import (
    ImageStatus,
    Offer,
    SpawnFormView,
    live_data,
    render_spawn_form,
)
from dcloud_spawner.form.waiting import waiting_page
from dcloud_spawner.form.words import length_words, size_words
from dcloud_spawner.live.availability import GIB, Availability, ModelAvailability, model_words
from dcloud_spawner.options import validate
from dcloud_spawner.profiles import Profile, load_profiles

NOW = datetime(2026, 11, 21, 13, 38, 4, tzinfo=UTC)
PROFILES = load_profiles(Path(__file__).parents[1] / "browser" / "profiles")
A100 = ModelAvailability("NVIDIA A100-SXM4-80GB", 80 * GIB, 8, 3, 0, 2, 4)
A5000 = ModelAvailability("NVIDIA RTX A5000", 24 * GIB, 4, 0, 2, 0)


def pool(*models: ModelAvailability, queue: int = 0) -> Availability:
    return Availability(models, 96, 128, 20, 64, queue, NOW, False, "docker")


def view(*models: ModelAvailability, queue: int = 0, **more: Any) -> SpawnFormView:
    offers = more.pop("offers", None) or tuple(
        Offer(profile, blocked="" if not profile.groups else "Only for the group trusted.")
        for profile in PROFILES.values()
    )
    return SpawnFormView("user-a", offers, pool(*models, queue=queue), **more)


class Form(HTMLParser):
    """What a browser without scripts would post, and what is disabled."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.posts: dict[str, list[str]] = {}
        self.disabled: set[tuple[str, str]] = set()
        self.ids: list[str] = []
        self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "select":
            self._select = name
        elif tag == "option" and "selected" in found:
            self.posts[self._select] = [value]
        elif tag == "input" and name and "disabled" in found:
            self.disabled.add((name, value))
        elif tag == "input" and name and (found.get("type") != "radio" or "checked" in found):
            self.posts[name] = [value]


# ---------------------------------------------------------------------------- what fits


def test_gpus_that_are_free_together_start_now() -> None:
    assert fit_gpus(2, [A100]).state == "now"
    assert fit_gpus(0, []).state == "now"


def test_gpus_that_are_free_but_apart_wait_and_say_so() -> None:
    fit = fit_gpus(3, [A100])
    assert (fit.state, fit.mark) == ("waits", "waits")
    assert "not together on one node" in fit.why


def test_gpus_that_are_taken_wait_and_say_how_many_are_out_of_service() -> None:
    fit = fit_gpus(2, [A5000])
    assert fit.state == "waits"
    assert reason({"2": fit}, "GPUs") == "2 GPUs wait: 2 of 4 are taken, 2 out of service."


def test_more_gpus_than_a_node_has_cannot_be_and_the_mark_says_why() -> None:
    fit = fit_gpus(4, [replace(A5000, largest_on_one_node=2)])
    assert (fit.state, fit.mark) == ("no", "this node type has 2")


def test_without_gpus_every_count_but_none_is_impossible() -> None:
    assert fit_gpus(1, []).state == "no"


@pytest.mark.parametrize(
    ("wanted", "state"), [(16, "now"), (96, "now"), (97, "waits"), (128, "waits"), (256, "no")]
)
def test_memory_is_judged_by_the_node_with_the_most(wanted: float, state: str) -> None:
    assert fit_amount(wanted, 96, 128).state == state


def test_choices_with_the_same_reason_share_a_sentence() -> None:
    fits = {f"{count}": fit_gpus(count, [A5000]) for count in (0, 1, 2)}
    assert reason(fits, "GPUs") == "1 and 2 GPUs wait: 2 of 4 are taken, 2 out of service."
    assert reason({"1": fit_gpus(1, [])}, "GPUs") == (
        "1 GPU is not possible: there are no such GPUs here."
    )


def test_what_is_shown_as_free_is_rounded_down() -> None:
    data: Any = live_data(
        replace(view(A100), availability=replace(pool(A100), memory_free_gib=21.999))
    )
    assert data["pool"]["memory"] == "21.9 GiB free"


def test_models_are_named_as_people_say_them() -> None:
    assert model_words("NVIDIA A100-SXM4-80GB") == "A100 SXM4 80 GB"
    assert A5000.label == "RTX A5000 24 GB"
    assert A100.label == "A100 SXM4 80 GB"


# ---------------------------------------------------------------------------- the form


def test_what_the_page_posts_untouched_is_a_valid_choice_of_the_chosen_profile() -> None:
    for profile in PROFILES.values():
        last = {"profile": profile.name}
        offers = tuple(Offer(found) for found in PROFILES.values())
        form = Form(render_spawn_form(view(A100, A5000, offers=offers, last_choice=last)))
        choice = validate(choice_from_form(form.posts), PROFILES, groups={"trusted"})
        assert choice.profile == profile.name


def test_the_last_choice_comes_back() -> None:
    last = {
        "profile": "pytorch",
        "gpus": 3,
        "gpu_model": A100.model,
        "memory_gib": 32,
        "cpus": 8,
        "hours": 7,
    }
    form = Form(render_spawn_form(view(A100, A5000, last_choice=last)))
    assert choice_from_form(form.posts) == last


def test_what_was_refused_comes_back_before_the_last_choice() -> None:
    entered = {"profile": "pytorch", "gpus": 1, "hours": "many"}
    form = Form(render_spawn_form(view(A100, entered=entered, last_choice={"profile": "cpu"})))
    assert form.posts["profile"] == ["pytorch"]
    assert form.posts["pytorch.hours"] == ["many"]


def test_a_last_choice_that_is_no_longer_offered_gives_way_to_the_default() -> None:
    last = {"profile": "pytorch", "gpus": 9, "gpu_model": "gone", "memory_gib": 5, "cpus": True}
    form = Form(render_spawn_form(view(A100, last_choice=last)))
    assert form.posts["pytorch.gpus"] == ["2"]
    assert form.posts["pytorch.memory_gib"] == ["64"]
    assert form.posts["pytorch.cpus"] == ["16"]


def test_what_no_node_has_is_disabled_with_its_reason_and_never_chosen() -> None:
    html = render_spawn_form(view(A100, last_choice={"profile": "pytorch", "memory_gib": 256}))
    form = Form(html)
    assert ("pytorch.memory_gib", "256") in form.disabled
    assert form.posts["pytorch.memory_gib"] == ["128"]
    assert "256 GiB are not possible: the largest node offers 128." in html


def test_a_profile_of_another_group_is_shown_closed_with_the_reason() -> None:
    html = render_spawn_form(view(A100))
    assert ("profile", "own-image") in Form(html).disabled
    assert "Only for the group trusted." in html


def test_a_profile_whose_image_failed_is_closed_and_one_being_prepared_shows_progress() -> None:
    offers = (
        Offer(PROFILES["pytorch"], ImageStatus("failed", 0, "No space left.")),
        Offer(PROFILES["tensorflow"], ImageStatus("preparing", 0.4, "step 3 of 7")),
        Offer(PROFILES["cpu"]),
    )
    html = render_spawn_form(view(A100, offers=offers))
    form = Form(html)
    assert ("profile", "pytorch") in form.disabled
    assert "No space left." in html
    assert "The image is being prepared, 40 %: step 3 of 7" in html
    assert form.posts["profile"] == ["cpu"], "a ready one is chosen first"


def test_the_page_without_gpus_offers_only_none() -> None:
    form = Form(render_spawn_form(view()))
    assert {name for name, value in form.disabled if name == "pytorch.gpus"} == {"pytorch.gpus"}
    assert form.posts["pytorch.gpus"] == ["0"]


def test_a_page_without_any_profile_says_what_to_do() -> None:
    html = render_spawn_form(SpawnFormView("user-a", (), pool(A100)))
    assert "No profile is offered yet" in html


def test_the_verdict_is_drawn_by_the_server() -> None:
    now = render_spawn_form(view(A100, last_choice={"profile": "pytorch", "gpus": 2}))
    assert "Starts now" in now
    waits = render_spawn_form(view(A100, queue=2, last_choice={"profile": "pytorch", "gpus": 3}))
    assert ">Joins the queue<" in waits
    assert "Join the queue" in waits


def test_text_of_others_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>"
    profile = PROFILES["cpu"].model_copy(update={"title": evil, "description": evil})
    html = render_spawn_form(
        view(replace(A100, model=evil), offers=(Offer(profile, blocked=evil),), error=evil)
    )
    assert evil not in html


def test_ids_are_unique() -> None:
    ids = Form(render_spawn_form(view(A100, A5000))).ids
    assert len(ids) == len(set(ids))


def test_live_data_is_what_the_page_carries() -> None:
    shown = view(A100, A5000, queue=1)
    html = render_spawn_form(shown)
    carried = re.search(r'id="dc-data">(.*?)</script>', html, re.S)
    assert carried
    assert json.loads(carried[1]) == json.loads(json.dumps(live_data(shown)))


def test_a_profile_that_names_its_models_offers_only_those_and_no_any() -> None:
    profile = Profile.model_validate(
        {**PROFILES["multi-gpu"].model_dump(), "gpu_models": (A100.model, A5000.model)}
    )
    data: Any = live_data(view(A100, A5000, offers=(Offer(profile),)))
    assert set(data["offers"]["multi-gpu"]["models"]) == {A100.model, A5000.model}


# ---------------------------------------------------------------------------- waiting and home


def iso(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


REQUEST = {
    "gpus": 3,
    "gpu_model": A100.model,
    "memory_gib": 64,
    "cpus": 16,
    "hours": 4,
    "profile": "pytorch",
    "title": "PyTorch",
}


def test_an_event_without_any_field_still_draws() -> None:
    for event in (None, {}, {"stage": "queue"}, {"stage": "new", "gpus": None, "log": "x"}):
        assert waiting_page(event, "", NOW).title


def test_the_queue_is_told_with_place_time_and_reasons() -> None:
    page = waiting_page(
        {
            "stage": "queue",
            "stages": {"queue": {"since": iso(-180), "until": None}},
            "place": 3,
            "queue_length": 4,
            "reasons": ["No node has 3 together."],
            "latest_start": iso(5000),
            "request": REQUEST,
        },
        "main",
        NOW,
    )
    assert page.title == "Waiting for 3 × A100 SXM4 80 GB"
    assert page.lede == "Server “main”, PyTorch, 64 GiB, 16 cores, 4 hours"
    assert (page.place, page.of, page.waited) == ("3", "of 4 in the queue", "3 min")
    assert page.tab == "Place 3"
    assert page.reasons == ("No node has 3 together.",)
    assert [step.state for step in page.steps if not step.hidden] == ["now", *["then"] * 4]


def test_a_start_tells_what_is_held_and_how_far_the_image_is() -> None:
    page = waiting_page(
        {
            "stage": "image",
            "progress": 30,
            "stages": {"queue": {"since": iso(-2700), "until": iso(-60)}},
            "request": REQUEST,
            "gpus": [{"uuid": "GPU-1", "model": A100.model, "index": 2}],
            "node": "gpu-02",
            "image": {"progress": 0.62, "message": "5.1 of 8.2 GB"},
        },
        "",
        NOW,
    )
    assert page.title == "Starting on 1 × A100 SXM4 80 GB"
    assert (page.yours, page.where) == ("1 GPU", "GPU 2 of gpu-02")
    assert page.steps[0].note == "44 min"
    assert (page.steps[2].percent, page.steps[2].note) == (62, "5.1 of 8.2 GB")
    assert page.tab == "Starting, 30 %"


def test_a_start_without_gpus_speaks_of_memory_and_cores() -> None:
    request = {**REQUEST, "gpus": 0, "gpu_model": None, "title": "CPU only"}
    waits = waiting_page({"stage": "queue", "request": request}, "", NOW)
    assert waits.title == "Waiting for 64 GiB and 16 cores"
    starts = waiting_page({"stage": "held", "request": request}, "", NOW)
    assert starts.title == "Starting CPU only"
    assert starts.steps[1].name == "Resources held"


def spawner(**traits: Any) -> SimpleNamespace:
    plain = {"name": "", "pending": None, "ready": False, "last_activity": None}
    return SimpleNamespace(**{**plain, **traits})


@pytest.mark.parametrize(
    ("inside", "of", "said"),
    [(0, 0, ""), (0, 1, "The last such range did not hold."), (1, 1, "The last such range held.")],
)
def test_the_record_of_the_ranges_is_told_from_the_first_one(
    inside: int, of: int, said: str
) -> None:
    view = {"stage": "queue", "request": REQUEST, "record": {"inside": inside, "of": of}}
    assert waiting_page(view, "", NOW).record == said


def test_a_reservation_that_is_still_to_come_is_not_said_to_be_used() -> None:
    booked = {"title": "Class", "from": iso(3600), "to": iso(7200)}
    view = {"stage": "queue", "request": REQUEST, "reservation": booked}
    told = waiting_page(view, "", NOW).booked
    assert told == "May start on the reservation “Class” once that begins"
    booked["from"] = iso(-60)
    assert waiting_page(view, "", NOW).booked == "On the reservation “Class”"


def test_a_request_on_hold_is_told_on_the_list_of_servers() -> None:
    held = {"stage": "queue", "held": {"at": iso(-60), "reason": "maintenance"}, "request": REQUEST}
    row = PageWords().server(spawner(pending="spawn", waiting_view=lambda: held), NOW)
    assert (row.state, row.held, row.place) == ("waiting", True, "")


def test_a_running_server_tells_what_it_holds_and_which_gpu_is_out_of_order() -> None:
    held = {
        "title": "PyTorch",
        "gpus": [
            {"model": A100.model, "index": 0, "health": "ok", "health_reason": ""},
            {"model": A100.model, "index": 2, "health": "lost", "health_reason": "Xid 79."},
        ],
        "memory_gib": 64.0,
        "cpus": 16.0,
        "started_at": iso(-6180),
        "stops_at": iso(8220),
        "node": "gpu-02",
    }
    running = spawner(ready=True, holding_view=lambda: held, home_size_bytes=8_400_000_000)
    row = PageWords().server(running, NOW)
    assert row.state == "running"
    assert row.about == "PyTorch, 2 × A100 SXM4 80 GB, 64 GiB, 16 cores, on gpu-02"
    assert row.running_for == "1 h 43 min"
    assert row.fault.startswith("GPU 2 is out of order: Xid 79.")
    assert row.home == "8.4 GB"


@pytest.mark.parametrize(
    ("traits", "state"),
    [
        ({}, "stopped"),
        ({"pending": "stop", "ready": True}, "stopping"),
        ({"pending": "spawn"}, "starting"),
        ({"pending": "spawn", "waiting_view": lambda: {"stage": "queue"}}, "waiting"),
        ({"waiting_view": lambda: {"stage": "queue"}}, "waiting"),
        ({"ready": True, "holding_view": lambda: None}, "running"),
    ],
)
def test_the_state_of_a_server_in_one_word(traits: dict[str, Any], state: str) -> None:
    assert PageWords().server(spawner(**traits), NOW).state == state


def test_a_wait_that_a_restart_interrupted_is_known() -> None:
    waits = SimpleNamespace(spawners={"a": spawner(waiting_view=lambda: {"stage": "queue"})})
    assert PageWords().still_waits(waits, "a")
    assert not PageWords().still_waits(waits, "b")


def test_lengths_and_sizes_are_said_shortly() -> None:
    assert [length_words(s) for s in (0.4, 44, 180, 3600, 6180)] == [
        "0 s",
        "44 s",
        "3 min",
        "1 h",
        "1 h 43 min",
    ]
    assert [size_words(b) for b in (999, 8_400_000_000, 2e12)] == ["999 B", "8.4 GB", "2 TB"]
