"""Prefill time over crops and tokens, fitted to finished runs; what it says of runs to come.

    prefill_ms = intercept + per crop * crops + per token * L + per token squared * L ** 2

with L the tokens of the whole prompt. It is fitted to the mean of each timed question's prefills,
as reports and limits have means. No coefficient is negative, and relative errors are made small
(squares), so that a short prefill counts as much as a long one. A sweep writes its fits into
`cost_model.json`, one for each model on each hardware; a plan takes the newest that matches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

import vtexp
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import RESIZE
from vtexp.config.schema import Config, to_plain
from vtexp.cost.prompts import PromptCounts
from vtexp.errors import DataError
from vtexp.stats import terms as term_statistics
from vtexp.stats.times import Estimate
from vtexp.utils import files
from vtexp.utils.grouping import grouped
from vtexp.utils.text import percent

COST_MODEL = "cost_model.json"
#: Fewest settings (kinds of inputs) from which anything is fitted: one to leave out, two to fit.
LEAST_SETTINGS = 3
#: Settings of a config that decide how long a prefill takes, the knob's aside.
OF_PREFILL = {
    "model": ("name", "path", "revision", "weights"),
    "hardware": ("name", "device", "dtype", "cuda_graphs", "compile", "sharded"),
}
#: Conditions that come from the machine.
MEASURED_ON = ("device", "torch_threads", "torch", "transformers")


class Point(NamedTuple):
    """One timed question: crops, tokens of its prompt, and the mean of its prefills."""

    num_crops: int
    sequence_length: int
    prefill_ms: float


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Milliseconds of each term, none negative."""

    intercept_ms: float
    per_crop_ms: float
    per_token_ms: float
    per_token_squared_ms: float

    def prefill_ms(self, num_crops: float, sequence_length: float) -> float:
        """Predicted milliseconds of one prefill."""
        return (
            self.intercept_ms
            + self.per_crop_ms * num_crops
            + self.per_token_ms * sequence_length
            + self.per_token_squared_ms * sequence_length**2
        )


@dataclass(frozen=True, slots=True)
class RunTime:
    """Seconds of a whole run: fixed ones, and so many times all questions' predicted prefills."""

    intercept_s: float
    per_prefill: float

    def seconds(self, questions: int, prefill_ms: float) -> float:
        """Predicted seconds of a run that answers so many questions."""
        return self.intercept_s + self.per_prefill * questions * prefill_ms / 1000


def fit(points: Sequence[Point]) -> Coefficients:
    """Coefficients with the least relative errors (sum of squares), none below zero.

    Lawson and Hanson 1974, Solving Least Squares Problems, algorithm NNLS.
    """
    return Coefficients(*term_statistics.least_relative_errors(*_terms(points)).tolist())


def _terms(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) what the coefficients are multiplied by, and (n,) prefills in ms."""
    crops, lengths, times = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    return np.stack([np.ones_like(crops), crops, lengths, lengths**2], axis=1), times


@dataclass(frozen=True, slots=True)
class TimedRun:
    """What a finished run says of time: its timed questions, and how long all of it took."""

    setting: str  # hash of what decides the inputs: caps that change nothing are one setting
    label: str
    conditions: dict[str, Any]
    commit: str | None
    points: tuple[Point, ...]
    questions: int
    duration_s: float | None  # of runs that answered
    disturbed: tuple[str, ...]

    @property
    def prefill_ms(self) -> float:
        """Mean over the questions."""
        return fmean(point.prefill_ms for point in self.points)


def write_cost_model(sweep: Path) -> Path | None:
    """Write the fits of a sweep's finished runs; None where there are too few settings for any.

    Call it when runs have finished. A run whose files cannot be read is left out.
    """
    timed = filter(None, map(timed_run, sorted(sweep.iterdir())))
    groups = grouped(timed, lambda run: repr(run.conditions))
    fits = [_described(runs) for runs in groups.values() if _settings(runs) >= LEAST_SETTINGS]
    path = sweep / COST_MODEL
    if not fits:
        path.unlink(missing_ok=True)
        return None
    about = {
        "sweep": sweep.name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "vtexp": vtexp.__version__,
    }
    files.write_json(path, about | {"fits": fits})
    return path


def timed_run(folder: Path) -> TimedRun | None:
    """What a run folder says of time; None where it has no result of its own or cannot be read.

    None, too, where tokens leave within the language model: crops and the prompt's length, of which
    a fit is, do not say how long its prefills take.
    """
    if not (folder / files.RESULT).is_file():
        return None
    try:
        result = files.read_json(folder / files.RESULT)
        surroundings = files.read_json(folder / files.ENVIRONMENT)
        config = files.read_config(folder)
        if result.get("same_run_as") is not None or result.get("reduction_layer") is not None:
            return None
        return TimedRun(
            setting=result["inputs_fingerprint"],
            label=f"{result['knob']}={result['knob_value']}",
            conditions=_conditions(config) | _measured_on(surroundings),
            commit=(surroundings.get("git") or {}).get("commit"),
            points=tuple(_points(files.read_jsonl(folder / files.LATENCY))),
            questions=result["num_samples"],
            duration_s=None if result["accuracy"] is None else result.get("duration_s"),
            disturbed=tuple(result.get("timing_warnings") or ()),
        )
    except (DataError, OSError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _conditions(plain: dict[str, Any]) -> dict[str, Any]:
    """The settings of a plain config that decide how long a prefill takes."""
    found = {
        f"{group}.{key}": plain[group].get(key)
        for group, keys in OF_PREFILL.items()
        for key in keys
    }
    # With a reduction, or fewer experts or blocks, a prefill is another thing; fits of before there
    # were any lack these keys.
    method = (plain.get("reduction") or {}).get("method", "none")
    found |= {} if method in ("none", RESIZE) else {"reduction": method}
    llm = (plain.get("run") or {}).get("llm")
    return found if llm is None else found | {"llm": llm}


def _measured_on(surroundings: dict[str, Any]) -> dict[str, Any]:
    """Device and versions of environment.json, without which times are not the same."""
    packages = surroundings["packages"]
    return {
        "device": surroundings["device"]["name"],
        "torch_threads": surroundings["torch_threads"],
        "torch": packages.get("torch"),
        "transformers": packages.get("transformers"),
    }


def _points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """One point per question. Raises ValueError where there is none, or one that is no time."""
    points = [
        Point(
            int(found[0]["num_crops"]),
            int(found[0]["sequence_length"]),
            fmean(row["prefill_ms"] for row in found),
        )
        for found in grouped(rows, lambda row: row["sample_id"]).values()
    ]
    if not points or not all(0 < point.prefill_ms < math.inf for point in points):
        raise ValueError("no timed prefills")
    return points


def _settings(runs: Sequence[TimedRun]) -> int:
    return len({run.setting for run in runs})


def fit_runs(runs: Sequence[TimedRun]) -> Coefficients:
    """The fit to all timed questions of some runs."""
    return fit([point for run in runs for point in run.points])


def mean_prefill_ms(coefficients: Coefficients, run: TimedRun) -> float:
    """Predicted mean prefill of a run's timed questions."""
    return fmean(coefficients.prefill_ms(p.num_crops, p.sequence_length) for p in run.points)


def held_out_errors(
    runs: Sequence[TimedRun], predict: Callable[[list[TimedRun], TimedRun], float]
) -> list[float]:
    """The relative error of what the runs of all other settings predict of each run.

    `predict` gives predicted / measured.
    """
    return [
        predict([other for other in runs if other.setting != run.setting], run) - 1 for run in runs
    ]


def _prefill_ratio(others: list[TimedRun], run: TimedRun) -> float:
    return mean_prefill_ms(fit_runs(others), run) / run.prefill_ms


def _described(runs: Sequence[TimedRun]) -> dict[str, Any]:
    """A fit as `cost_model.json` has it: conditions, coefficients, and how far off it is."""
    coefficients = fit_runs(runs)
    errors = held_out_errors(runs, _prefill_ratio)
    points = [point for run in runs for point in run.points]
    crops, lengths = [p.num_crops for p in points], [p.sequence_length for p in points]
    return {
        "conditions": runs[0].conditions,
        "commits": sorted({run.commit for run in runs if run.commit}),
        "coefficients": asdict(coefficients),
        **_how_well_known(runs),
        "num_crops": [min(crops), max(crops)],
        "sequence_length": [min(lengths), max(lengths)],
        "held_out_error": _summary(errors),
        "settings": [
            {
                "setting": run.label,
                "questions": len(run.points),
                "num_crops": fmean(p.num_crops for p in run.points),
                "sequence_length": fmean(p.sequence_length for p in run.points),
                "measured_ms": run.prefill_ms,
                "fitted_ms": mean_prefill_ms(coefficients, run),
                "held_out_error": error,
                "disturbed": list(run.disturbed),
            }
            for run, error in zip(runs, errors, strict=True)
        ],
        "run_time": _run_time(runs),
    }


def _how_well_known(runs: Sequence[TimedRun]) -> dict[str, Any]:
    """95 % interval of each coefficient, null where open, and terms that cannot be told apart.

    And what predictions need: coefficients without each setting, and the settings' misfit.
    """
    terms, times = _terms([point for run in runs for point in run.points])
    settings = np.array([run.setting for run in runs for _ in run.points])
    found = term_statistics.coefficients(terms, times, settings)
    known = term_statistics.uncertainty(terms, times, settings)
    names = [field.name for field in fields(Coefficients)]
    return {
        "coefficient_intervals": {
            name: [float(low), float(high) if np.isfinite(high) else None]
            for name, low, high in zip(names, found.low, found.high, strict=True)
        },
        "not_told_apart": [names[i] for i in found.together],
        "left_out": [dict(zip(names, own, strict=True)) for own in known.left_out.tolist()],
        "misfit": known.misfit if known.freedom else None,
        "freedom": known.freedom,
    }


def _summary(errors: Sequence[float]) -> dict[str, float]:
    """Mean and worst absolute relative error."""
    sizes = [abs(error) for error in errors]
    return {"mean": fmean(sizes), "worst": max(sizes)}


def _run_time(runs: Sequence[TimedRun]) -> dict[str, Any] | None:
    """The fit to the durations of runs that answered; None where they are too few."""
    answered = [run for run in runs if run.duration_s]
    if _settings(answered) < LEAST_SETTINGS:
        return None

    def ratio(others: list[TimedRun], run: TimedRun) -> float:
        seconds = fit_run_time(others).seconds(run.questions, run.prefill_ms)
        return seconds / (run.duration_s or 1)

    errors = held_out_errors(answered, ratio)
    return asdict(fit_run_time(answered)) | {"held_out_error": _summary(errors)}


def fit_run_time(runs: Sequence[TimedRun]) -> RunTime:
    """Seconds of a run by its questions' prefills, with the least relative errors."""
    prefills_s = np.array([run.questions * run.prefill_ms / 1000 for run in runs])
    terms = np.stack([np.ones_like(prefills_s), prefills_s], axis=1)
    durations = np.array([run.duration_s for run in runs])
    return RunTime(*term_statistics.least_relative_errors(terms, durations).tolist())


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A fit that a plan may use, and where it comes from."""

    path: Path
    written: str
    device: str
    coefficients: Coefficients
    known: term_statistics.Uncertainty
    run_time: RunTime | None
    num_crops: tuple[int, int]
    sequence_length: tuple[int, int]
    mean_error: float
    worst_error: float
    disturbed: int
    settings: int

    def covers(self, prompts: Iterable[PromptCounts]) -> bool:
        """Whether such prompts are within what it was fitted to; lengths a tenth beyond still."""
        (fewest, most), (shortest, longest) = self.num_crops, self.sequence_length
        return all(
            fewest <= prompt.num_crops <= most
            and 0.9 * shortest <= prompt.sequence_length <= 1.1 * longest
            for prompt in prompts
        )

    def mean_prefill(self, prompts: Counter[PromptCounts]) -> Estimate:
        """Mean prefill in ms of such prompts, and how well the fit knows it."""
        counts = np.array(list(prompts.values()), dtype=float)
        terms, _ = _terms([Point(own.num_crops, own.sequence_length, 1.0) for own in prompts])
        estimate = np.array(list(asdict(self.coefficients).values()))
        return term_statistics.prediction(counts @ terms / counts.sum(), estimate, self.known)

    @property
    def origin(self) -> str:
        """Where it comes from and how far off it is, for people."""
        disturbed = f"; {self.disturbed} of its {self.settings} settings have doubtful times"
        return (
            f"fitted on {self.written[:10]} to {self.settings} settings on {self.device} "
            f"({self.path}); off by {percent(self.mean_error, 1)} on settings left out, "
            f"{percent(self.worst_error, 1)} at worst{disturbed if self.disturbed else ''}"
        )


def find_cost_model(config: Config, llm: LlmSetting | None = None) -> FoundModel | None:
    """The newest fit below `sweep.folder` of the same model, weights, hardware and dtype.

    `llm`: which experts and blocks work, the same ones too. Files that cannot be read are passed
    over.
    """
    own = None if llm is None else llm.plain()
    wanted = _conditions(to_plain(config) | {"run": {"llm": own}})
    found: list[FoundModel] = []
    for path in Path(config.sweep.folder).expanduser().absolute().glob(f"*/{COST_MODEL}"):
        try:
            model = files.read_json(path)
            for described in model["fits"]:
                if wanted == _asked_for(described["conditions"]):
                    found.append(_found(path, model["written"], described))
        except (DataError, KeyError, TypeError, ValueError, AttributeError):
            continue
    return max(found, key=lambda model: model.written, default=None)


def _asked_for(conditions: dict[str, Any]) -> dict[str, Any]:
    """Conditions without what a plan cannot know: device and versions."""
    return {key: value for key, value in conditions.items() if key not in MEASURED_ON}


def _found(path: Path, written: str, described: dict[str, Any]) -> FoundModel:
    run_time = described["run_time"]
    settings = described["settings"]
    return FoundModel(
        path=path,
        written=str(written),
        device=described["conditions"]["device"],
        coefficients=Coefficients(**described["coefficients"]),
        known=_uncertainty(described),
        run_time=run_time and RunTime(run_time["intercept_s"], run_time["per_prefill"]),
        num_crops=tuple(described["num_crops"]),
        sequence_length=tuple(described["sequence_length"]),
        mean_error=described["held_out_error"]["mean"],
        worst_error=described["held_out_error"]["worst"],
        disturbed=sum(bool(setting["disturbed"]) for setting in settings),
        settings=len(settings),
    )


def _uncertainty(described: dict[str, Any]) -> term_statistics.Uncertainty:
    left_out = [list(asdict(Coefficients(**own)).values()) for own in described["left_out"]]
    misfit = described["misfit"]
    return term_statistics.Uncertainty(
        np.array(left_out), math.nan if misfit is None else misfit, described["freedom"]
    )
