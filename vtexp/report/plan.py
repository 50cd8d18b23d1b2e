"""What would run, on the terminal: counts, predicted time and memory, limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.budget.knobs import same_inputs, tiling_summary
from vtexp.metrics import metric
from vtexp.runs.forecast import Forecast, Prediction, forecast
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.within import settings_within
from vtexp.stats.bounded import Images
from vtexp.stats.power import planned_margin
from vtexp.utils.console import console
from vtexp.utils.text import bound_text, listed_of, three_digits


def show_plan(plan: Plan) -> None:
    """Print what would run: counts by arithmetic, predicted time and memory, limits, warnings."""
    expected = forecast(plan)
    console.print(_plan_table(plan, expected))
    if read := _in_unlike_blocks(plan):
        console.print(read)
    console.print(expected.basis)
    if plan.checkpoint.estimated:
        console.print(
            f"{plan.config.model.path} is not on this machine: prompt lengths are estimated with "
            "another tokenizer, all else follows from the published sizes"
        )
    if total := _total_time(expected):
        console.print(total)
    if plan.transparent:
        done = "pastes on white" if plan.checkpoint.family.transparent_on_white else "drops"
        console.print(
            f"{plan.transparent} of {len({sample.image for sample in plan.samples})} images have "
            f"transparency, which {plan.checkpoint.family.name}'s own loader {done}"
        )
    for failed in plan.failed[:3]:
        console.print(f"cannot be asked: sample {failed.sample_id}: {failed.reason}")
    if len(plan.failed) > 3:
        console.print(f"cannot be asked: {len(plan.failed)} samples in all")
    for run in plan.runs:
        if run.verdict.level != "recommended":
            console.print(f"{run.label}: {run.verdict.level}: {run.verdict.reason}")
    for warning in dict.fromkeys(warning for run in plan.runs for warning in run.warnings):
        warned = [run.label for run in plan.runs if warning in run.warnings]
        console.print(f"{listed_of(warned, len(plan.runs), 'budgets')}: {warning}")
    ordered = sorted(plan.runs, key=lambda run: run.target_vision_tokens)
    same = same_inputs([(run.label, run.inputs_fingerprint) for run in ordered])
    once = "" if plan.config.sweep.identical_runs else ", which is run once for both"
    for label, first in same.items():
        console.print(f"{label}: every image gives the same inputs as {first}{once}")
    for line in (*_margin(plan, len(plan.runs) - len(same)), *settings_within(plan)):
        console.print(line)


def _in_unlike_blocks(plan: Plan) -> str:
    """What the expected tokens are a mean of, where they leave within the language model."""
    asked, blocks = plan.runs[0].setting.reduction, plan.runs[0].active_blocks
    if asked is None or asked.layer is None:
        return ""
    return (
        f"tokens expected are means over {blocks} blocks: the first {asked.layer} read all, the "
        "others those kept"
    )


def _margin(plan: Plan, budgets: int) -> list[str]:
    """What loss the plan's questions can tell from none; empty where nothing is compared."""
    questions, asked = len(plan.samples), plan.config.report.margin
    if not plan.answers or budgets < 2 or not questions:
        return []
    unit = 100 * metric(plan.config.dataset.metric).highest
    images = _images(plan)
    if images.too_few is not None:
        return [f"no budget can be called enough: {images.too_few}"]
    margins = (planned_margin(images, budgets, share) for share in (0.0, 0.05))
    least, usual = (unit * min(1.0, margin) for margin in margins)  # no loss is larger than all
    found = [
        f"{questions} questions about {len(images.sizes)} images and {budgets} budgets can show "
        f"that a budget loses at most {bound_text(least, 1, up=True)} points if equal budgets "
        f"answer alike, {bound_text(usual, 1, up=True)} if 5 % of their answers "
        f"differ; report.margin is {asked:g}"
    ]
    if asked < least:
        found.append(
            "no budget can be called enough at this report.margin: ask more questions "
            "(dataset.limit) or raise it"
        )
    return found


def _images(plan: Plan) -> Images:
    """How many questions of a plan each of its images has."""
    return Images(np.array(list(Counter(sample.image_id for sample in plan.samples).values())))


def _plan_table(plan: Plan, expected: Forecast) -> Table:
    """A row for each run; a terminal too narrow leaves out columns, and cuts no number."""
    config = plan.config
    table = Table(
        title=f"{config.model.name} on {config.dataset.name}, {len(plan.samples)} questions",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    pairs = list(zip(plan.runs, expected.runs, strict=True))
    columns = _fitting({head: [cell(*pair) for pair in pairs] for head, cell in CELLS.items()})
    columns = {plan.config.knob.name: [run.value.value for run in plan.runs], **columns}
    for head in columns:
        words = head in WORDS or head == config.knob.name
        justify, overflow = ("left", "fold") if words else ("right", "ellipsis")
        table.add_column(head, justify=justify, overflow=overflow, no_wrap=not words)  # type: ignore[arg-type]
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _fitting(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """As many columns as the console is wide enough for, at least those not in DROPPED."""
    kept = dict(columns)
    for head in DROPPED:
        wide = sum(_width(head, cells) for head, cells in kept.items())
        if wide + LONGEST_KNOB_VALUE > console.width:
            del kept[head]
    return kept


def _width(head: str, cells: Sequence[str]) -> int:
    widest = max(map(len, (*head.split("\n"), *cells)))
    return 2 + (min(widest, NARROWEST_WORDS) if head in WORDS else widest)


def _time(predicted: Prediction) -> str:
    if predicted.prefill_ms is None:
        return "unknown"
    return (">" if predicted.at_least else "") + three_digits(predicted.prefill_ms)


def _known(value: float | None, factor: float) -> str:
    return "unknown" if value is None else three_digits(factor * value)


#: Heads of the plan's columns, and a run's cell in each.
CELLS: dict[str, Callable[[PlannedRun, Prediction], str]] = {
    "tiling": lambda run, _: tiling_summary(run.tilings),
    "crops": lambda run, _: f"{run.theoretical_num_crops:.4g}",
    "tokens\ntheory": lambda run, _: f"{run.theoretical_vision_tokens:.5g}",
    "tokens\nexpected": lambda run, _: f"{run.predicted_vision_tokens:.5g}",
    "longest\nprompt": lambda run, _: str(run.longest_prompt),
    "prefill\nTFLOP": lambda _, predicted: _known(predicted.flops, 1e-12),
    "prefill\nms": lambda _, predicted: _time(predicted),
    "memory\nGB": lambda run, _: _known(None if run.memory is None else run.memory.total, 1e-9),
    "verdict": lambda run, _: run.verdict.level,
}
#: Columns of words, which may go on in the next line; so wide they are at least.
WORDS, NARROWEST_WORDS, LONGEST_KNOB_VALUE = ("tiling", "verdict"), 11, 12
#: What a narrow terminal leaves out first.
DROPPED = ("prefill\nTFLOP", "longest\nprompt", "tokens\ntheory")


def _total_time(expected: Forecast) -> str:
    """How long all runs take one after the other; empty where one is unknown."""
    seconds = [run.run_s for run in expected.runs if run.run_s is not None]
    if len(seconds) < len(expected.runs):
        return ""
    total = sum(seconds)
    said = f"{total:.0f} s" if total < 90 else f"{three_digits(total / 60)} min"
    return f"all runs together take about {said}, one after the other"
