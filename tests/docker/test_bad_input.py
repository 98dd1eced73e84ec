"""What can be sent that is wrong, by REST and by the start page: each is refused with a status,
a sentence that names the field and what is allowed, and has left nothing behind."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import httpx
import pytest
from sqlalchemy import func, select

from dcloud_spawner.store import schema, workloads
from tests.docker.people import SMALL, People, Person, gpu, signed_in, until
from tests.hub.sign_in import Visitor
from tests.live import Deployment, server_path

pytestmark = [pytest.mark.docker, pytest.mark.sqlite_suffices]

GPUS = "Choose one of 0, 1, 2, 3, 4."
MEMORY = "Choose one of 0.5, 1, 2, 4096."
CPUS = "Choose one of 0.5, 1, 2, 512."
HOURS = "Choose 1 to 24."
PROFILES = "Profiles you may use: cpu, gpu."
FIELDS = "Fields are profile, gpus, gpu_model, memory_gib, cpus, hours, image, account, datasets."
OWN_IMAGE = "It must match dcloud/"
IMAGE_NAME = "1 to 255 characters of A-Z a-z 0-9"
WHOLE = "valid integer"
NUMBER = "valid number"
TEXT = "valid string"
HUGE = 10**30


def of_gpu(**fields: Any) -> dict[str, Any]:
    return {"profile": "gpu", **fields}


def of_cpu(**fields: Any) -> dict[str, Any]:
    return {"profile": "cpu", **fields}


OWNER_NAME = "Write owner/name"

BAD: list[tuple[dict[str, Any], str, str]] = [
    # Datasets.
    (of_cpu(datasets="ann/cars"), "datasets", "valid list"),
    (of_cpu(datasets={"name": "ann/cars"}), "datasets", "valid list"),
    (of_cpu(datasets=[7]), "datasets", "For example"),
    (of_cpu(datasets=["cars"]), "datasets", OWNER_NAME),
    (of_cpu(datasets=["ann/.."]), "datasets", OWNER_NAME),
    (of_cpu(datasets=["ann/cars\x00"]), "datasets", "For example"),
    (of_cpu(datasets=["a" * 100_000]), "datasets", "For example"),
    (of_cpu(datasets=[f"ann/cars-{n}" for n in range(21)]), "datasets", "At most 20"),
    (of_cpu(datasets=[{"name": "ann/cars", "version": 0}]), "datasets", "A number from 1"),
    (of_cpu(datasets=[{"name": "ann/cars", "mode": "rw"}]), "datasets", "cached, stream"),
    (of_cpu(datasets=[{"name": "ann/cars", "target": "/"}]), "datasets", "name, version, mode"),
    # The number of GPUs.
    (of_gpu(gpus=5), "gpus", GPUS),
    (of_gpu(gpus=-1), "gpus", GPUS),
    (of_gpu(gpus=HUGE), "gpus", GPUS),
    (of_gpu(gpus=-HUGE), "gpus", GPUS),
    (of_gpu(gpus=1.5), "gpus", WHOLE),
    (of_gpu(gpus=1.0), "gpus", WHOLE),
    (of_gpu(gpus="2"), "gpus", WHOLE),
    (of_gpu(gpus="two"), "gpus", WHOLE),
    (of_gpu(gpus=""), "gpus", WHOLE),
    (of_gpu(gpus=True), "gpus", WHOLE),
    (of_gpu(gpus=[2]), "gpus", WHOLE),
    (of_gpu(gpus={"count": 2}), "gpus", WHOLE),
    (of_gpu(gpus=float("nan")), "gpus", "integer"),
    (of_gpu(gpus=float("inf")), "gpus", "integer"),
    (of_cpu(gpus=1), "gpus", "Choose one of 0."),
    # The model.
    (of_gpu(gpus=1, gpu_model="NVIDIA Z999"), "gpu_model", "Models here: NVIDIA H100"),
    (of_gpu(gpus=1, gpu_model=""), "gpu_model", "1 to 128 printable characters"),
    (of_gpu(gpus=1, gpu_model="x" * 100), "gpu_model", "Models here: NVIDIA H100"),
    (of_gpu(gpus=1, gpu_model="x" * 100_000), "gpu_model", "at most 128 characters"),
    (of_gpu(gpus=1, gpu_model="\ud800"), "gpu_model", ""),
    (of_gpu(gpus=1, gpu_model=7), "gpu_model", TEXT),
    (of_gpu(gpus=1, gpu_model=["NVIDIA H100 80GB HBM3"]), "gpu_model", TEXT),
    (of_gpu(gpus=0, gpu_model="NVIDIA H100 80GB HBM3"), "gpu_model", "at least 1 GPU"),
    # Memory.
    (of_cpu(memory_gib=3), "memory_gib", MEMORY),
    (of_cpu(memory_gib=0), "memory_gib", MEMORY),
    (of_cpu(memory_gib=-1), "memory_gib", MEMORY),
    (of_cpu(memory_gib=1.0000001), "memory_gib", MEMORY),
    (of_cpu(memory_gib=1e308), "memory_gib", MEMORY),
    (of_cpu(memory_gib=4096), "memory_gib", "the largest offers"),
    (of_cpu(memory_gib="1"), "memory_gib", NUMBER),
    (of_cpu(memory_gib="1 GiB"), "memory_gib", NUMBER),
    (of_cpu(memory_gib=True), "memory_gib", NUMBER),
    (of_cpu(memory_gib=[1]), "memory_gib", NUMBER),
    (of_cpu(memory_gib=float("nan")), "memory_gib", "finite number"),
    (of_cpu(memory_gib=float("-inf")), "memory_gib", "finite number"),
    # Cores.
    (of_cpu(cpus=3), "cpus", CPUS),
    (of_cpu(cpus=0), "cpus", CPUS),
    (of_cpu(cpus=-0.5), "cpus", CPUS),
    (of_cpu(cpus=512), "cpus", "the largest offers"),
    (of_cpu(cpus="1"), "cpus", NUMBER),
    (of_cpu(cpus={}), "cpus", NUMBER),
    (of_cpu(cpus=float("inf")), "cpus", "finite number"),
    # Hours.
    (of_cpu(hours=0), "hours", HOURS),
    (of_cpu(hours=-1), "hours", HOURS),
    (of_cpu(hours=25), "hours", HOURS),
    (of_cpu(hours=HUGE), "hours", HOURS),
    (of_cpu(hours=1.5), "hours", WHOLE),
    (of_cpu(hours="2"), "hours", WHOLE),
    (of_cpu(hours="forever"), "hours", WHOLE),
    (of_cpu(hours=float("nan")), "hours", "integer"),
    # The profile.
    ({"profile": "nothing"}, "profile", PROFILES),
    ({"profile": ""}, "profile", PROFILES),
    ({"profile": "CPU"}, "profile", PROFILES),
    ({"profile": " cpu"}, "profile", PROFILES),
    ({"profile": "cpu\n"}, "profile", PROFILES),
    ({"profile": "cpu\x00"}, "profile", PROFILES),
    ({"profile": "../cpu"}, "profile", PROFILES),
    ({"profile": "cpu.yaml"}, "profile", PROFILES),
    ({"profile": "\ud800"}, "profile", ""),
    ({"profile": "x" * 1_000_000}, "profile", PROFILES),
    ({"profile": 1}, "profile", TEXT),
    ({"profile": ["cpu"]}, "profile", TEXT),
    ({"profile": {"name": "cpu"}}, "profile", TEXT),
    ({"profile": "own"}, "profile", "only for the group trusted"),
    # The image of a profile that has a fixed one.
    (of_cpu(image="evil:latest"), "image", "fixed image"),
    (of_cpu(image=""), "image", "fixed image"),
    (of_cpu(image=5), "image", TEXT),
    (of_cpu(image="x" * 100_000), "image", "at most 500 characters"),
    # What is no field at all.
    (of_cpu(memory=1), "memory", FIELDS),
    (of_cpu(GPUS=1), "GPUS", FIELDS),
    (of_cpu(privileged=True), "privileged", FIELDS),
    (of_cpu(volumes={"/": "/host"}), "volumes", FIELDS),
    (of_cpu(environment={"A": "b"}), "environment", FIELDS),
    (of_cpu(cmd=["sh"]), "cmd", FIELDS),
    ({"__class__": "x"}, "__class__", FIELDS),
    ({"": 1}, "", FIELDS),
    ({"\ud800": 1}, "", ""),
    ({"x" * 100_000: 1}, "xxx", FIELDS),
]

BAD_IMAGES = [
    ("docker.io/library/alpine", OWN_IMAGE),
    ("registry.example/dcloud/base", OWN_IMAGE),
    ("dcloud/BASE", OWN_IMAGE),
    ("dcloud/../evil", OWN_IMAGE),
    ("dcloud/base@sha256:" + "0" * 64, OWN_IMAGE),
    ("dcloud/", OWN_IMAGE),
    ("dcloud/base; reboot", IMAGE_NAME),
    ("dcloud/base:latest\n", IMAGE_NAME),
    ("", IMAGE_NAME),
    (" dcloud/base", IMAGE_NAME),
    ("dcloud/" + "x" * 400, IMAGE_NAME),
]

BAD_BODIES: list[tuple[bytes, str]] = [
    # Said by the hub itself, before any choice is looked at.
    (b"{", "Invalid JSON"),
    (b"{'profile': 'cpu'}", "Invalid JSON"),
    (b'{"profile": "cpu"} {"profile": "gpu"}', "Invalid JSON"),
    (b"profile=cpu", "Invalid JSON"),
    (b'\xff\xfe{"profile": "cpu"}', "Invalid JSON"),
    (b'{"profile": "gpu", "gpus": ' + b"9" * 5000 + b"}", "Invalid JSON"),
    (b"[" * 100_000, "Invalid JSON"),
    (b"[1]", "JSON object"),
    (b"5", "JSON object"),
    (b'"cpu"', "JSON object"),
    (b'{"user_options": [1]}', "user_options must be an object"),
    (b'{"user_options": "cpu"}', "user_options must be an object"),
    (b'{"display_name": 5, "user_options": {}}', "display_name must be a string"),
    # And by us.
    (b'{"user_options": {"gpus": -1, "profile": "gpu"}}', GPUS),
    (b'{"profile": "gpu", "gpus": 1, "gpus": 9}', GPUS),
    (b'{"profile": "gpu", "gpus": NaN}', "integer"),
    (b'{"profile": "gpu", "gpus": -Infinity}', "integer"),
    (b'{"profile": "cpu", "memory_gib": 1e400}', "finite number"),
    (b'{"profile": "cpu", "user_options": {"profile": "x"}, "gpus": 1}', PROFILES),
]


@dataclass(frozen=True)
class Traces:
    """Everything a start leaves somewhere."""

    workloads: int
    homes: int
    events: int
    containers: tuple[str, ...]
    volumes: tuple[str, ...]


def traces(deployment: Deployment) -> Traces:
    """What there is now."""
    platform = deployment.platform
    assert platform is not None
    with platform.database.reading() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (schema.workloads, schema.homes)
        ]
        log = connection.scalars(select(schema.events.c.action)).all()
    label = {"label": f"dcloud.deployment={deployment.settings.deployment}"}
    client = docker.from_env()
    try:
        return Traces(
            *counts,
            events=sum(action.startswith(("workload.", "home.", "container.")) for action in log),
            containers=tuple(found.id for found in client.containers.list(all=True, filters=label)),
            volumes=tuple(found.name for found in client.volumes.list(filters=label)),
        )
    finally:
        client.close()


@pytest.fixture(scope="module")
def eve(residents: People) -> Person:
    """Somebody without groups who has never started anything."""
    return residents("eve")


@pytest.fixture(scope="module")
def dora(residents: People) -> Person:
    """Somebody who may name an image."""
    return residents("dora", groups=("trusted",))


@pytest.fixture
def nothing_happens(deployment: Deployment) -> Iterator[None]:
    """Compares what there is before and after."""
    before = traces(deployment)
    yield
    assert traces(deployment) == before


def refused(answer: httpx.Response, *said: str, status: int = 400) -> None:
    """Fails unless an answer refuses and says certain things, at no great length."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text[:500]}"
    message = answer.json()["message"]
    for text in said:
        assert text in message
    assert len(message) < 1000


# ---------------------------------------------------------------------------- REST


def named(case: tuple[Any, ...]) -> str:
    return re.sub(r"[^ -~]", "?", json.dumps(case[0]))[:60]


@pytest.mark.parametrize(("body", "field", "allowed"), BAD, ids=map(named, BAD))
@pytest.mark.usefixtures("nothing_happens")
def test_a_bad_choice_is_refused(
    eve: Person, body: dict[str, Any], field: str, allowed: str
) -> None:
    refused(eve.post(body), field, allowed)
    assert not eve.deployment.server("eve")


@pytest.mark.parametrize(("image", "allowed"), BAD_IMAGES, ids=map(named, BAD_IMAGES))
@pytest.mark.usefixtures("nothing_happens")
def test_an_image_that_does_not_match_is_refused(dora: Person, image: str, allowed: str) -> None:
    refused(dora.post({"profile": "own", "image": image}), "image", allowed)


@pytest.mark.parametrize(("body", "said"), BAD_BODIES, ids=[str(b[:40]) for b, _ in BAD_BODIES])
@pytest.mark.usefixtures("nothing_happens")
def test_a_body_that_is_no_choice_is_refused(eve: Person, body: bytes, said: str) -> None:
    with eve.deployment.api(eve.token) as api:
        refused(api.post(server_path("eve"), content=body), said)


@pytest.mark.usefixtures("nothing_happens")
def test_bad_choices_for_a_named_server_are_refused_too(eve: Person) -> None:
    for body, field, allowed in BAD[::10]:
        refused(eve.post(body, "second"), field, allowed)


@pytest.mark.parametrize("name", ["UPPER", "a_b", "a b", "-", "a--", "%00", "ü", "a" * 31, "x.y"])
@pytest.mark.usefixtures("nothing_happens")
def test_the_hub_refuses_a_bad_name_of_a_server(eve: Person, name: str) -> None:
    refused(eve.post(SMALL, name))


@pytest.mark.usefixtures("nothing_happens")
def test_only_ones_own_servers_can_be_started(eve: Person, dora: Person) -> None:
    with eve.deployment.api(eve.token) as api:
        for user in ("dora", "nobody", "../users/dora", "eve%2f..%2fdora"):
            assert api.post(f"/users/{user}/server", json=SMALL).status_code in (403, 404, 405)
        anonymous = {"Authorization": ""}
        assert api.post(server_path("eve"), json=SMALL, headers=anonymous).status_code == 403


@pytest.mark.usefixtures("nothing_happens")
def test_bad_options_set_beforehand_are_refused_at_the_start(eve: Person) -> None:
    bad = {"profile": "gpu", "gpus": 9}
    with eve.deployment.api(eve.token) as api:
        assert api.put("/users/eve/servers/later", json={"user_options": bad}).status_code == 201
        refused(api.post("/users/eve/servers/later"), "gpus", GPUS)
        patched = api.patch("/users/eve/servers/later", json={"user_options": bad})
        assert patched.status_code == 200
        refused(api.post("/users/eve/servers/later"), "gpus", GPUS)
        removed = api.request("DELETE", "/users/eve/servers/later", json={"remove": True})
        assert removed.status_code == 204


# ---------------------------------------------------------------------------- the start page


@pytest.fixture(scope="module")
def page(deployment: Deployment) -> Iterator[Visitor]:
    """Somebody signed in with a browser."""
    with signed_in(deployment, "ivy") as ivy:
        yield ivy
    with deployment.api() as api:
        api.delete("/users/ivy/server")


def form_at(visitor: Visitor, path: str) -> tuple[str, dict[str, str]]:
    """Where the form of a start page is sent, and the token that goes with it."""
    text = visitor.get(path).text
    action = re.search(r'id="spawn_form" action="([^"]+)"', text)
    token = re.search(r'name="_xsrf" value="([^"]+)"', text)
    assert action and token, f"no form at {path}"
    return html.unescape(action[1]), {"_xsrf": html.unescape(token[1])}


def press_start(visitor: Visitor, form: dict[str, Any], path: str = "/hub/spawn") -> httpx.Response:
    """Load the start page and send its form to where it says."""
    action, token = form_at(visitor, path)
    return visitor.post(action, data=form | token)


BAD_FORMS: list[tuple[dict[str, Any], str, str]] = [
    ({"profile": "cpu", "datasets": ["", "cars"]}, "datasets", OWNER_NAME),
    ({"profile": "cpu", "datasets": "a/b", "version@a/b": "x"}, "datasets", "A number from 1"),
    ({"profile": "gpu", "gpu.gpus": "5"}, "gpus", GPUS),
    ({"profile": "gpu", "gpu.gpus": "-1"}, "gpus", GPUS),
    ({"profile": "gpu", "gpu.gpus": "+9"}, "gpus", GPUS),
    ({"profile": "gpu", "gpu.gpus": "9" * 400}, "gpus", WHOLE),
    ({"profile": "gpu", "gpu.gpus": "1.5"}, "gpus", WHOLE),
    ({"profile": "gpu", "gpu.gpus": "1e0"}, "gpus", WHOLE),
    ({"profile": "gpu", "gpu.gpus": "two"}, "gpus", WHOLE),
    ({"profile": "gpu", "gpu.gpus": "NaN"}, "gpus", WHOLE),
    ({"profile": "gpu", "gpu.gpus": "٢"}, "gpus", WHOLE),
    ({"profile": "gpu", "gpu.gpus": ["1", "2"]}, "gpus", WHOLE),
    ({"profile": "gpu", "gpus": "5"}, "gpus", GPUS),
    ({"profile": "cpu", "cpu.gpus": "1"}, "gpus", "Choose one of 0."),
    ({"profile": "gpu", "gpu.gpus": "1", "gpu.gpu_model": "Z"}, "gpu_model", "Models here"),
    ({"profile": "cpu", "cpu.memory_gib": "3"}, "memory_gib", MEMORY),
    ({"profile": "cpu", "cpu.memory_gib": "-1"}, "memory_gib", MEMORY),
    ({"profile": "cpu", "cpu.memory_gib": "lots"}, "memory_gib", NUMBER),
    ({"profile": "cpu", "cpu.memory_gib": "inf"}, "memory_gib", NUMBER),
    ({"profile": "cpu", "cpu.memory_gib": "4096"}, "memory_gib", "the largest offers"),
    ({"profile": "cpu", "cpu.cpus": "512"}, "cpus", "the largest offers"),
    ({"profile": "cpu", "cpu.cpus": "0"}, "cpus", CPUS),
    ({"profile": "cpu", "cpu.hours": "0"}, "hours", HOURS),
    ({"profile": "cpu", "cpu.hours": "25"}, "hours", HOURS),
    ({"profile": "cpu", "cpu.hours": "1.5"}, "hours", WHOLE),
    ({"profile": "nothing"}, "profile", PROFILES),
    ({"profile": ""}, "profile", PROFILES),
    ({"profile": ["cpu", "gpu"]}, "profile", TEXT),
    ({"profile": "own"}, "profile", "only for the group trusted"),
    ({"profile": "<script>alert(1)</script>"}, "profile", PROFILES),
    ({"profile": "cpu", "cpu.image": "evil:latest"}, "image", "fixed image"),
    ({"profile": "cpu", "privileged": "1"}, "privileged", FIELDS),
    ({"profile": "cpu", "cpu.volumes": "/"}, "cpu.volumes", FIELDS),
    ({"profile": "cpu", "<b>": "1"}, "is not a field", FIELDS),
]


@pytest.mark.parametrize(("form", "field", "allowed"), BAD_FORMS, ids=map(named, BAD_FORMS))
@pytest.mark.usefixtures("nothing_happens")
def test_a_bad_form_is_refused_on_the_page(
    page: Visitor, form: dict[str, Any], field: str, allowed: str
) -> None:
    answer = press_start(page, form)
    assert answer.status_code == 400
    said = page.said(answer)
    assert field in said and allowed in said
    assert 'id="spawn_form"' in answer.text  # and may be mended at once
    assert "<script>alert(1)" not in answer.text


@pytest.mark.usefixtures("nothing_happens")
def test_a_form_without_its_token_is_refused(page: Visitor) -> None:
    for path in ("/hub/spawn", "/hub/spawn?_xsrf=2|guess", "/hub/spawn/ivy"):
        assert page.post(path, data={"profile": "cpu"}).status_code == 403


@pytest.mark.usefixtures("nothing_happens")
def test_a_link_starts_nothing(page: Visitor) -> None:
    for path in ("/hub/spawn?profile=gpu&gpus=3", "/hub/spawn/ivy/x?opt-profile=gpu&opt-gpus=3"):
        answer = page.get(path)
        assert answer.status_code == 200
        assert "press Start" in page.said(answer)
        assert ("gpu.gpus", "3") in chosen(answer)
    answer = page.get("/hub/spawn?profile=<script>alert(1)</script>&gpu.hours=<b>")
    assert answer.status_code == 200 and "<script>alert(1)" not in answer.text
    assert page.get("/hub/spawn").status_code == 200


@pytest.mark.usefixtures("nothing_happens")
def test_somebody_elses_start_page_is_closed(page: Visitor, dora: Person) -> None:
    assert page.get("/hub/spawn/dora").status_code in (403, 404)
    action, token = form_at(page, "/hub/spawn")
    theirs = action.replace("/hub/spawn", "/hub/spawn/dora")
    assert page.post(theirs, data={"profile": "cpu"} | token).status_code in (403, 404)


# ---------------------------------------------------------------------------- afterwards


def test_after_all_that_they_start_as_ever(eve: Person, page: Visitor) -> None:
    good = {"profile": "cpu", "memory_gib": 0.5, "cpus": 1.0, "hours": 3}
    eve.run(good)
    assert eve.answers()
    eve.end()
    refused(eve.post(gpu(5)), "gpus")
    with eve.platform.database.reading() as connection:
        remembered = workloads.last_choice(connection, "eve")
    assert remembered == {**good, "gpus": 0}
    with eve.deployment.api(eve.token) as api:  # what was chosen last, not what was refused
        assert api.post(server_path("eve")).status_code in (201, 202)
    until(lambda: eve.workload(), 10)
    workload = eve.workload()
    assert workload is not None and workload.choice == remembered
    eve.end()


def test_the_page_remembers_the_last_good_choice(page: Visitor, deployment: Deployment) -> None:
    good = {"profile": "gpu", "gpu.gpus": "0", "gpu.memory_gib": "0.5", "gpu.hours": "3"}
    answer = press_start(page, good)
    assert answer.status_code == 302, page.said(answer)
    deployment.wait_ready("ivy")
    deployment.stop_server("ivy")
    until(lambda: not deployment.server("ivy"), 20)
    assert press_start(page, {"profile": "cpu", "cpu.hours": "99"}).status_code == 400
    fresh = page.get("/hub/spawn")
    assert {("profile", "gpu"), ("gpu.memory_gib", "0.5")} <= chosen(fresh)
    assert re.search(r'name="gpu\.hours"[^>]*value="3"', fresh.text)


def chosen(answer: httpx.Response) -> set[tuple[str, str]]:
    """Names and values of the buttons that are on."""
    return set(re.findall(r'name="([^"]+)" value="([^"]+)"[^>]* checked', answer.text))
