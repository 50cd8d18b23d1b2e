"""What an analysis finds, as plain data: `analyse.py` fills it in, reports show it.

Accuracies and differences are in the metric's own unit (0 to 1; `cider` 0 to 10), never in percent;
only sentences speak of points (hundredths of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtexp.utils import files
from vtexp.utils.typed import Misfit, from_json, to_json

#: File of a report with all that was found; the number is raised whenever a key changes.
ANALYSIS_NAME, FORMAT = "analysis.json", 4
#: What the test says of a single budget.
ENOUGH, NOT_ENOUGH, CANNOT_TELL = BUDGET_VERDICTS = ("enough", "not enough", "cannot tell")


@dataclass(frozen=True)
class Difference:
    """Accuracy of a run minus that of a baseline, question by question on the same questions.

    `low` and `high`: 95 % interval, clustered by image; None where the images carry none. Of
    `versus_best` the intervals of all pairs of the series hold together, else each by itself.
    `p_value`: of no difference, by flipping signs image by image; `p_holm` the same corrected for
    all pairs of the series; `p_at_floor`: both are upper bounds, to be written with `<`.
    `p_mcnemar`: McNemar's exact test, None unless all scores are 0 or 1; it takes questions
    about one image as independent. `wins` and `losses`: questions scored higher and lower.
    """

    run: str
    baseline: str
    difference: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    p_at_floor: bool
    p_mcnemar: float | None
    wins: int
    losses: int


@dataclass(frozen=True)
class Ratio:
    """Mean prefill of `baseline` divided by that of `run` on the same questions: the speed-up.

    `low` and `high`: 95 % interval over the timed questions, `n` of them, and over `processes`, or
    over the rounds of one process; None where nothing was repeated. `side_by_side`: the same
    processes timed both in turns; else, for one process each, how processes differ is not in it.
    """

    run: str
    baseline: str
    ratio: float
    low: float | None
    high: float | None
    n: int
    processes: int = 1
    side_by_side: bool = True


@dataclass(frozen=True)
class Cost:
    """What the prefills of 1 000 images cost, on all that one process of a run uses.

    `seconds` at batch 1: the mean prefill, with its 95 % interval. `energy_j` at batch 1.
    `batch_seconds`: in batches of `batch_size`, as the answers were given, from prompts on the host
    to first tokens; `images_per_s` is the same as a throughput. `batch_decode_seconds`: of the
    tokens behind. `price` and `batch_price`: the seconds by `hardware.price_per_hour`. None where
    it was not measured or is not set.
    """

    seconds: float
    seconds_low: float | None
    seconds_high: float | None
    energy_j: float | None = None
    price: float | None = None
    batch_size: int | None = None
    batch_seconds: float | None = None
    batch_decode_seconds: float | None = None
    batch_price: float | None = None
    images_per_s: float | None = None


@dataclass(frozen=True)
class AnalysedRun:
    """One budget of a series.

    `run` is the run's folder name, `folder` its path, `label` such as `image_size=560x336`.
    `at_least_worse`, `at_most_worse`: bounds of the accuracy lost against the truly best budget,
    each with 95 % confidence for all budgets of the series at once; `sufficient` where the latter
    is within the margin.
    `front_share`: share of bootstrap draws in which no other budget is at least as accurate and as
    fast; `on_front` whether that is so in the data. `prefill_ms`: mean over the questions that all
    runs timed, or over its own where there are none, with its 95 % interval between `processes`, or
    within one. Statistics are None where the data has none.
    `timing_warnings`: why its times are doubtful. `host_bound`: the GPU waited for the host.
    `most`: no budget can be larger, as all blocks run.
    """

    run: str
    folder: str
    label: str
    knob_value: str
    vision_tokens: float
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    prefill_ms: float | None
    prefill_low: float | None = None
    prefill_high: float | None = None
    processes: int = 1
    cost: Cost | None = None
    at_least_worse: float | None = None
    at_most_worse: float | None = None
    sufficient: bool | None = None
    on_front: bool | None = None
    front_share: float | None = None
    versus_best: Difference | None = None
    versus_smaller: Difference | None = None
    speed_up: Ratio | None = None
    same_inputs_as: str | None = None
    timing_warnings: tuple[str, ...] = ()
    host_bound: bool = False
    execution: str | None = None
    most: bool = False

    def verdict(self, margin: float) -> str | None:
        """One of BUDGET_VERDICTS, of a margin in points; None where nothing was compared."""
        if self.sufficient is None or self.at_least_worse is None:
            return None
        if self.sufficient:
            return ENOUGH
        return NOT_ENOUGH if 100 * self.at_least_worse > margin else CANNOT_TELL


@dataclass(frozen=True)
class GroupCell:
    """Accuracy of one run on one group of questions, and its difference from the series' best run.

    The intervals of a group's differences hold together; those of several groups do not. The
    p-value is Holm's over all pairs of runs in all groups, an upper bound if `p_at_floor`.
    """

    run: str
    accuracy: float
    low: float | None
    high: float | None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_holm: float | None = None
    p_at_floor: bool = False


@dataclass(frozen=True)
class Group:
    """Questions that share a value of an attribute; cells in the order of the series' runs."""

    value: str
    num_samples: int
    num_images: int
    cells: tuple[GroupCell, ...]


@dataclass(frozen=True)
class Grouping:
    """All groups of one attribute, such as `question_type` or `print_px`."""

    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Power:
    """What this many questions can show, with 80 % power.

    `margin`: the smallest one within which they show a budget to be that is as good as the best, in
    the scores' unit. `questions_for_margin`: about how many questions show it at the margin asked
    for; None above a million, and for a margin of 0.
    """

    margin: float
    questions_for_margin: int | None


@dataclass(frozen=True)
class Answer:
    """The smallest budget that is not worse than the best by more than the margin.

    `verdict` is `smaller` (than the budget that scored highest), `best` (that one itself) or
    `larger`; without a `run` it is `cannot_tell` (too few questions), `one_value` (nothing to
    compare with), `no_accuracy` (random weights) or `different_samples`. `sentence` says it to
    people, `caveats` what they must know with it. `run`: the budget, None where the data cannot
    tell; `best` the one with the highest accuracy; tokens saved are against `best`, below 0 where
    `run` is larger. `needed`: every smaller budget was measured and loses more than the margin.
    `worse_larger`: larger budgets with significantly lower accuracy than `run`.
    """

    verdict: str
    sentence: str
    caveats: tuple[str, ...] = ()
    run: str | None = None
    best: str | None = None
    vision_tokens: float | None = None
    tokens_saved: float | None = None
    speed_up: Ratio | None = None
    needed: bool = False
    worse_larger: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guess:
    """What to take while the data cannot tell: the smallest budget that scored within the margin.

    `loss`: accuracy lost against the budget that scored highest, with its simultaneous 95 %
    interval `low` to `high`; tokens and speed are against the same.
    """

    run: str
    loss: float
    low: float | None
    high: float | None
    tokens_saved: float
    speed_up: Ratio | None
    sentence: str


@dataclass(frozen=True)
class AtMargin:
    """The smallest budget that is known to be enough at a margin in points; None: not known."""

    margin: float
    run: str | None


@dataclass(frozen=True)
class AgainstLimit:
    """What a budget costs beside a limit such as `max_prefill_ms`, both in the unit of its name.

    Times: `value` is the mean with its 95 % interval between `processes`, or within one; `chance`
    that the true mean is within the limit, no higher than that of a smaller budget, and
    `chance_alone` by its own times; `beyond` how many of the `timed` questions take longer in their
    own mean. Memory and energy are measured once: they have neither interval nor chance. `value` is
    None where it was not measured.
    """

    key: str
    limit: float
    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    chance_alone: float | None = None
    beyond: int | None = None
    timed: int | None = None
    processes: int = 1

    @property
    def within(self) -> bool:
        """Whether what was measured is within the limit."""
        return self.value is not None and self.value <= self.limit


@dataclass(frozen=True)
class UnderLimits:
    """The most accurate budget within all limits of `report`, and why.

    `run` is None where no measured budget is within them, or what they limit was not measured;
    `costs` are those of `run`. `surer`: the most accurate budget that is within with 95 %, as are
    all smaller ones, where that is another one.
    """

    sentence: str
    run: str | None = None
    costs: tuple[AgainstLimit, ...] = ()
    surer: str | None = None


@dataclass(frozen=True)
class Series:
    """Runs that differ in their budget alone, in the order of measured vision tokens.

    Budgets of all knobs are in one series: what counts is how many tokens they mean.
    """

    name: str
    model: str
    weights: str
    dataset: str
    split: str
    metric: str
    hardware: str
    settings: str
    num_samples: int
    num_images: int
    runs: tuple[AnalysedRun, ...]
    groupings: tuple[Grouping, ...]
    power: Power | None
    answer: Answer
    guess: Guess | None = None
    margins: tuple[AtMargin, ...] = ()
    under_limits: UnderLimits | None = None


@dataclass(frozen=True)
class AcrossBudget:
    """A budget that was measured on several data sets; tokens and accuracy are means over these.

    `worst_at_most`: the largest of the data sets' bounds of the loss, which also bounds the loss on
    all of them with 95 % confidence, and the data set it is of. `average_at_most`: bound of the
    loss on average, for all budgets at once; None where a data set carries none.
    """

    label: str
    vision_tokens: float
    accuracy: float
    worst_at_most: float
    worst_dataset: str
    average_at_most: float | None


@dataclass(frozen=True)
class Across:
    """One budget for several data sets, which differ in nothing else; `budgets` by their tokens.

    `enough_for_all`: label of the smallest that is enough on each; `enough_on_average`: of the
    smallest whose average loss is within the margin, data sets counting alike. None: not known.
    """

    name: str
    datasets: tuple[str, ...]
    budgets: tuple[AcrossBudget, ...]
    enough_for_all: str | None
    enough_on_average: str | None
    sentence: str


@dataclass(frozen=True)
class GridAxis:
    """One knob of a grid and the values it takes, from the cheapest to the most expensive."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class GridPoint:
    """One setting of a grid: a run with its value on each axis.

    `prefill_ms`: mean over the questions that all runs of the grid timed. `on_front`: no other
    setting is at least as accurate, as fast and as small in memory, by these estimates; None where
    one of the three is not known of all. `doubtful`: its timings are.
    """

    run: str
    values: tuple[str, ...]
    vision_tokens: float
    accuracy: float | None
    prefill_ms: float | None
    memory_gb: float | None
    on_front: bool | None
    doubtful: bool = False


@dataclass(frozen=True)
class Interaction:
    """Whether two knobs add up: what lowering the first costs, at both ends of the second.

    Losses of accuracy from the `highest` value of the first knob to its `lowest`, with the second
    at its highest and at its lowest. `difference`: the latter minus the former, with its 95 %
    interval, paired by question; above 0, lowering both loses more than the sum of each alone.
    `p_holm`: of no difference, corrected for all pairs of knobs; an upper bound if `p_at_floor`.
    """

    knobs: tuple[str, str]
    lowest: tuple[str, str]
    highest: tuple[str, str]
    loss_at_highest: float
    loss_at_lowest: float
    difference: float
    low: float | None
    high: float | None
    p_holm: float
    p_at_floor: bool


@dataclass(frozen=True)
class Grid:
    """Runs in which several knobs take several values and nothing else differs.

    `memory`: whether that of the points was `measured` or `predicted`. `metric`: of the scores.
    """

    name: str
    axes: tuple[GridAxis, ...]
    points: tuple[GridPoint, ...]
    memory: str
    metric: str
    interactions: tuple[Interaction, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """All series of a comparison; `margin` in points, as in `report.margin`.

    `between`: the same budget in two series that answered the same questions. `caveats`: what must
    not be compared in these runs, and why. `errors`: runs without a result and what became of them.
    `methods`: the statistics in words, with their sources. `shared`: statistics are of the
    questions that all runs on a data set answered, of which there may be fewer than a run has.
    `reductions`: how token reductions compare with the floors, in sentences. `grids`: knobs set
    together.
    """

    margin: float
    series: tuple[Series, ...]
    between: tuple[Difference, ...]
    caveats: tuple[str, ...]
    errors: tuple[str, ...]
    methods: tuple[str, ...]
    shared: bool = False
    across: tuple[Across, ...] = ()
    reductions: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()

    def analysed(self) -> dict[str, AnalysedRun]:
        """What was found of each run of all series, by the run's name."""
        return {run.run: run for series in self.series for run in series.runs}


def write_analysis(folder: Path, analysis: Analysis) -> None:
    """Write `analysis.json`. Raises VtexpError where the disk does not take it."""
    files.write_json(folder / ANALYSIS_NAME, analysis_to_json(analysis))


def analysis_to_json(analysis: Analysis) -> dict[str, Any]:
    """What `analysis.json` holds."""
    return {"format": FORMAT} | to_json(analysis)


def read_analysis(folder: Path) -> Analysis:
    """What `write_analysis` wrote. Raises DataError where it is not there, or is damaged."""
    path = folder / ANALYSIS_NAME
    plain = files.read_json(path)
    try:
        if plain.get("format") != FORMAT:
            raise Misfit("format")
        return from_json(Analysis, plain)
    except Misfit as error:
        again = "python -m vtexp report rewrites it"
        raise files.damaged(path, f"not an analysis of this vtexp ({error}); {again}") from error
