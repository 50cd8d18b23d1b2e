"""Commands where packages are broken, or take variables of another environment for theirs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.made_sweeps import make_run
from tests.helpers.sweeps import ROOT
from vtexp.config import user_errors


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('LOGS=\\nhas no such\\nvalue')",
        "raise OSError('libcudart.so.12: cannot open shared object file')",
        "from json import has_no_such_name",
        "import has_no_such_module",
        "def fail():\n    return {}['KEY']\nfail()",
    ],
)
@pytest.mark.fault(
    "resources", "a package is broken, or refuses a variable", "one line that names the package"
)
def test_a_package_that_cannot_be_imported_is_one_line(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "spoilt"
    package.mkdir()
    (package / "__init__.py").write_text("from spoilt import inner")
    (package / "inner.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    ended = user_errors.reported(
        lambda: importlib.import_module("spoilt") and None, show_traceback=False, interrupted=""
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert ended == 1
    assert line.startswith("error: spoilt cannot be imported")


@pytest.mark.slow
def test_figures_need_no_backend(tmp_path: Path) -> None:
    """A notebook names its own to all that it starts; another environment does not have it."""
    for value, tokens in (("2", 288), ("4", 400)):
        make_run(tmp_path / "made", value, tokens, [1.0, 0.0], knob="max_crops")
    command = [sys.executable, "-m", "vtexp", "report", str(tmp_path / "made")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://of_a_notebook"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "made" / "figures").glob("*.svg"))
