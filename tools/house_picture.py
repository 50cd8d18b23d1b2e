"""Draw `docs/images/house.svg`: the packages of `vtexp/` in the order of the import contract.

    .venv/bin/python tools/house_picture.py

Order and rules come from `[tool.importlinter]` in pyproject.toml, each package's job from the first
sentence of its docstring, so the picture cannot say something else than `lint-imports` checks
(`tests/test_house.py` draws it again and compares).
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "house.svg"
ROW, WIDTH, TOP = 34, 1000, 74
#: What flows past which packages, from where it starts to where it ends.
FLOW = {
    "config": "config",
    "runs": "plan → run → records",
    "analysis": "findings",
    "report": "report",
}


def contracts() -> list[dict]:
    """The contracts of import-linter, as pyproject.toml has them."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return told["tool"]["importlinter"]["contracts"]


def layers() -> list[str]:
    """The packages, highest first."""
    return next(contract["layers"] for contract in contracts() if contract["type"] == "layers")


def without_torch() -> set[str]:
    """The packages that may import torch not even indirectly."""
    rule = next(one for one in contracts() if "torch" in one.get("forbidden_modules", []))
    return {name.split(".")[1] for name in rule["source_modules"] if name.count(".") == 1}


def owner_of() -> dict[str, set[str]]:
    """Third-party packages that few packages may import, by the package that may."""
    owners: dict[str, set[str]] = {}
    for contract in contracts():
        for rule in contract.get("ignore_imports", []):
            importer, _, imported = rule.partition(" -> ")
            owners.setdefault(importer.split(".")[1], set()).add(imported)
    return owners


def job(package: str) -> str:
    """The first sentence of a package's docstring, up to a semicolon."""
    folder = ROOT / "vtexp" / package
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].partition(";")[0].rstrip(".")


def row(index: int, package: str, torch_free: set[str], owners: dict[str, set[str]]) -> str:
    """One package as a bar with its job, what flows past it, and what only it knows."""
    y = TOP + index * ROW
    colour = "#d9ead3" if package in torch_free else "#dbe5f1"
    notes = ", ".join(sorted(owners.get(package, set())))
    knows = f"may import {notes}" if notes else ""
    flow = FLOW.get(package, "")
    texts = [(16, "name", package), (130, "job", job(package)), (690, "flow", flow)]
    texts.append((840 if flow else 690, "note", knows))
    drawn = "".join(
        f'<text class="{kind}" x="{x}" y="{y + 20}">{escape(text)}</text>'
        for x, kind, text in texts
        if text
    )
    return f'<rect x="8" y="{y}" width="670" height="{ROW - 4}" rx="4" fill="{colour}"/>{drawn}'


def drawn() -> str:
    """The picture as SVG."""
    packages, torch_free, owners = layers(), without_torch(), owner_of()
    height = TOP + len(packages) * ROW + 12
    rows = "\n".join(row(i, name, torch_free, owners) for i, name in enumerate(packages))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"
viewBox="0 0 {WIDTH} {height}">
<style>
text {{ font: 13px sans-serif; fill: #222 }}
.name {{ font-weight: bold }}
.flow {{ font-weight: bold; fill: #7a3b00 }}
.note {{ font-style: italic; fill: #555 }}
.title {{ font-size: 17px; font-weight: bold }}
</style>
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text class="title" x="8" y="26">vtexp: a package imports only those below it</text>
<rect x="8" y="42" width="14" height="14" fill="#d9ead3"/>
<text x="28" y="54">needs no torch, checked</text>
<rect x="200" y="42" width="14" height="14" fill="#dbe5f1"/>
<text x="220" y="54">may use torch</text>
<text class="flow" x="690" y="54">what is handed on</text>
{rows}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(drawn())
    print(PICTURE.relative_to(ROOT))
