"""Resuming with a mended request, and where the jobs before cannot be asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vtexp.cli.main import main
from vtexp.config.checks import with_keys
from vtexp.config.choices import Launcher
from vtexp.config.schema import Config
from vtexp.errors import ConfigError
from vtexp.runs.ledger import SubmittedJob, note_submitted
from vtexp.utils import files


def test_a_mended_request_changes_hardware_alone(make_config: Callable[..., Config]) -> None:
    config = make_config("model.revision='${model.name}'")
    keys = ["hardware.slurm.partition=long", "hardware.slurm.time_min=7", "hardware.max_parallel=2"]
    mended = with_keys(config, keys)
    assert mended.hardware.slurm.partition == "long"
    assert (mended.hardware.slurm.time_min, mended.hardware.max_parallel) == (7, 2)
    assert with_keys(config, []) == config
    (value,) = config.knob_values[:1]
    assert mended.run_id(value, "weights") == config.run_id(value, "weights")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("dataset.limit=7", "dataset.limit=7"),
        ("hardware.dtype=bfloat16", "hardware.dtype=bfloat16"),
        ("hardware.slurm.time_min=0", "hardware.slurm.time_min=0: must be 1 to 525600 min"),
    ],
)
def test_what_would_change_a_run_is_refused(
    make_config: Callable[..., Config], key: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        with_keys(make_config(), [key])
    assert str(caught.value).startswith(says)


@pytest.mark.slow
def test_runs_of_jobs_that_cannot_be_asked_for(
    made_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another machine's: nothing is done, with exit code 1, until the user says that it is gone."""
    run = min(path.parent for path in made_runs.glob(f"*/{files.RESULT}"))
    (run / files.RESULT).unlink()
    elsewhere = SubmittedJob((run.name,), Launcher.local, "17", host="elsewhere")
    note_submitted(made_runs, [elsewhere])
    assert main(["resume", str(made_runs)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "elsewhere" in line and "--anyway" in line
    assert not (run / files.RESULT).exists()
    assert main(["resume", str(made_runs), "--anyway", "hardware.max_parallel=3"]) == 0
    assert (run / files.RESULT).exists()
    assert files.read_config(run)["hardware"]["max_parallel"] == 3
    assert main(["resume", str(made_runs)]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_a_wrong_key_is_refused_where_nothing_is_left_to_resume(
    made_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", str(made_runs), "hardware.max_parallel=3"]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    for key in ("dataset.limit=7", "hardware.max_parallel=0"):
        assert main(["resume", str(made_runs), key]) == 2
        output = capsys.readouterr()
        assert output.err.startswith(f"error: {key}: ") and len(output.err.splitlines()) == 1
        assert not output.out
