"""Pages and tables of the documentation, its way of writing numbers, and their sources."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.flops import ModelArithmetic
from vtexp.models.families import FAMILIES
from vtexp.utils import files

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_ASSETS = ROOT / "vtexp" / "assets"

Row = Mapping[str, Any]


@functools.cache
def page(name: str) -> str:
    """A page whose paragraphs and items are lines of their own."""
    return re.sub(r"\n *(?=[\w(`*\"+])", " ", (ROOT / name).read_text())


def table(name: str, *heads: str) -> list[list[str]]:
    """Cells of the one table of a page that has these heads, without stars."""
    found = []
    for block in re.findall(r"(?:^ *\|.*\n)+", (ROOT / name).read_text(), re.MULTILINE):
        lines = [line.strip().strip("|").replace("*", "") for line in block.splitlines()]
        cells = [[cell.strip() for cell in line.split("|")] for line in lines]
        if set(heads) <= set(cells[0]):
            found.append(cells[2:])
    assert len(found) == 1, f"{name}: {len(found)} tables with {heads}"
    return found[0]


@functools.cache
def results(name: str) -> Any:
    return files.read_json(RESULTS / name)


def rows(name: str) -> list[dict[str, str]]:
    """Rows of a CSV file of results."""
    with (RESULTS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def n(value: float | str, digits: int = 1, rounding: str = ROUND_HALF_UP) -> str:
    """A number as the documentation writes it: halves up, thousands apart."""
    places = Decimal(1).scaleb(-digits)
    rounded = Decimal(str(value)).quantize(places, rounding)
    return f"{rounded:,}".replace(",", " ")


def percent(value: float | str, digits: int = 1, rounding: str = ROUND_HALF_UP) -> str:
    return n(str(100 * Decimal(str(value))), digits, rounding)


def ends(
    low: float | str,
    high: float | str,
    to: str = " to ",
    scale: Callable[..., str] = percent,
    digits: int = 1,
) -> str:
    """`76.7 to 88.1`: ends of an interval as reports print them, rounded outward."""
    return f"{scale(low, digits, ROUND_FLOOR)}{to}{scale(high, digits, ROUND_CEILING)}"


def interval(row: Row, name: str, to: str = " to ", scale: Callable[..., str] = percent) -> str:
    """`83.0 (76.7 to 88.1)`, of the columns `name`, `name_low` and `name_high`."""
    return f"{scale(row[name])} ({ends(row[f'{name}_low'], row[f'{name}_high'], to, scale)})"


def ratio(row: Row, name: str = "ratio") -> tuple[str, str]:
    """`4.70` and `4.60 to 4.89`."""
    low, high = row[f"{name}_interval"]
    return n(row[name], 2), f"{n(low, 2)} to {n(high, 2)}"


def arithmetic(config: str) -> ModelArithmetic:
    """Of a model, by its config.json below vtexp/assets."""
    found = files.read_json(_ASSETS / config)
    made = model_arithmetic(found, FAMILIES[found["model_type"]].geometry_of(found))
    assert made is not None
    return made
