"""Records on disk: what is written is read, and what is none is one line that names the key."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.made_records import environment, latency_row, sample_row, write_samples
from tests.helpers.made_sweeps import make_run
from vtexp.errors import DataError
from vtexp.measure.timings import LatencyRow
from vtexp.runs import records
from vtexp.runs.records import Environment, Failure, Planned, ProcessTiming, Result, extended
from vtexp.utils import files
from vtexp.utils.typed import Misfit, flat, from_json, to_json


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "336x336", 288, [1.0, 0.0], attributes={"print_px": [12, 30]})
    planned, result = records.read_planned(folder), records.read_result(folder)
    assert (planned.label, result.num_samples, result.accuracy) == ("image_size=336x336", 2, 0.5)
    failure = extended(Failure, planned, error="no", log_tail=("a", "b"))
    timing = ProcessTiming(rank=0, process=0, host="h", device=environment().device, timing={})
    here = environment(processes=(timing,))
    for record in (failure, here):
        name = files.FAILURE if isinstance(record, Failure) else files.ENVIRONMENT
        records.write(folder / name, record)
    assert records.read_failure(folder) == failure
    assert records.read_environment(folder) == here
    rows = [sample_row(sample_id=str(i), attributes={"px": i}, options=("x",)) for i in range(3)]
    write_samples(tmp_path / files.SAMPLES, rows)
    assert list(records.read_samples(tmp_path / files.SAMPLES)) == rows
    times = [latency_row(3.0), latency_row(4.0, decode_ms_per_token=1.5)]
    records.write_latency(tmp_path / files.LATENCY, times)
    assert list(records.read_latency(tmp_path / files.LATENCY)) == times


def test_attributes_stand_between_the_question_and_its_type(tmp_path: Path) -> None:
    (line,) = [records.sample_to_json(sample_row(attributes={"print_px": 12}))]
    assert list(line)[:5] == ["sample_id", "image_id", "question_type", "print_px", "question"]


@pytest.mark.parametrize("number", [None, 0, records.FORMAT + 1, "1", []])
def test_a_file_of_another_format_is_one_line(tmp_path: Path, number: object) -> None:
    folder = make_run(tmp_path, "336x336", 288, [1.0])
    for name, read in (
        (files.PLANNED, records.read_planned), (files.RESULT, records.read_result),
        (files.ENVIRONMENT, records.read_environment),
    ):  # fmt: skip
        path = folder / name
        path.write_text(json.dumps(files.read_json(path) | {"format": number}))
        with pytest.raises(DataError) as error:
            read(folder)
        said = str(error.value)
        assert str(path) in said and repr(number) in said and str(records.FORMAT) in said
        assert "python -m vtexp resume" in said and "\n" not in said


@pytest.mark.parametrize("kind", [Planned, Failure, Result, Environment, LatencyRow])
def test_every_field_that_is_missing_or_of_another_type_is_named(kind: type) -> None:
    made: dict[type, object] = {LatencyRow: latency_row(), Environment: environment()}
    if kind not in made:
        asked = records.Asked(
            run_id="a", run="a", sweep="s", knob="max_crops", knob_value="1", tiling="1x1",
            num_crops=1, target_vision_tokens=1, theoretical_num_crops=1.0,
            theoretical_vision_tokens=1.0, force_full_tokens=False, fit=None, model="m",
            weights="pretrained", dataset="d", split="s", hardware="cpu", metric="exact_match",
        )  # fmt: skip
        found = {
            **{f"{k}_{n}": 1.0 for k in ("measured", "actual")
               for n in ("num_crops", "vision_tokens")},
            "measured_tiling": None, "actual_tiling": None, "actual_overridden": False,
            "accuracy": None, "accuracy_standard_error": None, "accuracy_low": None,
            "accuracy_high": None, "num_samples": 1, "num_images": 1,
            "accuracy_by_question_type": {}, "sequence_length": 1.0, "prefill_vision_tokens": 1.0,
            "execution": "eager", "latency": {}, "device": "d", "samples_fingerprint": "s",
            "inputs_fingerprint": "i", "limit": "recommended",
        }  # fmt: skip
        made[kind] = extended(kind, asked, **{Failure: {"error": "e"}, Result: found}.get(kind, {}))
    plain = to_json(made[kind])
    assert from_json(kind, plain) == made[kind]
    for one in fields(kind):
        with pytest.raises(Misfit, match=rf"^{one.name}\b"):
            from_json(kind, plain | {one.name: object()})


@given(st.recursive(st.integers() | st.text(max_size=3) | st.none(),
                    lambda inner: st.dictionaries(st.text("abc", min_size=1), inner)))  # fmt: skip
def test_leaves_are_under_their_keys_joined(tree: object) -> None:
    found = flat({"top": tree}, "/")

    def at(path: str) -> object:
        value: object = {"top": tree}
        for key in path.split("/"):
            value = value[key]  # type: ignore[index]
        return value

    assert all(at(path) == value and not isinstance(value, dict) for path, value in found.items())


@pytest.mark.parametrize("value", [True, "1", None, 2**63, 1e300, -(10**400), float("nan"), [1]])
def test_a_number_is_finite_and_no_flag(value: object) -> None:
    with pytest.raises(Misfit, match=r"^n$"):
        from_json(records.GroupAccuracy, {"accuracy": 0.5, "n": value})
    if type(value) is not int or abs(value) > 2**63:
        with pytest.raises(Misfit, match=r"^accuracy$"):
            from_json(records.GroupAccuracy, {"accuracy": value, "n": 1})
