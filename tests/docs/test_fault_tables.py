"""The tables of docs/reliability.md: those of the results, about the faults that tests make."""

from __future__ import annotations

import ast

import pytest

from tests.helpers.documented import ROOT, results


def made_faults() -> dict[str, list[str]]:
    """Part, fault and outcome of each test that is marked `fault`, by file and name."""
    found: dict[str, list[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    name = f"{file.relative_to(ROOT)}::{node.name}"
                    found[name] = [ast.literal_eval(argument) for argument in mark.args]
    return found


def test_the_results_are_those_of_todays_tests() -> None:
    rows = results("faults.json")["tests"]
    made = {test: [row[key] for key in ("part", "fault", "outcome")] for test, row in rows.items()}
    assert made == made_faults()
    assert all(row["passed"] for row in rows.values())


def test_the_tables_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import faults

    shown = faults.DOCS.read_text().partition(faults.BEGIN)[2].partition(faults.END)[0]
    assert shown == faults.tables(results("faults.json")["tests"])
