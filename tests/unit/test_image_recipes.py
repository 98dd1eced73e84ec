"""Recipes: their order, their digests, and what our own requirement files promise."""

from __future__ import annotations

import re
import tarfile
import tomllib
from io import BytesIO
from pathlib import Path

import pytest

from dcloud_spawner import image_recipes
from dcloud_spawner.errors import ConfigurationError
from dcloud_spawner.image_recipes import chain, load_recipes, recipe_name
from dcloud_spawner.images import ImageState, ImageStatus, ImageStore, wanted_images
from dcloud_spawner.settings import Settings

ROOT = Path(__file__).parents[2]
REQUIREMENTS = sorted((ROOT / "images").glob("*/*.txt"))


def write(folder: Path, name: str, dockerfile: str, **files: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "Dockerfile").write_text(dockerfile)
    for file, text in files.items():
        (folder / name / file).write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "child", "FROM dcloud/parent\nRUN true\n")
    write(tmp_path, "parent", "# comment\nFROM debian:bookworm-slim\nCOPY a \\\n  /b\n", a="1")
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return {name: recipe.digest for name, recipe in load_recipes(folder).items()}


def test_parents_come_before_their_children(folder: Path) -> None:
    recipes = load_recipes(folder)
    assert list(recipes) == ["parent", "child"]
    assert [recipe.name for recipe in chain(recipes, "child")] == ["parent", "child"]
    assert recipes["parent"].steps == (1, 1)
    assert recipes["child"].tag == "dcloud/child:latest"


def test_a_changed_file_changes_the_recipe_and_what_stands_on_it(folder: Path) -> None:
    before = digests(folder)
    assert digests(folder) == before
    (folder / "child" / "Dockerfile").write_text("FROM dcloud/parent\nRUN false\n")
    middle = digests(folder)
    assert middle["parent"] == before["parent"]
    assert middle["child"] != before["child"]
    (folder / "parent" / "a").write_text("2")
    after = digests(folder)
    assert after["parent"] != before["parent"]
    assert after["child"] != middle["child"]


def test_a_circle_and_a_missing_parent_are_named(folder: Path) -> None:
    write(folder, "parent", "FROM dcloud/child\n")
    with pytest.raises(ConfigurationError, match="child -> parent -> child"):
        load_recipes(folder)
    write(folder, "parent", "FROM dcloud/nobody\n")
    with pytest.raises(ConfigurationError, match="no such recipe"):
        load_recipes(folder)


def test_only_our_latest_images_have_a_recipe() -> None:
    assert recipe_name("dcloud/base") == recipe_name("dcloud/base:latest") == "base"
    assert recipe_name("dcloud/base:1") == recipe_name("lab/base") == recipe_name("base") == ""


def test_the_hosts_certificates_reach_the_build_but_no_private_key_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchors = tmp_path / "anchors"
    anchors.mkdir()
    monkeypatch.setattr(image_recipes, "CA_FOLDERS", (anchors,))
    (folder / "parent" / "ca").mkdir()
    without = load_recipes(folder)["parent"]
    (anchors / "site.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (anchors / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    recipe = load_recipes(folder)["parent"]
    assert recipe.digest != without.digest
    with tarfile.open(fileobj=BytesIO(recipe.context())) as archive:
        assert sorted(archive.getnames()) == ["Dockerfile", "a", "ca/site.crt"]


def test_an_image_nobody_prepared_is_missing_and_a_foreign_one_is_not_ours(
    folder: Path, tmp_path: Path
) -> None:
    store = ImageStore(Settings(state=tmp_path / "state", images_dir=folder))
    status = store.status("dcloud/child")
    assert status is not None
    assert status.state is ImageState.MISSING
    assert status.message
    assert store.status("lab/other:1") is None
    assert store.status("dcloud/../../etc") is None


def test_a_preparation_without_a_living_builder_is_shown_as_interrupted(
    folder: Path, tmp_path: Path
) -> None:
    store = ImageStore(Settings(state=tmp_path / "state", images_dir=folder))
    (tmp_path / "state" / "images").mkdir(parents=True)
    store.write("child", ImageStatus("dcloud/child:latest", ImageState.PREPARING, 0.4))
    status = store.status("dcloud/child")
    assert status is not None
    assert status.state is ImageState.FAILED
    assert "interrupted" in status.message


def test_a_status_that_cannot_be_read_is_missing_and_no_error(folder: Path, tmp_path: Path) -> None:
    store = ImageStore(Settings(state=tmp_path / "state", images_dir=folder))
    path = tmp_path / "state" / "images" / "child.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"state": "no such state"}')
    status = store.status("dcloud/child")
    assert status is not None
    assert status.state is ImageState.MISSING


def test_only_images_that_profiles_name_are_prepared(folder: Path, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    settings = Settings(state=tmp_path, images_dir=folder, profiles_dir=profiles)
    assert wanted_images(settings) == ("parent", "child")  # no readable profile: all
    (profiles / "one.yaml").write_text(
        "title: One\nimage: dcloud/parent:latest\n"
        "memory_gib: {choices: [1], default: 1}\ncpus: {choices: [1], default: 1}\n"
    )
    assert wanted_images(settings) == ("parent",)


def test_our_own_recipes_load_with_base_below() -> None:
    recipes = load_recipes(ROOT / "images")
    assert {"base", "pytorch", "tensorflow"} <= set(recipes)
    assert chain(recipes, "pytorch")[0].name == chain(recipes, "tensorflow")[0].name == "base"


def test_the_server_in_the_image_is_the_hubs_version() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (hub,) = (item["version"] for item in lock["package"] if item["name"] == "jupyterhub")
    assert f"\njupyterhub=={hub} " in (ROOT / "images/base/server.txt").read_text()


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_requirement_of_an_image_is_pinned(path: Path) -> None:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    assert all(re.match(r"[\w.\[\]-]+==\S+", line) for line in lines if line)
