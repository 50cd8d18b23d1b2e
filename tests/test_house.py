"""What no linter sees of the house: imports inside functions, imports by name, the wheel."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from tools import house_picture

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "vtexp").rglob("*.py"))
#: Too heavy to be imported before they are needed; all else stands at the top of a module.
HEAVY = {
    *("torch", "transformers", "datasets", "huggingface_hub", "pyarrow", "scipy", "kornia_rs"),
    *("pandas", "matplotlib", "jinja2", "wandb", "wandb_workspaces", "submitit", "pynvml"),
    *("filelock", "fontTools"),
}


def imported_inside_functions(path: Path) -> set[str]:
    """Packages that functions of a file import."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_heavy_packages_are_imported_inside_functions(path: Path) -> None:
    assert imported_inside_functions(path) <= HEAVY


def test_what_is_imported_by_its_name_is_there() -> None:
    texts = [path.read_text() for path in (*SOURCES, *(ROOT / "hydra_plugins").rglob("*.py"))]
    names = {name for text in texts for name in re.findall(r'"(vtexp\.[\w.]+:\w+)"', text)}
    assert len(names) > 10
    for name in names:
        module, _, attribute = name.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name


def test_few_modules_stand_beside_the_packages() -> None:
    assert len(list((ROOT / "vtexp").glob("*.py"))) <= 6


def test_the_wheel_has_every_package() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    own = {".".join(folder.parts) for folder in folders}
    assert set(told) == own | {"vtexp.conf", "hydra_plugins.vtexp_sweeper"}


def test_the_picture_of_the_house_is_of_todays_contract() -> None:
    assert house_picture.PICTURE.read_text() == house_picture.drawn()
