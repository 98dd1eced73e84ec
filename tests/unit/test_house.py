"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dcloud_spawner.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dcloud_spawner", "hub_services")
LONGEST_MODULE = 450
LONGEST_FUNCTION = 60

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_no_module_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in MODULES
        if (lines := len(path.read_text().splitlines())) > LONGEST_MODULE
    }
    assert not long


def test_no_function_is_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path in MODULES
        if "migrations" not in path.parts  # a migration is one list of tables
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert not long


def test_packages_do_nothing_when_imported() -> None:
    full = [path for path in MODULES if path.name == "__init__.py" and path.read_text().strip()]
    assert not _names(full)


def test_there_is_no_module_for_everything() -> None:
    vague = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert not _names([path for path in MODULES if path.name in vague])


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "settings.md").read_text()


def test_no_setting_is_documented_that_does_not_exist() -> None:
    rows = [
        line.split("|")[1].strip().strip("`")
        for line in (ROOT / "docs" / "settings.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert not set(rows) - set(Settings.model_fields)
