"""`python -m vtexp datasets`: the list of data sets, and the picture of one sample."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.config.compose import compose_config, dataset_configs, dataset_names
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.config.schema import Config
from vtexp.data.load import UNCOUNTED, is_here
from vtexp.data.sample import Sample
from vtexp.data.sources.loader import count_questions
from vtexp.errors import ConfigError, DataError
from vtexp.prompts.wording import option_names
from vtexp.runs.plan import make_plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.utils.by_name import imported
from vtexp.utils.console import console, print_whole
from vtexp.utils.files import write_bytes
from vtexp.utils.text import count_of

#: A size that is neither published nor countable here.
UNKNOWN = "?"


def show_list(config_dir: Path | None) -> None:
    """Print one row per set: what to choose it by, its size, metric, licence, whether it is here.

    Raises ConfigError for a set whose keys do not fit together.
    """
    # As narrow as can be: 80 columns leave the licence 15.
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("dataset", no_wrap=True)
    table.add_column("split", no_wrap=True)
    table.add_column("questions", no_wrap=True, justify="right")
    table.add_column("metric", no_wrap=True)
    table.add_column("licence")
    table.add_column("here", no_wrap=True)
    for name, dataset in dataset_configs(config_dir).items():
        here, count = _look(dataset)
        size = UNKNOWN if count is None else f"{count:,}".replace(",", " ")
        row = (name, dataset.split, size, dataset.metric, dataset.licence, "yes" if here else "no")
        table.add_row(*row)
    print_whole(console, table)
    console.print(
        "here: whole on this machine. `python -m vtexp datasets show NAME` draws a sample, or says "
        "how to get the set."
    )


def _look(dataset: DatasetConfig) -> tuple[bool, int | None]:
    """Whether a set is on this machine, and how many questions its split has, if known."""
    here, count = is_here(dataset), dataset.num_questions.get(dataset.split)
    if count is None and here and dataset.source.form not in UNCOUNTED:
        try:
            count = count_questions(dataset)
        except DataError:  # damaged
            here = False
    return here, count


def show_sample(
    name: str, index: int, out: Path | None, config_dir: Path | None, overrides: Sequence[str]
) -> None:
    """Draw the sample at a place of a run's order, under the last of the knob's values.

    Writes a PNG and prints its path. Raises VtexpError, or Hydra's or OmegaConf's errors.
    """
    _require_known(name, config_dir)
    if out is not None and out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: the picture is a PNG; give a name that ends in .png")
    # No weights are needed, nothing is fetched, and any place of the split can be asked for.
    settled = (f"dataset={name}", "model.weights=random", "plan=true", "dataset.limit=null")
    config = compose_config([*overrides, *settled], config_dir)
    plan = make_plan(config, index)
    plan = replace(plan, runs=plan.runs[-1:])
    plan.require_feasible()
    (sample,), (run,) = plan.samples, plan.runs
    # By name, as they import torch: only once all else is found right.
    views_of = imported("vtexp.models.views:views_of")
    sample_picture = imported("vtexp.report.sample_picture:sample_picture")
    image = sample.pixels()
    views = views_of(image, run.setting, plan.geometry, plan.checkpoint)
    dataset = config.dataset
    title = f"{dataset.name}, {dataset.split}, question {index} ({sample.sample_id})"
    label = run.label.replace("=", "-").replace(",", "-")
    path = out or Path(f"{dataset.name}-{index}-{label}.png")
    write_bytes(path, sample_picture(image, views, title, _facts(config, sample, run)))
    console.print(str(path))


def _facts(config: Config, sample: Sample, run: PlannedRun) -> list[tuple[str, str]]:
    """The lines above the picture: label and text."""
    (tiling,) = run.tilings
    crops = count_of(tiling.num_crops, "crop")
    answers = Counter(sample.references).most_common()
    facts = [
        ("question", sample.question or "none is asked"),
        ("options", "\n".join(_options(sample))),
        ("references", ", ".join(f"{text} ({n}x)" if n > 1 else text for text, n in answers)),
        (
            "budget",
            f"{run.label} on {config.model.name}, fit {run.setting.fit}: tiling {tiling}, {crops} "
            "and the global crop",
        ),
        (
            "vision tokens",
            f"{run.theoretical_vision_tokens:.0f} theoretical, {run.predicted_vision_tokens:.0f} "
            "actual",
        ),
        *(("note", warning) for warning in run.warnings),
    ]
    return [(name, text) for name, text in facts if text]


def _options(sample: Sample) -> list[str]:
    """Options as they are named in answers; empty places are left out."""
    named = zip(option_names(sample), sample.options, strict=False)
    return [text if name == text else f"{name}: {text}" for name, text in named if text.strip()]


def _require_known(name: str, config_dir: Path | None) -> None:
    names = dataset_names(config_dir)
    if name in names:
        return
    plain = {re.sub(r"\W|_", "", known.lower()): known for known in names}
    near = get_close_matches(re.sub(r"\W|_", "", name.lower()), plain, cutoff=0.5)
    meant = f"did you mean {' or '.join(plain[n] for n in near)}? " if near else ""
    raise ConfigError(f"dataset {name}: no such set; {meant}`python -m vtexp datasets` lists all")
