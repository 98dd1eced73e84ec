"""Preparing images on the real engine, with recipes that take no time and no network."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.image_base import import_archive
from dcloud_spawner.image_build import connect
from dcloud_spawner.images import ImageState, ImageStatus, ImageStore
from dcloud_spawner.settings import Settings
from tests.patience import patient

pytestmark = pytest.mark.docker


@dataclass(frozen=True)
class Recipes:
    """A parent and a child recipe under names that no other run uses."""

    settings: Settings
    parent: str
    child: str

    @property
    def store(self) -> ImageStore:
        return ImageStore(self.settings)

    def write(self, name: str, dockerfile: str) -> None:
        folder = self.settings.images_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Dockerfile").write_text(dockerfile)

    def status(self, name: str) -> ImageStatus:
        status = self.store.status(f"dcloud/{name}")
        assert status is not None
        return status


def image_id(name: str) -> str:
    client = docker.from_env()
    try:
        found: str = client.images.get(f"dcloud/{name}:latest").id
        return found
    finally:
        client.close()


@pytest.fixture
def recipes(base_image: str, tmp_path: Path) -> Iterator[Recipes]:
    mark = secrets.token_hex(4)
    settings = Settings(state=tmp_path / "state", images_dir=tmp_path / "images")
    made = Recipes(settings, f"test-{mark}-parent", f"test-{mark}-child")
    made.write(made.parent, f"FROM debian:bookworm-slim\nLABEL mark={mark}\n")
    made.write(made.child, f"FROM dcloud/{made.parent}\nRUN echo hello\nRUN true\n")
    yield made
    for name in (made.child, made.parent):
        subprocess.run(["docker", "rmi", f"dcloud/{name}"], capture_output=True, check=False)


def test_an_image_is_built_after_what_it_stands_on_and_says_how_far_it_is(
    recipes: Recipes,
) -> None:
    seen: list[ImageStatus] = []
    shown: list[ImageState] = []

    def watch(status: ImageStatus) -> None:
        seen.append(status)
        shown.append(recipes.status(recipes.child).state)  # what another process would see

    status = recipes.store.prepare(f"dcloud/{recipes.child}", watch)
    assert status.state is ImageState.READY
    assert status.progress == 1
    assert status.started_at is not None
    assert status.finished_at is not None
    of_child = [each for each in seen if each.image == f"dcloud/{recipes.child}:latest"]
    progress = [each.progress for each in of_child]
    assert progress == sorted(progress)
    assert any(0 < value < 1 for value in progress)
    assert any("step" in each.message for each in of_child)
    assert ImageState.PREPARING in shown
    assert "hello" in Path(status.log).read_text()
    assert recipes.status(recipes.parent).state is ImageState.READY


def test_an_unchanged_recipe_is_not_built_again_and_a_changed_one_is(recipes: Recipes) -> None:
    recipes.store.prepare(recipes.child)
    first = image_id(recipes.child)
    start = time.monotonic()
    recipes.store.prepare(recipes.child)
    assert time.monotonic() - start < patient(1)
    assert image_id(recipes.child) == first
    recipes.write(recipes.parent, "FROM debian:bookworm-slim\nLABEL mark=other\n")
    recipes.store.prepare(recipes.child)
    assert image_id(recipes.child) != first
    left = subprocess.run(
        ["docker", "images", "-q", "--no-trunc", "-f", "dangling=true"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert first not in left.stdout, "the old image is removed"


def test_an_image_removed_by_hand_is_prepared_again(recipes: Recipes) -> None:
    recipes.store.prepare(recipes.parent)
    subprocess.run(["docker", "rmi", f"dcloud/{recipes.parent}"], capture_output=True, check=True)
    assert recipes.store.prepare(recipes.parent).state is ImageState.READY
    assert image_id(recipes.parent)


def test_a_failure_is_kept_with_its_reason_and_tried_again_on_demand(recipes: Recipes) -> None:
    recipes.write(recipes.parent, "FROM debian:bookworm-slim\nRUN echo no luck today; exit 3\n")
    assert recipes.store.prepare(recipes.child).state is ImageState.FAILED
    status = recipes.status(recipes.parent)
    assert status.state is ImageState.FAILED
    assert "no luck today" in status.tail
    assert "code: 3" in status.message
    assert "could not be built" in recipes.status(recipes.child).message
    recipes.write(recipes.parent, "FROM debian:bookworm-slim\nRUN true\n")
    assert recipes.store.prepare(recipes.child).state is ImageState.READY


def test_a_base_that_cannot_be_had_is_a_failure_with_the_reason(recipes: Recipes) -> None:
    recipes.write(recipes.parent, "FROM 127.0.0.1:9/nowhere:1\n")
    status = recipes.store.prepare(recipes.parent)
    assert status.state is ImageState.FAILED
    assert "127.0.0.1:9/nowhere:1 cannot be pulled" in status.message


def test_a_root_file_system_made_here_becomes_an_image(docker_engine: str, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "etc/made-here")
    name = f"test-{secrets.token_hex(4)}:made"
    client = connect()
    try:
        import_archive(client, archive, name)
        config = client.inspect_image(name)["Config"]
        assert config["Cmd"] == ["bash"]
        assert config["Labels"] == {"dcloud.made-by": "mmdebstrap"}
    finally:
        client.remove_image(name)
        client.close()


def test_an_unknown_recipe_is_refused_with_the_known_ones(recipes: Recipes) -> None:
    with pytest.raises(ConfigurationError, match=recipes.parent):
        recipes.store.prepare("nobody")


def test_a_killed_builder_leaves_no_lock_and_the_next_one_goes_on(recipes: Recipes) -> None:
    recipes.write(recipes.parent, "FROM debian:bookworm-slim\nRUN sleep 60\n")
    environment = {
        **os.environ,
        "DCLOUD_STATE": str(recipes.settings.state),
        "DCLOUD_IMAGES_DIR": str(recipes.settings.images_dir),
    }
    builder = subprocess.Popen(
        [sys.executable, "-m", "dcloud_spawner.images", recipes.parent],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + patient(20)
        while "sleep 60" not in recipes.status(recipes.parent).step:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert recipes.status(recipes.parent).state is ImageState.PREPARING
    finally:
        builder.send_signal(signal.SIGKILL)
        builder.wait(10)
    assert recipes.status(recipes.parent).state is ImageState.FAILED
    recipes.write(recipes.parent, "FROM debian:bookworm-slim\nRUN true\n")
    assert recipes.store.prepare(recipes.parent).state is ImageState.READY


def test_two_builders_take_turns(recipes: Recipes) -> None:
    recipes.write(recipes.parent, "FROM debian:bookworm-slim\nRUN sleep 1.5\n")
    environment = {
        **os.environ,
        "DCLOUD_STATE": str(recipes.settings.state),
        "DCLOUD_IMAGES_DIR": str(recipes.settings.images_dir),
    }
    command = [sys.executable, "-m", "dcloud_spawner.images", recipes.parent]
    builders = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    logs = [builder.communicate(timeout=60)[1] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sum("sleep 1.5" in log or "step 2" in log for log in logs) == 1, "one built, one waited"


def test_the_base_image_has_what_a_server_and_a_notebook_need(base_image: str) -> None:
    script = (
        "set -e; id -u; stat -c %u /home/dcloud; /opt/dcloud/bin/jupyterhub-singleuser --version;"
        "python -c 'import pynvml, ipykernel';"
        "test ! -w /opt/dcloud; command -v tini git uv pip jupyter-lab"
    )
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", base_image, "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["1000", "1000"]


def test_a_fresh_home_volume_belongs_to_the_user(base_image: str) -> None:
    volume = f"dcloud-test-{secrets.token_hex(4)}"
    try:
        options = ["--rm", "--network", "none", "-v", f"{volume}:/home/dcloud"]
        done = subprocess.run(
            ["docker", "run", *options, base_image, "sh", "-c", "touch note && stat -c %u:%g . *"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["1000:1000", "1000:1000"]
    finally:
        subprocess.run(["docker", "volume", "rm", volume], capture_output=True, check=True)
