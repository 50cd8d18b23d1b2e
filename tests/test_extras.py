"""Extras: what pyproject.toml and the code say agree; without one, one line names it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from transformers.dependency_versions_table import deps

from vtexp.errors import MissingExtraError
from vtexp.utils.extras import EXTRAS, require_extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NONE = Version("0")

#: The split of the default data set of which the fewest pages are drawn.
SMALL = "dataset.split=validation"
#: Run before the program, as sitecustomize.py: these packages are not installed.
BLOCK = """
import importlib.abc, os, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["BLOCKED"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def vtexp_without(
    extras: Iterable[str], tmp_path: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A command where what some extras install is not there."""
    modules = {module for extra in extras for module in EXTRAS[extra]} - {"matplotlib"}
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    own = {"PYTHONPATH": paths, "BLOCKED": ",".join(modules)}
    return subprocess.run(
        [sys.executable, "-m", "vtexp", *arguments],
        cwd=tmp_path,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=280,
    )


def distribution(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0].lower()


@pytest.mark.parametrize("extra", EXTRAS)
def test_pyproject_has_the_packages_of_each_extra(extra: str) -> None:
    told = {distribution(own) for own in PROJECT["optional-dependencies"][extra]}
    of_module = packages_distributions()
    assert {of_module[module][0].lower() for module in EXTRAS[extra]} == told


def test_all_and_dev_install_every_extra() -> None:
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(everything.removeprefix("vtexp[").rstrip("]").split(",")) == set(EXTRAS)
    assert "vtexp[all]" in PROJECT["optional-dependencies"]["dev"]


def test_the_core_has_none_of_wandb_slurm_and_plotly() -> None:
    core = {distribution(own) for own in PROJECT["dependencies"]}
    assert core.isdisjoint({"wandb", "wandb-workspaces", "submitit", "plotly", "easy-vqa"})


def test_the_readme_installs_wandb_and_slurm() -> None:
    readme = (ROOT / "README.md").read_text()
    first = next(line for line in readme.splitlines() if line.strip().startswith("python3 -m venv"))
    assert '".[all]"' in first


def lowest(specifier: SpecifierSet) -> Version:
    return max((Version(own.version) for own in specifier if own.operator == ">="), default=NONE)


def test_lowest_versions_are_no_lower_than_transformers_takes() -> None:
    """Of accelerate it looks at the version when a model is loaded, not when it is installed."""
    ours = {own.name: lowest(own.specifier) for own in map(Requirement, PROJECT["dependencies"])}
    if Version(version("transformers")) > ours["transformers"]:
        pytest.skip("a newer transformers may take only newer ones")
    theirs = {name: lowest(Requirement(text).specifier) for name, text in deps.items()}
    assert {"accelerate", "huggingface-hub"} <= ours.keys() & theirs.keys()
    assert {name: own for name, own in ours.items() if own < theirs.get(name, NONE)} == {}


def test_a_folder_of_a_packages_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder_only").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(EXTRAS, "folder", ("folder_only",))
    with pytest.raises(MissingExtraError, match=r"folder_only: pip install .vtexp\[folder\]"):
        require_extra("folder", "this")


@pytest.mark.parametrize(
    ("extra", "arguments", "says"),
    [
        ("wandb", ["launch", SMALL], "tracking=wandb"),
        ("wandb", ["launch", "-m", SMALL], "tracking=wandb"),
        ("slurm", ["launch", "-m", "hardware=h100", "tracking=none", SMALL,
                   "model.weights=random"], "hardware=h100"),
        ("easy_vqa", ["launch", "dataset=easy_vqa", "tracking=none"], "dataset=easy_vqa"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_line_before_anything_runs(
    extra: str, arguments: list[str], says: str, tmp_path: Path
) -> None:
    made = vtexp_without([extra], tmp_path, *arguments)
    assert made.returncode == 2
    (line,) = made.stderr.strip().splitlines()
    assert says in line
    assert f'pip install "vtexp[{extra}]"' in line
    assert not (tmp_path / "outputs").exists()


def test_a_plan_needs_no_extra(tmp_path: Path) -> None:
    made = vtexp_without(EXTRAS, tmp_path, "launch", "plan=true", SMALL)
    assert (made.returncode, made.stderr) == (0, "")


def test_without_the_reports_extra_the_rest_of_the_report_is_there(
    made_runs: Path, tmp_path: Path
) -> None:
    for path in made_runs.glob("*.html"):
        path.unlink()
    (made_runs / "comparison.csv").unlink()
    made = vtexp_without(["report"], tmp_path, "report", str(made_runs))
    assert made.returncode == 2
    (line,) = made.stderr.strip().splitlines()
    assert 'pip install "vtexp[report]"' in line
    assert "560x336" in made.stdout
    assert (made_runs / "comparison.csv").is_file()
    assert not (made_runs / "report.html").exists()
