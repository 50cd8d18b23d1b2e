"""The settings of runs that have no column of their own, and in which of them runs differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtexp.budget.knobs import WITH_CAP
from vtexp.budget.reduction import DEFAULT_LAYER, EARLY_LAYER
from vtexp.config.schema import OF_LLM, OF_NO_NUMBER
from vtexp.utils import files
from vtexp.utils.typed import flat

#: Settings of reductions whose defaults are the method's own, and what these are.
OF_METHODS: dict[str, Callable[[str | None], Any]] = {
    "reduction.layer": lambda _: DEFAULT_LAYER,
    "reduction.positions": lambda method: "keep" if method == EARLY_LAYER else "renumber",
}


def run_settings(folder: Path) -> dict[str, Any]:
    """Settings of a run that can change its numbers and have no column of their own, flat."""
    config = files.read_config(folder)
    run, groups = config.get("run"), ("model", "dataset", "hardware", "measure")
    if not isinstance(run, dict) or not all(isinstance(config.get(key), dict) for key in groups):
        raise files.damaged(folder / files.CONFIG, files.NO_CONFIG)
    told = {f"{group}.{key}" for group, key in OF_NO_NUMBER}
    told |= {f"{group}.{key}" for group in groups for key in ("name", "split")}
    found = {
        key: value
        for key, value in flat({group: config.get(group) for group in groups}, ".").items()
        if not any(key == one or key.startswith(f"{one}.") for one in told)
    }
    found = {_short(key): _joined(value) for key, value in found.items()}
    if run.get("name") in WITH_CAP:
        found |= {"knob.max_crops": run.get("max_crops")}
    if run.get("name") == "kept_tokens":
        found |= _reduction(run.get("reduction"))
    return found | ({"knob.fit": run.get("fit")} if run.get("name") == "image_size" else {})


def varying(datasets: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Settings in which runs differ, on these data sets; those of a data set only on the same one.

    One that a run's knob does not have differs from none. Those of a method that are not its
    defaults are named in any case.
    """
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for dataset, own in zip(datasets, settings, strict=True):
        for key, value in own.items():
            group = dataset if key.startswith("dataset.") else ""
            seen[key, group].add(str(value))
    return {key for (key, _), values in seen.items() if len(values) > 1} | OF_METHODS.keys()


def _joined(value: Any) -> Any:
    """A list as the command line has it, such as `[0,1,3]`: settings are told apart by commas."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else value


def _short(key: str) -> str:
    """A setting's name for people: experts and blocks are the model's anyway."""
    name = key.removeprefix("model.")
    return name if name in OF_LLM else key


def _reduction(asked: Any) -> dict[str, Any]:
    """What differs between reductions, but for how many tokens they keep."""
    plain = asked if isinstance(asked, dict) else {}
    keys, method = ("structure_tokens", "seed", "merge", "function"), plain.get("method")
    found = {"reduction": method} | {f"reduction.{k}": plain.get(k) for k in keys}
    own = {key: plain.get(key.removeprefix("reduction.")) for key in OF_METHODS}
    return found | {
        key: value for key, value in own.items() if value not in (None, OF_METHODS[key](method))
    }
