"""Code in the documentation: it runs, and every name in it is one of this project's."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from vtexp.models import families, internvl
from vtexp.models.families import FAMILIES, Family
from vtexp.models.reduction import method

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
#: Where the names in a page's code come from.
MODULES = (internvl, families, method, importlib.import_module("torch"))


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of each block of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, text) for page in PAGES for text in fence.findall(page.read_text())]


def parsed(code: str) -> ast.Module:
    """Of statements, or of entries of a dict, as a page shows those of FAMILIES."""
    code = textwrap.dedent(code)
    try:
        return ast.parse(code)
    except SyntaxError:
        return ast.parse("{\n" + code + "\n}")


def namespace() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for module in reversed(MODULES):
        names |= vars(module)
    return names | {"torch": MODULES[-1]}


def free_names(tree: ast.AST) -> set[str]:
    """Names that code reads and does not make itself."""
    nodes = list(ast.walk(tree))
    made = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return read - made - set(dir(builtins))


def test_there_is_code_in_the_docs() -> None:
    assert len(blocks("python")) >= 2 and len(blocks("yaml")) >= 4


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_in_the_docs_runs(page: str, code: str) -> None:
    """Run as it stands; arguments that do not exist fail there, names in functions by their own."""
    tree, names = parsed(code), namespace()
    assert free_names(tree) <= names.keys(), page
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    for node in imports:
        module = importlib.import_module(node.module or "")
        assert all(hasattr(module, alias.name) for alias in node.names)
    exec(compile(tree, page, "exec"), names)


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_yaml_in_the_docs_is_read(page: str, text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict), page


def test_a_family_is_added_as_its_page_shows() -> None:
    """The runner and the entry of docs/models.md are InternVL's own."""
    shown, entry = (code for page, code in blocks("python") if page == "models.md")
    names = namespace()
    exec(compile(parsed(shown), "models.md", "exec"), names)
    made = names["InternVLRunner"]
    assert made is not internvl.InternVLRunner
    for name in ("vision_tower", "connector", "vision_inputs", "token_types"):
        assert getattr(made, name) == getattr(internvl.InternVLRunner, name)
    body = {f.name: f for f in ast.walk(parsed(shown)) if isinstance(f, ast.FunctionDef)}
    own = ast.parse(textwrap.dedent(inspect.getsource(internvl.InternVLRunner)))
    for function in ast.walk(own):
        if isinstance(function, ast.FunctionDef) and function.name in body:
            lines = [ast.unparse(line) for line in function.body[1:]]  # the first is its docstring
            assert [ast.unparse(line) for line in body[function.name].body] == lines
    found = eval(compile(ast.Expression(parsed(entry).body[0].value), "models.md", "eval"), names)
    assert isinstance(found["internvl"], Family)
    for part in ("name", "geometry", "form", "runner", "images", "fixed"):
        assert getattr(found["internvl"], part) == getattr(FAMILIES["internvl"], part)
