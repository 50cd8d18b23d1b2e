"""Whatever is typed after `launch.py`: a plan, or one line and an exit code. VTEXP_FUZZ_CASES."""

from __future__ import annotations

import functools
import io
import os
import runpy
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from vtexp.config import user_errors
from vtexp.config.choices import Form
from vtexp.config.compose import compose_config
from vtexp.config.knob_schema import KNOB_SCHEMAS
from vtexp.config.schema import GROUP_SCHEMAS
from vtexp.data import load
from vtexp.jobs.here import run_job
from vtexp.utils.console import console

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASES = int(os.environ.get("VTEXP_FUZZ_CASES", "100"))
#: Of so many cases one goes through launch.py and hydra.main, which composes twice.
THROUGH_HYDRA_EVERY = 10
MOST_S = 60
#: Of what is not on this machine the exit code is 1, as of any trouble that no config has.
NOT_HERE = (
    "no such folder",
    "the folder has no",
    "cannot be read",
    "not in the cache of the hub",
    "can be asked",
)
BASE = ["plan=true", "dataset=easy_vqa", "dataset.limit=2", "tracking=none", "sweep.name=fuzz"]


# --- what is typed --------------------------------------------------------------------------------


def _keys(schema: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys of a schema and of those within it, with their types."""
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            yield from _keys(kind, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", kind


KEYS = {
    **{key: kind for group, schema in GROUP_SCHEMAS.items() for key, kind in _keys(schema, group)},
    **{key: kind for schema, _ in KNOB_SCHEMAS.values() for key, kind in _keys(schema, "knob")},
    "force_full_tokens": bool,
}
GROUPS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in sorted((ROOT / "conf").iterdir())
    if group.is_dir() and group.name != "hydra"
}
NUMBERS = st.one_of(
    st.integers(-2, 40).map(str),
    st.sampled_from(["-0", "1e3", "1e999", "nan", "inf", "-inf", "0x10", "1_000", "9" * 30, ".5"]),
    st.floats().map(str),
)
SIDES = st.one_of(st.integers(0, 1200), st.sampled_from([10**5, 10**9, 10**18])).map(str)
SIZES = st.tuples(SIDES, st.sampled_from(["x", "X", "×", " x ", "*", "xx"]), SIDES).map("".join)
#: No argument of a process holds a zero byte; it may hold bytes that are no UTF-8.
TEXTS = st.text(
    st.one_of(
        st.sampled_from("[]{}(),:=~+-$.*?!@#%^&'\"\\/ \t\n"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
        st.sampled_from(["\udcff", "\udc80"]),
    ),
    max_size=25,
)
ODD = st.sampled_from(
    [
        *("", "null", "None", "true", "yes", "off", "???", "[]", "{}", "[[]]", "{a:1}", "[null]"),
        *("${model.name}", "${oc.env:NOPE}", "${nope}", "${knob}", "${.}", "${", "glob(*)"),
        *("range(1,5)", "range(5)", "range(1,4,0)", "choice(1,2)", "interval(0,1)", "int(3.5)"),
        *("shuffle(1,2)", "sort(3,1)", "tag(a,1)", "extend_list(1)", "json_str(1)", "[1,[2]]"),
        *("../../etc", "/", "~", "a" * 300, "embedded:nope", "embedded:../..", "x/y", "\u202e"),
    ]
)
SCALARS = st.one_of(NUMBERS, SIZES, ODD, TEXTS)
LISTS = st.lists(SCALARS, max_size=4)
VALUES = st.one_of(SCALARS, LISTS.map(",".join), LISTS.map(lambda v: f"[{','.join(v)}]"))
#: Values that could be meant for a key, so that the fuzz comes past the types.
LIKELY = {
    "knob.sizes": st.lists(SIZES, min_size=1, max_size=3).map(lambda v: f"[{','.join(v)}]"),
    "knob.targets": st.lists(NUMBERS, min_size=1, max_size=3).map(",".join),
    "knob.max_crops": st.lists(NUMBERS, min_size=1, max_size=3).map(",".join),
    "knob.fit": st.sampled_from(["stretch", "letterbox", "crop"]),
    "dataset.metric": st.sampled_from(["vqa_accuracy", "anls", "cider", "nope", "multiple_choice"]),
    "dataset.split": st.sampled_from(["test", "train", "validation", ""]),
    "dataset.style": st.sampled_from(["vqa2", "pointing", "nope", ""]),
    "dataset.source.form": st.sampled_from([form.value for form in Form]),
    "dataset.source.files": st.sampled_from(
        [".", "**", "/etc/*", "../*", "{split}", "[", "*.json"]
    ),
    "dataset.source.folder": st.sampled_from([".", "/", "/dev", "/proc/self", str(ROOT / "conf")]),
    "hardware.device": st.sampled_from(["cpu", "cuda"]),
    "hardware.launcher": st.sampled_from(["here", "local", "slurm"]),
    "model.path": st.sampled_from(["embedded:molmo_tiny", "/", "a/b", str(ROOT), "."]),
    "model.weights": st.sampled_from(["random", "pretrained"]),
}
WORDS = st.sampled_from(["a", "vqa2", "test", "x-1", "some.where", "'two words'", "5"])


def meant(key: str) -> st.SearchStrategy[str]:
    """Values of the right type, or nearly."""
    kind = KEYS[key]
    if key in LIKELY:
        return LIKELY[key]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from([member.value for member in kind])
    if kind is bool:
        return st.sampled_from(["true", "false"])
    if "int" in str(kind) or "float" in str(kind):
        return st.one_of(st.integers(-1, 40).map(str), NUMBERS)
    if "list" in str(kind):
        return st.lists(WORDS, max_size=3).map(lambda words: f"[{','.join(words)}]")
    if "dict" in str(kind):
        return st.tuples(WORDS, WORDS).map(lambda pair: f"{{{pair[0]}: {pair[1]}}}")
    return WORDS


SETTINGS = st.sampled_from(sorted(KEYS)).flatmap(
    lambda key: st.tuples(
        st.sampled_from(["", "", "", "", "", "+", "++", "~"]),
        st.just(key),
        st.one_of(meant(key), meant(key), meant(key), VALUES),
    ).map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}")
)
OPTIONS = st.sampled_from(["a b", "../x", "null", "nope", "easy_vqa,small_print", "h100,cpu"])
CHOICES = st.sampled_from(sorted(GROUPS)).flatmap(
    lambda group: st.one_of(st.sampled_from(GROUPS[group]), OPTIONS, VALUES).map(
        lambda o: f"{group}={o}"
    )
)
STRAY = st.one_of(
    st.tuples(TEXTS, VALUES).map("=".join),
    TEXTS.filter(lambda text: not text.startswith("-")),
    st.sampled_from(["hydra/launcher=basic", "hydra/sweeper=basic", "hydra.run.dir=/nope/x",
                     "hydra.mode=MULTIRUN", "hydra.searchpath=[nope]", "+hydra=x", "plan=maybe",
                     "~dataset", "~model", "+dataset=easy_vqa", "dataset@knob=easy_vqa",
                     "hydra.job.name=''", "knob@model=max_crops", "hydra/help=default"]),
)  # fmt: skip
ARGUMENTS = st.lists(
    st.one_of(SETTINGS, SETTINGS, SETTINGS, SETTINGS, CHOICES, STRAY), min_size=1, max_size=3
)


# --- what comes of it -----------------------------------------------------------------------------


@dataclass
class Outcome:
    """Exit code and what was written to standard error."""

    code: object
    errors: str


class TookTooLongError(BaseException):
    """No Exception: nothing on the way may catch it."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def terminal() -> io.TextIOWrapper:
    """As strict about what it can print as a real one."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def typed(arguments: list[str]) -> Outcome:
    """Type `launch.py ARGUMENTS` into this process, or, which is quicker, what it comes down to."""
    number = zlib.crc32(" ".join(arguments).encode(errors="replace"))
    through_hydra = number % THROUGH_HYDRA_EVERY == 0
    multirun = ["-m"] if number % (2 * THROUGH_HYDRA_EVERY) == 0 else []
    GlobalHydra.instance().clear()
    errors = io.StringIO()
    console.file = terminal()
    try:
        with redirect_stderr(errors), redirect_stdout(terminal()), at_most(MOST_S):
            if through_hydra:
                code = _launched([*multirun, *arguments])
            else:
                code = user_errors.reported(
                    lambda: run_job(compose_config(arguments)), show_traceback=False, interrupted=""
                )
    finally:
        console.file = None  # type: ignore[assignment]
    return Outcome(code, errors.getvalue())


def _launched(arguments: list[str]) -> object:
    before, sys.argv = sys.argv, ["launch.py", *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    try:
        runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR", None)
    return None


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """easy-VQA read once, an empty hub cache, and no GPU to be touched."""
    monkeypatch.chdir(tmp_path)
    read, splits = load.BUILT_IN[Form.easy_vqa]
    monkeypatch.setitem(load.BUILT_IN, Form.easy_vqa, (functools.cache(read), splits))

    def no_gpu(*_: object) -> None:
        raise AssertionError("a plan looked at the GPU")

    monkeypatch.setattr(torch.cuda, "_lazy_init", no_gpu)


@pytest.mark.fault(
    "bad config", "any text, keys, options and values typed", "a plan, or one line; exit code 2"
)
@pytest.mark.usefixtures("quick")
def test_any_arguments_give_a_plan_or_one_line(
    record_property: Callable[[str, object], None],
) -> None:
    """The exit code is 1 where the config is right, but what it names is not on this machine."""
    codes = [0, 0, 0]

    @settings(
        max_examples=CASES,
        database=None,
        derandomize=CASES <= 1000,
        phases=(Phase.explicit, Phase.generate),  # to shrink a case takes minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(arguments=ARGUMENTS)
    @example(["knob.sizes=560x336"])
    @example(["dataset=0"])  # Hydra raises a plain ValueError
    @example(["hydra.searchpath=[nope]"])
    @example(["-=x"])  # argparse prints all flags
    @example(["--config-dir"])
    @example(["tracking.tags=${knob}"])  # no list, which Hydra does not mind
    def check(arguments: list[str]) -> None:
        outcome = typed([*BASE, *arguments])
        assert outcome.code in (0, 1, 2), outcome
        codes[int(str(outcome.code))] += 1
        lines = outcome.errors.splitlines()
        if outcome.code == 0:
            assert not lines, outcome
            return
        assert len(lines) == 1 and lines[0].startswith("error: "), outcome
        assert len(lines[0]) > len("error: xx") and lines[0].isprintable(), outcome
        if outcome.code == 1:
            assert any(text in lines[0] for text in NOT_HERE), outcome

    check()
    record_property(
        "measured",
        f"{sum(codes)} command lines: {codes[0]} plans, {codes[2]} refused with exit code 2, "
        f"{codes[1]} with exit code 1 for data or weights that are not here",
    )
