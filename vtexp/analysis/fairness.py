"""Caveats of a comparison: what must not be compared, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.analysis.rows import ComparedRun
from vtexp.errors import DataError
from vtexp.runs.records import Environment, read_environment
from vtexp.utils import files
from vtexp.utils.text import count_of

#: What follows where runs differ in something.
ACCURACY = "accuracies are not comparable"
TIMES = "prefill times may differ for that reason too"
BOTH = "accuracies and times may differ for that reason too"
BUDGETS = "budgets of different kinds are in one comparison"
#: Values that a line names at most.
MOST_VALUES = 4


def caveats(
    runs: Sequence[ComparedRun],
    questions: Mapping[Path, np.ndarray] | None = None,
    *,
    shared: bool = False,
) -> list[str]:
    """Lines such as `torch_threads: 2 (3 runs), 4 (1 run): prefill times ...`; none if all is fair.

    `questions`: the hashes of what each finished run was asked, by its folder. `shared`: other
    questions are no reason, as only those that all answered are compared.
    """
    done = [run for run in runs if run.result is not None]
    found = [] if shared else different_questions(done, questions or {})
    for dataset in sorted({run.asked.dataset for run in done}):
        own = [run.asked for run in done if run.asked.dataset == dataset]
        found += _differing(f"{dataset}: split", [asked.split for asked in own], ACCURACY)
        found += _differing(f"{dataset}: metric", [asked.metric for asked in own], ACCURACY)
    asked = [run.asked for run in done]
    found += _differing("weights", [own.weights for own in asked], ACCURACY)
    found += _differing("force_full_tokens", [own.force_full_tokens for own in asked], BUDGETS)
    found += _differing("knob.fit", [o.fit for o in asked if o.knob == "image_size"], BUDGETS)
    environments = [
        read_environment(run.folder) for run in done if (run.folder / files.ENVIRONMENT).is_file()
    ]
    for name, read, why in _SURROUNDINGS:
        found += _differing(name, [read(own) for own in environments], why)
    return found + _changed_while_waiting(environments)


def _changed_while_waiting(environments: Sequence[Environment]) -> list[str]:
    """A line where jobs ran other code than that which submitted them."""
    count = sum(own.submitted_source not in (None, own.source) for own in environments)
    if not count:
        return []
    runs = count_of(count, "run")
    return [f"vtexp's code changed between submission and start of {runs}: {BOTH}"]


def different_questions(
    runs: Sequence[ComparedRun], questions: Mapping[Path, np.ndarray]
) -> list[str]:
    """Data sets on which finished runs answered different questions, and how many they share."""
    by_dataset: dict[str, dict[str, ComparedRun]] = defaultdict(dict)
    for run in runs:
        by_dataset[run.asked.dataset].setdefault(run.found.samples_fingerprint, run)
    found = []
    for dataset, unlike in sorted(by_dataset.items()):
        if len(unlike) < 2:
            continue
        counts = " and ".join(str(run.found.num_samples) for run in unlike.values())
        text = f"{dataset}: runs answered different questions ({counts}"
        sets = [questions[run.folder] for run in unlike.values() if run.folder in questions]
        if len(sets) == len(unlike):
            text += f", {len(reduce(np.intersect1d, sets))} shared"
        found.append(f"{text}); they are not compared question by question")
    return found


def require_same_samples(runs: Sequence[ComparedRun]) -> None:
    """Raises DataError where runs did not answer the same questions, and so are no pairs.

    Call it before any comparison question by question (paired tests, differences).
    """
    for reason in different_questions([run for run in runs if run.result is not None], {}):
        raise DataError(f"{reason}; run them again with the same dataset.limit, seed and files")


def _differing(what: str, values: Sequence[Any], why: str) -> list[str]:
    """A line where known values differ; one that is not known differs from none."""
    counts = Counter(str(value) for value in values if value is not None)
    if len(counts) < 2:
        return []
    named = [f"{value} ({count_of(n, 'run')})" for value, n in counts.most_common(MOST_VALUES)]
    if len(counts) > MOST_VALUES:
        named.append(f"{len(counts) - MOST_VALUES} more")
    return [f"{what}: {', '.join(named)}: {why}"]


def _commit(environment: Environment) -> str | None:
    git = environment.git
    if git is None or not git.changed:
        return None if git is None else git.commit[:12]
    return f"{git.commit[:12]} with changes ({environment.source[:8]})"


def _package(name: str, environment: Environment) -> str | None:
    return environment.packages.get(name)


_SURROUNDINGS: tuple[tuple[str, Callable[[Environment], Any], str], ...] = (
    ("device", lambda own: own.device.name, TIMES),
    ("host", lambda own: own.host, TIMES),
    ("torch_threads", lambda own: own.torch_threads, TIMES),
    ("vtexp commit", _commit, BOTH),
    *(
        (name, partial(_package, name), BOTH)
        for name in ("torch", "transformers", "numpy", "pillow", "tokenizers", "safetensors")
    ),
)
