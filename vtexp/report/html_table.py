"""The table of a report: a row per run, cells as text with the number that they are sorted by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vtexp.analysis.rows import ComparedRun, run_names
from vtexp.report.columns import CHOSEN, COLUMNS, GROUPS, PAGE, Column, ReportRow, shown


@dataclass(frozen=True, slots=True)
class HtmlCell:
    """Text, and what the column is sorted by; None sorts last."""

    text: str
    sort: float | str | None = None


@dataclass(frozen=True, slots=True)
class HtmlColumn:
    """A column's heading, and whether its cells are numbers."""

    name: str
    numeric: bool


@dataclass(frozen=True, slots=True)
class TableRow:
    """A run's name, status (done, failed, missing), and cells.

    `doubtful`: its times are. `chosen`: it is the answer. `apart`: in what it differs from runs of
    other series.
    """

    name: HtmlCell
    status: str
    doubtful: bool
    chosen: bool
    apart: str
    cells: list[HtmlCell]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The table: `knob` heads the names of the rows.

    The first `lead` columns are those that decide. `headings`: of the others, each with the number
    of columns below it. `left_out`: columns that no row fills.
    """

    knob: str
    lead: int
    headings: list[tuple[str, int]]
    columns: list[HtmlColumn]
    rows: list[TableRow]
    left_out: list[str]


def report_table(rows: Sequence[ReportRow]) -> ReportTable:
    """The table of a comparison; columns that no row fills are left out, and named."""
    columns = shown(rows, PAGE)
    lead = sum(bool(column.lead) for column in columns)
    rest = columns[lead:]
    rest.sort(key=lambda column: ((*GROUPS, "").index(column.group), not column.varying))
    columns = [*columns[:lead], *rest]
    headings, heads = [], [column.head for column in columns[:lead]]
    for group, own in groupby(rest, key=lambda column: column.group):
        heading, under = _headed(group, list(own))
        headings.append((heading, len(under)))
        heads += under
    names = run_names([row.run for row in rows])
    knobs = {row.run.asked.knob for row in rows}
    return ReportTable(
        "budget" if len(knobs) > 1 else knobs.pop(),
        lead,
        headings,
        [HtmlColumn(n, c.numeric) for n, c in zip(heads, columns, strict=True)],
        [_row(row, columns, names[row.run.name]) for row in rows],
        _left_out(columns),
    )


def _headed(group: str, columns: Sequence[Column]) -> tuple[str, list[str]]:
    """A group's heading and its columns': a unit that all share stands in the group's alone."""
    units = {column.unit for column in columns if not column.ends}
    if len(units) == 1 and (unit := units.pop()):
        return f"{group}, {unit}", [column.name for column in columns]
    return group, [column.head for column in columns]


def _row(row: ReportRow, columns: Sequence[Column], name: str) -> TableRow:
    """A run; its name is sorted by the tokens that it stands for, as sizes have no order."""
    run = row.run
    return TableRow(
        HtmlCell(name, run.vision_tokens),
        run.status,
        bool(run.timing_warnings),
        row.values.get("verdict") == CHOSEN,
        ", ".join(text for c in columns if c.varying and (text := row.text(c))),
        [HtmlCell(row.cell(column), row.sort(column)) for column in columns],
        warnings_of(run),
    )


def warnings_of(run: ComparedRun) -> list[str]:
    """All that a reader must know of a run, doubtful times first."""
    found = [f"timings are doubtful: {reason}" for reason in run.timing_warnings]
    found += run.warnings()
    if run.asked.num_failed:
        found.append(f"{run.asked.num_failed} samples could not be asked")
    return found


def _left_out(columns: Sequence[Column]) -> list[str]:
    by_group: dict[str, list[str]] = defaultdict(list)
    kept = {column.key for column in columns}
    for column in COLUMNS:
        if PAGE in column.shown and not column.varying and column.key not in kept:
            by_group[column.group].append(column.head)
    return [f"{group}: {', '.join(names)}" for group, names in by_group.items()]
