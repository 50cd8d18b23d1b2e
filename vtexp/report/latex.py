"""The comparison as a table for LaTeX, which needs no package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtexp.report.columns import MARKDOWN, Column, ReportRow, shown
from vtexp.report.format import title
from vtexp.utils.text import visible

LATEX_NAME = "comparison.tex"
#: Characters that LaTeX reads as commands, and those it has only in formulas.
_COMMANDS = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def latex_table(rows: Sequence[ReportRow]) -> str:
    """comparison.tex: the columns that decide, for `\\input` within a `table` of a paper."""
    columns = [column for column in shown(rows, MARKDOWN) if column.lead or column.varying]
    kinds = "".join("r" if column.numeric else "l" for column in columns)
    heads = ["budget", *(column.head for column in columns)]
    lines = [
        f"% {latex(title([row.run for row in rows]))}",
        rf"\begin{{tabular}}{{l{kinds}}}",
        r"\hline",
        _line(heads),
        r"\hline",
        *(_line([row.run.label, *(_cell(row, column) for column in columns)]) for row in rows),
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: ReportRow, column: Column) -> str:
    text = row.cell(column)
    return text.replace("-", "--") if column.ends else text  # a range


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex, cells)) + r" \\"


def latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    plain = visible(" ".join(text.split()))
    return re.sub(r"[&%$#_{}\\~^<>|]", lambda found: _COMMANDS[found[0]], plain)
