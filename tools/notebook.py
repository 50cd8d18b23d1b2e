"""Run the code cells of a notebook in plain Python and keep what they show.

    python -m tools.notebook docs/api.ipynb    # writes the outputs into the notebook

A cell shows what it prints and the value of its last line, as in Jupyter, which is not needed.
"""

from __future__ import annotations

import ast
import io
import json
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any


def run_cells(notebook: dict[str, Any], folder: Path) -> list[str]:
    """Run all code cells in a folder; what each shows. Raises what a cell raises."""
    module, ours = ModuleType("__main__"), sys.modules["__main__"]
    sys.modules["__main__"] = module  # where the cells' own functions are found, as in Jupyter
    try:
        with chdir(folder):
            return [_run("".join(c["source"]), vars(module)) for c in code_cells(notebook)]
    finally:
        sys.modules["__main__"] = ours


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells of a notebook, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run(source: str, names: dict[str, Any]) -> str:
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    shown = io.StringIO()
    with redirect_stdout(shown):
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            if value is not None:
                print(repr(value))
    return shown.getvalue()


def main(path: Path) -> None:
    """Run a notebook and write its outputs into it."""
    notebook = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        shown = run_cells(notebook, Path(folder))
        shown = [text.replace(str(Path(folder).resolve()), "/work") for text in shown]
    for number, (cell, text) in enumerate(zip(code_cells(notebook), shown, strict=True), 1):
        stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(True)}
        cell |= {"execution_count": number, "outputs": [stream] if text else []}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
