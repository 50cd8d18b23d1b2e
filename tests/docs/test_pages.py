"""Links of the pages lead somewhere, and every group, key and command has its place in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from tests.helpers.documented import ROOT, table
from vtexp.cli.main import COMMANDS
from vtexp.config.knob_schema import KNOB_SCHEMAS
from vtexp.config.schema import GROUP_SCHEMAS, MeasureConfig, SweepConfig

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "benchmarks" / "README.md", ROOT / "vtexp/assets/molmo_tiny/README.md"),
    *DOCS,
]
#: What names pages besides the pages themselves.
SOURCES = [
    path
    for folder in ("vtexp", "conf", "benchmarks", "tools", "hydra_plugins", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml", ".jinja")
]


def prose(page: Path) -> str:
    """A page without its blocks of code, whose lines are neither headings nor links."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; no two are alike here."""
    found = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    made = [re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in found]
    assert len(made) == len(set(made)), page
    return set(made)


def require_target(page: Path, anchor: str, said: str) -> None:
    assert page.exists(), said
    if anchor:
        assert anchor in anchors(page), said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            own = (page.parent / path).resolve() if path else page
            require_target(own, anchor, f"{page.name}: {target}")


def test_pages_that_code_and_configs_name_are_there() -> None:
    found = {
        (path, *named)
        for path in (*SOURCES, *PAGES)
        for named in re.findall(
            r"\b(docs/[\w/]+\.(?:md|png|svg|ipynb))(?:#([\w-]+))?", path.read_text()
        )
    }
    assert len(found) > 20
    for path, name, anchor in found:
        require_target(ROOT / name, anchor, f"{path.name}: {name}#{anchor}")


def of_groups() -> dict[str, list[str]]:
    """The cells of each group in the table of docs/config.md."""
    rows = table("docs/config.md", "group", "names, the default first")
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_group_and_its_members_are_listed() -> None:
    shown, conf = of_groups(), ROOT / "conf"
    own = {path.name for path in conf.iterdir() if path.is_dir()} - {"base", "hydra"}
    assert set(shown) == own
    others = {row[0].strip("`") for row in table("docs/datasets.md", "name", "split (others)")}
    for group, (_, names, _) in shown.items():
        members = {path.stem for path in (conf / group).glob("*.yaml")}
        named = set(re.findall(r"`(\w+)`", names))
        if group == "dataset":
            assert f"[{len(others - named)} others]" in names
            named |= others
        assert named == members, group


def keys(schema: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a schema."""
    hints = get_type_hints(schema)
    for own in fields(schema):
        kind = hints[own.name]
        if is_dataclass(kind):
            yield from keys(kind, f"{prefix}{own.name}.")
        else:
            yield prefix + own.name


SPAN = re.compile(r"`([^`\n]+)`")


def documented(page: Path) -> set[str]:
    """Keys that a page explains: in first cells of tables, in YAML, dotted in a sentence.

    What code in a key's row names stands as part of it: `holdout.seed`.
    """
    text = page.read_text()
    found = set()
    for first, rest in re.findall(r"^ *\|([^|]*)\|(.*)$", text, re.MULTILINE):
        for key in SPAN.findall(first):
            found |= {key, *(f"{key}.{part}" for part in SPAN.findall(rest))}
    for block in re.findall(r"^```yaml\n.*?^```", text, re.MULTILINE | re.DOTALL):
        found |= set(re.findall(r"(\w+):", block))
    words = (word for span in SPAN.findall(text) for word in span.split() if "." in word)
    found |= {word.partition("=")[0] for word in words}
    return {key.strip(".") for key in found}


@pytest.mark.parametrize("group", [*GROUP_SCHEMAS, "knob"])
def test_every_key_is_on_the_page_of_its_group(group: str) -> None:
    """By its full name, by that without the group, or by its last part."""
    target = re.findall(r"\]\(([^)#]*)", of_groups()[group][2])[0] or "config.md"
    found = documented(ROOT / "docs" / target)
    schemas = [s for s, _ in KNOB_SCHEMAS.values()] if group == "knob" else [GROUP_SCHEMAS[group]]
    named = {key for schema in schemas for key in keys(schema)} - {"name"}
    missing = {
        key for key in named if found.isdisjoint({f"{group}.{key}", key, key.rpartition(".")[2]})
    }
    assert not missing, f"{group}: not in {target}"


def test_defaults_in_tables_are_those_of_the_schema() -> None:
    sweep = SweepConfig(name="the time of the launch")
    for page, made in (("docs/measuring.md", MeasureConfig()), ("docs/config.md", sweep)):
        plain = asdict(made)
        shown = table(page, "key", "default")
        assert {row[0].strip("`").rpartition(".")[2] for row in shown} == plain.keys()
        for key, default, _ in shown:
            value = plain[key.strip("`").rpartition(".")[2]]
            known = str(value).lower() if isinstance(value, bool) else f"{value}"
            assert default.strip("`") in (known, known.removesuffix(".0")), key


def test_every_command_is_listed() -> None:
    shown = {row[0].strip("`").split()[1] for row in table("docs/config.md", "command", "more")}
    assert shown == set(COMMANDS)
