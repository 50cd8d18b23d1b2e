"""Which questions are asked: the same in every run, each type in its share, and told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.sweeps import run_without_report
from vtexp.analysis.fairness import caveats, require_same_samples
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.data.load import load_samples
from vtexp.data.sample import ImageFile, Sample, choose, fingerprint
from vtexp.errors import DataError
from vtexp.runs.plan import make_plan

MakeConfig = Callable[..., Config]
STRATA = st.lists(st.sampled_from("abcde"), min_size=1, max_size=200)
SEEDS = st.integers(0, 2**32 - 1)


@given(st.integers(1, 300), SEEDS)
def test_a_draw_without_types_is_one_permutation(count: int, seed: int) -> None:
    order = choose(count, None, seed)
    assert sorted(order) == list(range(count))
    assert order == [int(i) for i in np.random.default_rng(seed).permutation(count)]
    assert order == choose(count, None, seed, ["only"] * count)


@given(STRATA, SEEDS, st.integers(1, 220))
def test_a_smaller_limit_takes_a_part_of_a_larger_one(
    strata: list[str], seed: int, limit: int
) -> None:
    order = choose(len(strata), None, seed, strata)
    assert sorted(order) == list(range(len(strata)))
    assert choose(len(strata), limit, seed, strata) == order[:limit]


@given(STRATA, SEEDS)
def test_each_type_has_its_share_of_every_prefix(strata: list[str], seed: int) -> None:
    order = choose(len(strata), None, seed, strata)
    sizes, seen = Counter(strata), Counter[str]()
    for length, i in enumerate(order, 1):
        seen[strata[i]] += 1
        for name, size in sizes.items():
            # One for its own rounding, and its share of what rounding the others leaves over.
            slack = 1 + len(sizes) * size / len(strata)
            assert abs(seen[name] - length * size / len(strata)) <= slack


def test_every_sample_is_as_likely_as_any_other() -> None:
    """Rare types too: over many seeds each sample is drawn as often as the limit says."""
    strata = ["common"] * 60 + ["rare"] * 3 + ["half"] * 37
    drawn = Counter(i for seed in range(3000) for i in choose(100, 20, seed, strata))
    shares = np.array([drawn[i] for i in range(100)]) / 3000
    assert abs(shares[:60].mean() - 0.2) < 0.01
    assert abs(shares[60:63].mean() - 0.2) < 0.02
    assert abs(shares[63:].mean() - 0.2) < 0.01
    assert abs(shares - 0.2).max() < 0.05


@settings(max_examples=20)
@given(SEEDS)
def test_nothing_of_nothing(seed: int) -> None:
    assert choose(0, 5, seed, []) == choose(0, None, seed) == []


def sample(**changes: object) -> Sample:
    parts: dict[str, object] = {
        "sample_id": "s", "image_id": "i", "image": ImageFile(Path("x")), "question": "q",
        "references": ("a",), "question_type": "t", "options": ("a", "b"),
    }  # fmt: skip
    return Sample(**parts | changes)  # type: ignore[arg-type]


def test_fingerprint_follows_what_is_asked_in_which_order() -> None:
    first, second = sample(), sample(sample_id="other")
    prints = [fingerprint(found) for found in (
        [first], [second], [first, second], [second, first], [sample(question="other")],
        [sample(references=("b",))], [sample(options=("b", "a"))], [],
    )]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert fingerprint([sample(image=ImageFile(Path("moved")))]) == prints[0]


@pytest.mark.parametrize(("name", "split"), [("easy_vqa", "test"), ("small_print", "validation")])
def test_types_of_the_embedded_sets_have_their_share(
    make_config: MakeConfig, name: str, split: str
) -> None:
    def load(*more: str) -> list[Sample]:
        own = (f"dataset={name}", f"dataset.split={split}", *more)
        return load_samples(make_config(*own).dataset).samples

    whole, part = load("dataset.limit=null"), load("dataset.limit=100")
    assert part == whole[:100]
    sizes, drawn = (Counter(s.question_type for s in found) for found in (whole, part))
    for kind, size in sizes.items():
        assert abs(drawn[kind] - 100 * size / len(whole)) <= 2
    assert load("dataset.limit=100", "dataset.stratify=false") != part


def test_samples_are_the_same_for_every_value_and_job(make_config: MakeConfig) -> None:
    plans = [make_plan(make_config("dataset.limit=40", f"knob.sizes=[{size}]"))
             for size in ("336x336", "784x784")]  # fmt: skip
    assert plans[0].samples == plans[1].samples


@pytest.mark.slow
def test_runs_on_different_samples_refuse_to_be_paired(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run_without_report(make_config("knob.sizes=[336x336]"))
    runs = collect(tmp_path / "sweep")
    require_same_samples(runs)
    assert runs[0].asked.num_failed == 0 and runs[0].asked.failed_samples == ()
    run_without_report(make_config("knob.sizes=[560x336]", "dataset.seed=1"))
    runs = collect(tmp_path / "sweep")
    assert len({run.found.samples_fingerprint for run in runs}) == 2
    with pytest.raises(DataError, match=r"easy_vqa: .*different questions"):
        require_same_samples(runs)
    assert any("different questions" in caveat for caveat in caveats(runs))
    assert {run.settings for run in runs} == {"dataset.seed=0", "dataset.seed=1"}
