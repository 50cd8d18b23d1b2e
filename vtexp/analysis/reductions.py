"""Token reductions against the floors, at equal measured tokens: is a method worth its trouble?

A method is compared with `reduction=resize` where both read nearly as many tokens on average, and
with `random` and `stride` at the same number of kept tokens, question by question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtexp.analysis.answer import points, points_interval
from vtexp.analysis.paired import paired_runs
from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.samples import SampleColumns
from vtexp.analysis.times import side_by_side
from vtexp.budget.reduction import RESIZE
from vtexp.config.schema import OF_LLM
from vtexp.stats.permutation import pair_tests
from vtexp.utils.grouping import grouped
from vtexp.utils.text import LEVEL, listed, p_equals
from vtexp.utils.typed import known

#: Floors that work behind the connector, and the share by which mean tokens of a method and of
#: resizing may differ to be called equal.
FLOORS, EQUAL = ("random", "stride"), 0.05


@dataclass(frozen=True)
class AgainstFloor:
    """A method's accuracy minus a floor's, on the same questions and with as many tokens.

    low and high: 95 % interval of this pair, None where the images carry none. p_holm: of no
    difference, corrected for all pairs against this floor; `at_floor`: an upper bound of it.
    """

    run: ComparedRun
    floor: ComparedRun
    difference: float
    low: float | None
    high: float | None
    p_holm: float
    at_floor: bool

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval is beside 0 and p_holm below LEVEL; else
        `not shown`: too few questions show nothing either."""
        if self.low is None or self.high is None or self.p_holm >= LEVEL:
            return "not shown"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not shown"


def against_floors(
    runs: Sequence[ComparedRun], read: Mapping[Path, SampleColumns]
) -> list[AgainstFloor]:
    """Each reduced run against each floor that answered the same questions with as many tokens."""
    reduced = [run for run in runs if run.result is not None and run.asked.reduction]
    found = []
    for floor in (RESIZE, *FLOORS):
        floors = [run for run in reduced if run.asked.reduction == floor]
        pairs = [
            (run, other)
            for run in reduced
            if run.asked.reduction not in (RESIZE, *FLOORS)
            or (floor == RESIZE and run.asked.reduction != RESIZE)
            if (other := _nearest(run, floors)) is not None
        ]
        found += _tested(pairs, read)
    return found


def _nearest(run: ComparedRun, floors: Sequence[ComparedRun]) -> ComparedRun | None:
    """The floor's run on the same questions whose mean tokens are equal to a run's, or nearly."""

    def distance(other: ComparedRun) -> float:
        return abs(other.vision_tokens / run.vision_tokens - 1)

    alike = [other for other in floors if _comparable(run, other)]
    nearest = min(alike, key=distance, default=None)
    return None if nearest is None or distance(nearest) > EQUAL else nearest


def _comparable(run: ComparedRun, other: ComparedRun) -> bool:
    """Whether both asked the same of the same model, with the same experts and blocks."""

    def asked(own: ComparedRun) -> tuple[object, ...]:
        what = own.series_key._replace(settings=""), own.found.samples_fingerprint
        return (*what, own.asked.blocks, own.asked.moe_top_k, own.asked.moe_first_block_top_k)

    return asked(run) == asked(other)


def _tested(
    pairs: Sequence[tuple[ComparedRun, ComparedRun]], read: Mapping[Path, SampleColumns]
) -> list[AgainstFloor]:
    scored = []
    for run, floor in pairs:
        paired = paired_runs([run, floor], read)
        if paired is not None and paired.several_images:
            scored.append((run, floor, paired))
    tests = pair_tests([paired.sums.sums for _, _, paired in scored])
    return [
        AgainstFloor(
            run,
            floor,
            float(paired.alone.difference[0, 1]),
            known(paired.alone.low[0, 1]),
            known(paired.alone.high[0, 1]),
            test.holm,
            test.at_floor,
        )
        for (run, floor, paired), test in zip(scored, tests, strict=True)
    ]


def reduction_findings(
    runs: Sequence[ComparedRun], read: Mapping[Path, SampleColumns]
) -> tuple[str, ...]:
    """What a reader must know of the token reductions among runs, one sentence each."""
    reduced = [run for run in runs if run.result is not None and run.asked.reduction]
    methods = [run for run in reduced if run.asked.reduction != RESIZE]
    if not methods:
        return ()
    tested = against_floors(runs, read)

    def line(own: AgainstFloor) -> tuple[str, str, str]:
        return own.floor.asked.reduction or "", own.run.asked.dataset, _method(own.run)

    resized = {own.run.name for own in tested if own.floor.asked.reduction == RESIZE}
    lacking = [run for run in methods if run.name not in resized]
    said = [
        _sentence(dataset, method, floor, own)
        for (floor, dataset, method), own in grouped(tested, line).items()
    ]
    return (
        *said,
        *_in_unlike_blocks(methods),
        *_without_resize(lacking, reduced),
        *_slower(methods, runs),
    )


def _sentence(dataset: str, method: str, floor: str, pairs: Sequence[AgainstFloor]) -> str:
    """A method against a floor at all its numbers of tokens, such as `small_print: max_min is not
    shown to be better than resize: -2.0 points (-5.0 to +1.0, p = 0.30) at 288 vision tokens`."""
    better = [f"{own.run.vision_tokens:.5g}" for own in pairs if own.verdict == "better"]
    where = "" if len(better) == len(pairs) else f" at {listed(better)} vision tokens"
    verdict = f"better than {floor}{where}" if better else f"not shown to be better than {floor}"
    return f"{dataset}: {method} is {verdict}: {'; '.join(_difference(own) for own in pairs)}"


def _difference(own: AgainstFloor) -> str:
    text = f"{points(own.difference, signed=True)} points"
    if own.low is not None and own.high is not None:
        interval = points_interval(own.low, own.high, signed=True)
        text += f" ({interval}, {p_equals(own.p_holm, own.at_floor)})"
    text += f" at {own.run.vision_tokens:.5g} vision tokens"
    if own.floor.vision_tokens != own.run.vision_tokens:
        text += f" (the floor has {own.floor.vision_tokens:.5g})"
    return text + (", worse" if own.verdict == "worse" else "")


def _method(run: ComparedRun) -> str:
    """A method with the settings in which its runs differ."""
    told = ("reduction.", "knob.", *OF_LLM)
    shown = [part for part in run.settings.split(", ") if part.startswith(told)]
    name = run.asked.reduction or ""
    return f"{name} ({', '.join(shown)})" if shown else name


def _in_unlike_blocks(methods: Sequence[ComparedRun]) -> list[str]:
    """What measured tokens are means of, where tokens leave within the language model."""
    lines: dict[str, list[str]] = defaultdict(list)
    for run in methods:
        found, layer = run.found, run.asked.reduction_layer
        early, late = found.measured_early_vision_tokens, found.measured_late_vision_tokens
        if layer is not None and early is not None and late is not None:
            blocks = f"the first {layer} blocks" if layer > 1 else "the first block"
            head = f"{run.asked.dataset}: {_method(run)}: vision tokens are means over all blocks"
            head += f" of the language model; {blocks} read {early:.5g}, the others"
            lines[head].append(f"{late:.5g} (mean {run.vision_tokens:.5g})")
    return [f"{head} {listed(own)}" for head, own in lines.items()]


def _without_resize(lacking: Sequence[ComparedRun], reduced: Sequence[ComparedRun]) -> list[str]:
    """Numbers of tokens at which nothing says whether a method is worth it."""
    found = []
    for dataset in sorted({run.asked.dataset for run in lacking}):
        own = [run for run in reduced if run.asked.dataset == dataset]
        resized = _tokens([run for run in own if run.asked.reduction == RESIZE])
        budgets = _tokens([run for run in lacking if run.asked.dataset == dataset])
        text = f"{dataset}: no run with reduction=resize has {budgets} vision tokens"
        found.append(text + (f"; resizing gives {resized}" if resized else "; add one"))
    return found


def _tokens(runs: Sequence[ComparedRun]) -> str:
    return listed([str(count) for count in sorted({round(run.vision_tokens) for run in runs})])


def _slower(methods: Sequence[ComparedRun], runs: Sequence[ComparedRun]) -> list[str]:
    """Reduced runs whose prefill is longer than with the same crops and no reduction, or than that
    of resizing to as many tokens, by means whose 95 % intervals do not meet."""
    done = [run for run in runs if run.result is not None]
    resized = [run for run in done if run.asked.reduction == RESIZE]
    lines: dict[str, list[str]] = defaultdict(list)
    for run in methods:
        for other, what in ((_plain(run, done), "no reduction"), (_nearest(run, resized), RESIZE)):
            if other is not None and _is_slower(run, other):
                head = f"{run.asked.dataset}: {_method(run)} makes prefill slower than {what}"
                lines[head].append(_times(run, other))
    return [f"{head}: {'; '.join(own)}" for head, own in lines.items()]


def _times(run: ComparedRun, other: ComparedRun) -> str:
    own, theirs = run.found.mean("prefill_ms"), other.found.mean("prefill_ms")
    text = f"{own:.1f} against {theirs:.1f} ms at {run.vision_tokens:.5g} vision tokens"
    spent = run.found.mean("reduction_ms")
    text += "" if spent is None else f" (the reduction itself: {spent:.1f})"
    doubts = ["doubtful"] if run.timing_warnings or other.timing_warnings else []
    doubts += [] if side_by_side(run, other) else ["of different processes"]
    return f"{text}, though timings are {' and '.join(doubts)}" if doubts else text


def _plain(run: ComparedRun, done: Sequence[ComparedRun]) -> ComparedRun | None:
    """The run of the same cap on crops that keeps all tokens."""
    for other in done:
        same_cap = other.asked.num_crops == run.asked.num_crops
        if other.asked.knob == "max_crops" and same_cap and _comparable(run, other):
            return other
    return None


def _is_slower(run: ComparedRun, other: ComparedRun) -> bool:
    own, theirs = (one.found.latency.get("prefill_ms") for one in (run, other))
    if own is None or theirs is None or own.mean_low is None or theirs.mean_high is None:
        return False
    return own.mean_low > theirs.mean_high
