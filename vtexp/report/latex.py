"""The comparison as a table for LaTeX, which needs no package."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from vtexp.report.columns import MARKDOWN, Column, ReportRow, shown
from vtexp.report.format import title
from vtexp.utils.text import visible

LATEX_NAME = "comparison.tex"
#: Characters that LaTeX reads as commands or joins, and those it has only in formulas.
_COMMANDS = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}
#: What pdflatex writes without a package beyond ASCII, letters with one accent aside.
_KNOWN = frozenset("¡¢£¥§©ª¬®°±²³µ¶·¹º¼½¾¿ÆæØøß×÷ıŁłŒœ–—‘’“”…€→•™ȘșȚț")
#: The letters with one accent end here, and among them those with an ogonek need a package.
_LAST_ACCENTED, _OGONEK = "\u017f", "0328"


def latex_table(rows: Sequence[ReportRow]) -> str:
    """comparison.tex: the columns that decide, for `\\input` within a `table` of a paper."""
    columns = [column for column in shown(rows, MARKDOWN) if column.lead or column.varying]
    kinds = "".join("r" if column.numeric else "l" for column in columns)
    heads = ["budget", *(column.head for column in columns)]
    lines = [
        f"% {latex(title([row.run for row in rows]))}",
        rf"\begin{{tabular}}{{l{kinds}}}",
        r"\hline",
        _line(map(latex, heads)),
        r"\hline",
        *(_row(row, columns) for row in rows),
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _row(row: ReportRow, columns: Sequence[Column]) -> str:
    # Behind the end of a line LaTeX takes [ and * for its arguments.
    label = re.sub(r"^(?=[\[*])", "{}", latex(row.run.label))
    return _line([label, *(_cell(row, column) for column in columns)])


def _cell(row: ReportRow, column: Column) -> str:
    text = row.cell(column)
    return "--".join(map(latex, text.split("-"))) if column.ends else latex(text)  # a range


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line.

    Letters that pdflatex lacks without a package, such as Greek ones, it shows as `[U+03B1]`;
    LuaLaTeX and XeLaTeX show them.
    """
    plain = unicodedata.normalize("NFC", visible(" ".join(text.split())))
    return re.sub(r"-(?=-)|[&%$#_{}\\~^<>|`]|[^\0-\x7f]", lambda found: _shown(found[0]), plain)


def _shown(character: str) -> str:
    if character in _COMMANDS:
        return _COMMANDS[character]
    if character == "-":
        return "-{}"
    if character in _KNOWN or _one_accent(character):
        return character
    code = f"[U+{ord(character):04X}]"
    return rf"\ifdefined\Umathcode {character}\else {code}\fi{{}}"


def _one_accent(character: str) -> bool:
    parts = unicodedata.decomposition(character).split()
    return character <= _LAST_ACCENTED and len(parts) == 2 and parts[1] != _OGONEK
