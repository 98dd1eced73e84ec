"""From a row, a profile and a lease to a container, as a value."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcloud_spawner.engines.base import ContainerSpec, Mount
from dcloud_spawner.profiles import Profile
from dcloud_spawner.settings import Settings
from dcloud_spawner.spec import build_spec, container_name, home_volume
from dcloud_spawner.store.schema import State
from dcloud_spawner.store.workloads import Workload

GIB = 2**30
AT = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = Settings(deployment="lab", state=Path("state"), shm_fraction=0.25, pids_limit=100)

WORKLOAD = Workload(
    id="0123456789abcdef0123456789abcdef",
    sequence=1,
    kind="notebook",
    user="zoë",
    server_name="",
    profile="gpu",
    choice={"profile": "gpu"},
    image="lab/torch:1",
    gpus=2,
    gpu_model=None,
    memory_bytes=8 * GIB,
    cpu_millicores=2500,
    limit_seconds=3600,
    state=State.STARTING,
    reasons=(),
    latest_start_at=None,
    node="local",
    url="",
    submitted_at=AT,
    admitted_at=AT,
    starting_at=AT,
    launch_until=None,
    ready_at=None,
    stopping_at=None,
    ended_at=None,
    engine_started_at=None,
    engine_finished_at=None,
    exit_code=None,
    oom_killed=False,
    end_reason="",
    end_detail="",
    due_at=AT,
)


def profile(**environment: str) -> Profile:
    return Profile.model_validate(
        {
            "name": "gpu",
            "title": "GPU",
            "image": "lab/changed-since:2",
            "memory_gib": {"choices": [1], "default": 1},
            "cpus": {"choices": [1], "default": 1},
            "environment": environment,
        }
    )


def built(
    workload: Workload = WORKLOAD,
    using: Profile | None = None,
    accelerators: tuple[str, ...] = ("GPU-a", "GPU-b"),
    environment: dict[str, str] | None = None,
    settings: Settings = SETTINGS,
) -> ContainerSpec:
    return build_spec(
        settings,
        workload,
        using,
        accelerators,
        environment=environment or {},
        mounts=(Mount("lab-home", "/home/dcloud"),),
        command=("run",),
        port=9999,
    )


def test_a_container_has_exactly_what_the_row_and_the_lease_say() -> None:
    spec = built()
    assert spec.name == "lab-0123456789abcdef0123456789abcdef"
    assert spec.image == "lab/torch:1"
    assert spec.accelerators == ("GPU-a", "GPU-b")
    assert (spec.memory_bytes, spec.cpu_millicores) == (8 * GIB, 2500)
    assert (spec.shm_bytes, spec.pids_limit, spec.disk_bytes) == (2 * GIB, 100, 0)
    assert (spec.command, spec.port) == (("run",), 9999)
    assert spec.mounts == (Mount("lab-home", "/home/dcloud"),)


def test_every_container_carries_the_five_labels() -> None:
    assert dict(built().labels) == {
        "dcloud.deployment": "lab",
        "dcloud.workload": WORKLOAD.id,
        "dcloud.user": "zoë",
        "dcloud.kind": "notebook",
        "dcloud.accelerators": "GPU-a,GPU-b",
    }


def test_without_gpus_the_label_is_there_and_empty() -> None:
    spec = built(accelerators=())
    assert spec.labels["dcloud.accelerators"] == ""
    assert spec.accelerators == ()
    assert spec.environment["DCLOUD_GPUS"] == "0"


def test_the_same_attempt_always_makes_the_same_container() -> None:
    assert built() == built()
    assert container_name("lab", WORKLOAD.id) == built().name


@pytest.mark.parametrize(
    ("millicores", "threads", "cores"),
    [(500, "1", "0.5"), (1000, "1", "1"), (2500, "2", "2.5"), (16_000, "16", "16")],
)
def test_libraries_start_as_many_threads_as_there_are_whole_cores(
    millicores: int, threads: str, cores: str
) -> None:
    environment = built(replace(WORKLOAD, cpu_millicores=millicores)).environment
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == threads
    assert environment["CPU_LIMIT"] == cores


def test_the_profiles_environment_wins_over_ours_and_the_hubs_over_both() -> None:
    spec = built(
        using=profile(OMP_NUM_THREADS="8", A="profile", B="profile"),
        environment={"B": "hub", "JUPYTERHUB_API_TOKEN": "secret"},
    )
    assert spec.environment["OMP_NUM_THREADS"] == "8"
    assert spec.environment["A"] == "profile"
    assert spec.environment["B"] == "hub"


def test_a_profile_that_was_deleted_meanwhile_changes_nothing_that_was_promised() -> None:
    assert replace(built(using=None), environment={}) == replace(
        built(using=profile(A="b")), environment={}
    )


def test_a_token_in_the_environment_is_not_in_what_is_printed() -> None:
    spec = built(environment={"JUPYTERHUB_API_TOKEN": "very-secret"})
    assert "very-secret" not in repr(spec)
    assert "very-secret" not in str(spec)


def test_a_disk_limit_is_in_bytes() -> None:
    settings = SETTINGS.model_copy(update={"disk_limit_gib": 1.5})
    assert built(settings=settings).disk_bytes == 3 * GIB // 2


# ---------------------------------------------------------------------------- names of homes


names = st.text(min_size=1, max_size=255).filter(lambda name: name.isprintable())


@given(names)
def test_a_home_has_a_name_that_engines_and_file_systems_take(user: str) -> None:
    volume = home_volume("lab", user)
    assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]+", volume)
    assert len(volume) <= 100
    assert volume == home_volume("lab", user)


@given(names, names)
def test_different_users_have_different_homes(one: str, two: str) -> None:
    assert (home_volume("lab", one) == home_volume("lab", two)) == (one == two)


@pytest.mark.parametrize(
    ("one", "two"),
    [("Bob", "bob"), ("a.b", "a-b"), ("a_b", "a/b"), ("é", "e\u0301"), ("x" * 41, "x" * 42)],
)
def test_users_who_look_alike_do_not_share_a_home(one: str, two: str) -> None:
    assert home_volume("lab", one) != home_volume("lab", two)


@pytest.mark.parametrize("user", ["../../etc", "/", "..", "a b", "😀", "-", "con"])
def test_no_name_of_a_user_leads_out_of_the_folder_of_homes(user: str) -> None:
    volume = home_volume("lab", user)
    assert "/" not in volume and ".." not in volume and " " not in volume
    assert volume.startswith("lab-home-")


def test_two_deployments_on_one_machine_do_not_share_homes() -> None:
    assert home_volume("lab", "bob") != home_volume("lab2", "bob")


def test_a_readable_part_of_the_user_is_in_the_name() -> None:
    assert home_volume("lab", "Bob.Smith@uni.example").startswith("lab-home-bob-smith-uni-example-")
