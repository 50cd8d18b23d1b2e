"""What must not be compared, and why: questions, metrics, flags, machines, versions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.utils import files

#: What follows where runs differ in something.
ACCURACY = "accuracies are not comparable"
TIMES = "prefill times may differ for that reason too"
BOTH = "accuracies and times may differ for that reason too"
BUDGETS = "budgets of different kinds are in one comparison"
#: Values that a line names at most.
MOST_VALUES = 4


def unfair(
    rows: Sequence[dict[str, Any]],
    questions: Mapping[str, np.ndarray] | None = None,
    *,
    shared: bool = False,
) -> list[str]:
    """Lines such as `torch_threads: 2 (3 runs), 4 (1 run): prefill times ...`; none if all is fair.

    `questions`: the hashes of what each finished run was asked, by its folder. `shared`: other
    questions are no reason, as only those that all answered are compared.
    """
    done = [row for row in rows if row["status"] == "done"]
    surroundings = [_surroundings(row) for row in done]
    found = [] if shared else different_questions(done, questions or {})
    for dataset in sorted({row["dataset"] for row in done}):
        own = [row for row in done if row["dataset"] == dataset]
        for key in ("split", "metric"):
            found += _differing(f"{dataset}: {key}", [row[key] for row in own], ACCURACY)
    found += _differing("weights", [row["weights"] for row in done], ACCURACY)
    found += _differing("force_full_tokens", [row["force_full_tokens"] for row in done], BUDGETS)
    sized = [row["fit"] for row in done if row["knob"] == "image_size" and "fit" in row]
    found += _differing("knob.fit", sized, BUDGETS)
    for name, read, why in _SURROUNDINGS:
        found += _differing(name, [read(own) for own in surroundings], why)
    return found + _changed_while_waiting(surroundings)


def _changed_while_waiting(surroundings: Sequence[dict[str, Any]]) -> list[str]:
    """A line where jobs ran other code than that which submitted them."""
    count = sum(
        own.get("submitted_source") not in (None, own.get("source")) for own in surroundings
    )
    if not count:
        return []
    jobs = f"{count} run{'s'[: count > 1]}"
    return [f"vtexp's code changed between submission and start of {jobs}: {BOTH}"]


def different_questions(
    rows: Sequence[dict[str, Any]], questions: Mapping[str, np.ndarray]
) -> list[str]:
    """Data sets on which finished rows answered different questions, and how many they share."""
    by_dataset: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if fingerprint := row.get("samples_fingerprint"):
            by_dataset[row["dataset"]].setdefault(fingerprint, row)
    found = []
    for dataset, unlike in sorted(by_dataset.items()):
        if len(unlike) < 2:
            continue
        counts = " or ".join(str(row.get("num_samples")) for row in unlike.values())
        text = f"{dataset}: rows answered different questions ({counts}"
        sets = [
            questions[row["folder"]] for row in unlike.values() if row.get("folder") in questions
        ]
        if len(sets) == len(unlike):
            shared = sets[0]
            for other in sets[1:]:
                shared = np.intersect1d(shared, other)
            text += f", {len(shared)} shared"
        found.append(f"{text}); they are not compared question by question")
    return found


def _differing(what: str, values: Sequence[Any], why: str) -> list[str]:
    """A line where known values differ; one that is not known differs from none."""
    counts = Counter(str(value) for value in values if value is not None)
    if len(counts) < 2:
        return []
    named = [f"{value} ({n} run{'s'[: n > 1]})" for value, n in counts.most_common(MOST_VALUES)]
    if len(counts) > MOST_VALUES:
        named.append(f"{len(counts) - MOST_VALUES} more")
    return [f"{what}: {', '.join(named)}: {why}"]


def _surroundings(row: dict[str, Any]) -> dict[str, Any]:
    """environment.json of a run; empty where there is none."""
    path = Path(row["folder"]) / files.ENVIRONMENT
    if not path.is_file():
        return {}
    found = files.read_json(path)
    parts = {key: found.get(key) or {} for key in ("device", "git", "packages")}
    if not all(isinstance(part, dict) for part in parts.values()) or (
        parts["git"] and not isinstance(parts["git"].get("commit"), str)
    ):
        raise files.damaged(path, "not what a run ran on")
    return found


def _device(surroundings: dict[str, Any]) -> str | None:
    return (surroundings.get("device") or {}).get("name")


def _commit(surroundings: dict[str, Any]) -> str | None:
    git = surroundings.get("git")
    if not git:
        return None
    if not git.get("changed"):
        return str(git["commit"][:12])
    source = surroundings.get("source")
    return f"{git['commit'][:12]} with changes" + (f" ({source[:8]})" if source else "")


def _package(name: str, surroundings: dict[str, Any]) -> str | None:
    return (surroundings.get("packages") or {}).get(name)


def _plain(key: str, surroundings: dict[str, Any]) -> Any:
    return surroundings.get(key)


_SURROUNDINGS: tuple[tuple[str, Callable[[dict[str, Any]], Any], str], ...] = (
    ("device", _device, TIMES),
    ("host", partial(_plain, "host"), TIMES),
    ("torch_threads", partial(_plain, "torch_threads"), TIMES),
    ("vtexp commit", _commit, BOTH),
    *(
        (name, partial(_package, name), BOTH)
        for name in ("torch", "transformers", "numpy", "pillow", "tokenizers", "safetensors")
    ),
)
