"""`python -m vtexp importance`: how much each block matters, and the order in which they leave."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.analysis.answer import points_interval
from vtexp.config.compose import compose_config
from vtexp.config.schema import Config
from vtexp.errors import ConfigError
from vtexp.runs.block_order import BlockOrder, read_block_order
from vtexp.runs.importance import measure, require_measurable, steps
from vtexp.runs.job import load_runner
from vtexp.runs.plan import Plan, make_plan
from vtexp.utils.console import console, progress
from vtexp.utils.grouping import grouped
from vtexp.utils.text import listed

#: What holds where nothing else is asked: the published preprocessing, and no run's folder.
SETTLED = ("tracking=none", "sweep.name=importance")
BUDGET = ("knob=max_crops", "knob.max_crops=[12]")


def show_importance(
    overrides: Sequence[str], out: Path | None = None, config_dir: Path | None = None
) -> None:
    """Measure each block's importance, print it, and write the order.

    `out`: the file; default: in `sweep.folder`, named after model, data set and split. Raises
    VtexpError, or Hydra's or OmegaConf's errors.
    """
    budget = () if any(word.startswith("knob") for word in overrides) else BUDGET
    config = compose_config([*SETTLED, *budget, *overrides], config_dir)
    plan = make_plan(config)
    require_measurable(plan)
    plan.require_feasible()
    path = out or _path(config)
    _require_writable(path)
    _refuse_other(path, plan)
    runner = load_runner(plan)
    for warning in plan.runs[0].warnings:
        console.print(warning)
    layers = plan.runs[0].llm_sizes.layers
    asked = f"{len(plan.samples)} questions, each with all {layers} blocks and without each of "
    console.print(f"{asked}{layers - 2}")
    with progress("answers", steps(plan)) as advance:
        found = measure(plan, runner, advance)
    console.print(_table(found))
    found.write(path)
    for line in (*_notes(found, overrides), _next(found, path, overrides)):
        console.print(line)


def _path(config: Config) -> Path:
    model, dataset = config.model.name, config.dataset
    folder = Path(config.sweep.folder).expanduser()
    return folder / f"block_order-{model}-{dataset.name}-{dataset.split}.json".replace("/", "-")


def _require_writable(path: Path) -> None:
    """Raises ConfigError where the file cannot be written, before anything is measured."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give a file with --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ConfigError(f"{path}: cannot be written; give another file with --out")


def _refuse_other(path: Path, plan: Plan) -> None:
    """Raises ConfigError where the file is there, and of another model."""
    if not path.exists():
        return
    found = read_block_order(str(path))
    if found.fingerprint != plan.checkpoint.fingerprint:
        raise ConfigError(
            f"{path}: is of another model ({found.model}, {found.fingerprint}); give another file "
            "with --out"
        )


def _table(found: BlockOrder) -> Table:
    """A row for each block in the order in which they leave."""
    table = Table(
        title=f"{found.model} on {found.dataset} ({found.split}), {found.questions} questions "
        f"about {found.images} images: {100 * found.accuracy:.1f} with all {found.layers} blocks",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for head in ("leaves", "block", "without it", "loss, points", "95 % interval"):
        table.add_column(head, justify="right", no_wrap=True)
    by_block = {one.block: one for one in found.blocks}
    for place, block in enumerate(found.order, 1):
        own = by_block[block]
        interval = (
            ""
            if own.low is None or own.high is None
            else points_interval(own.low, own.high, signed=True)
        )
        without = f"{100 * (found.accuracy - own.loss):.1f}"
        table.add_row(str(place), str(block), without, f"{100 * own.loss:.1f}", interval)
    return table


def _notes(found: BlockOrder, overrides: Sequence[str]) -> list[str]:
    """What a reader must know of the order."""
    notes = []
    in_order = sorted(found.blocks, key=lambda one: one.block)
    for alike in grouped(in_order, lambda one: one.loss).values():
        if len(alike) > 1:
            names = listed([str(one.block) for one in alike])
            notes.append(
                f"blocks {names} lose the same: of these the nearer to the middle leaves first"
            )
    if found.alike:
        pairs = listed([f"{one} and {other}" for one, other in found.alike])
        notes.append(
            f"these questions cannot tell apart what {pairs} lose (paired, 95 %): ask more "
            "(dataset.limit)"
        )
    notes.append("each block was left out alone: several together can lose more than their sum")
    notes.append(
        "each interval holds by itself; the same answers chose which blocks leave first, so these "
        "likely lose more than shown"
    )
    if not any(word.startswith(("dataset.split", "dataset.holdout")) for word in overrides):
        notes.append(
            f"measured on the split that runs ask by default ({found.dataset}, {found.split}), "
            "where accuracies under this order are too good: measure it on another one "
            "(dataset.split=NAME)"
        )
    return notes


def _next(found: BlockOrder, path: Path, overrides: Sequence[str]) -> str:
    """Where the order is, and the command that uses it."""
    kept = [word for word in overrides if word.startswith(("model", "dataset="))]
    numbers = ",".join(str(n) for n in range(max(2, found.layers - 4), found.layers + 1))
    words = [*kept, "knob=transformer_blocks", f"knob.blocks={numbers}"]
    command = shlex.join(["python", "launch.py", "-m", *words, f"model.block_order={path}"])
    return f"{path}: the order; next: {command}"
