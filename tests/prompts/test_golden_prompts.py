"""Prompts of the released evaluation: from a data set's row to the text after the image."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vtexp.data.sample import NO_LETTERS, ImageFile, Sample
from vtexp.metrics import metric
from vtexp.prompts import wording
from vtexp.prompts.tokenizer import PromptTokenizer
from vtexp.prompts.wording import EVALUATION_SEED, option_names, settle_style

pytestmark = pytest.mark.golden

Row = dict[str, Any]
ANY = Sample("0", "0", ImageFile(Path("none")), "", ("x",), "any")


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Any]:
    return json.loads((golden_dir / "prompts.json").read_text())


# --- what a loader makes of a row, by task ------------------------------------------------------


def question(raw: Row) -> Sample:
    return replace(ANY, question=raw.get("question", raw.get("query")))


def a_okvqa_mc(raw: Row) -> Sample:
    return replace(ANY, question=raw["question"], options=tuple(raw["options"]))


def ai2_diagram(raw: Row) -> Sample:
    options, drawn = raw["answer_texts"], raw["option_is_abc"]
    sample = replace(ANY, question=raw["question"], options=tuple(options))
    if not raw["abc_label"] or sum(drawn) < len(options) - 1:
        return sample
    shown = [text.upper() if abc else text for text, abc in zip(options, drawn, strict=True)]
    return replace(sample, options=tuple(shown), style=NO_LETTERS)


def science_qa(raw: Row) -> Sample:
    hint = raw["hint"]
    text = f"{hint}\n{hint}" if hint else raw["question"]  # the reference drops the question
    return replace(ANY, question=text, options=tuple(raw["choices"]))


def mmmu(raw: Row) -> Sample:
    is_choice = raw["question_type"] == "multiple-choice"
    options = tuple(ast.literal_eval(raw["options"])) if is_choice else ()
    return replace(ANY, question=raw["question"], options=options)


def math_vista(raw: Row) -> Sample:
    text = raw["question"].split("Question:")[-1].split("Hint:")[0].strip()
    is_choice = raw["question_type"] == "multi_choice"
    return replace(ANY, question=text, options=tuple(raw["choices"]) if is_choice else ())


def real_world_qa(raw: Row) -> Sample:
    text, kind = raw["question"], "multiple_choice"
    if "Please answer directly with a single word or number." in text:
        text, kind = text.split("\n")[0], "short_answer"
    return replace(ANY, question=text, question_type=kind)


def labelled(raw: Row) -> Sample:
    return replace(ANY, attributes={"label": raw["label"]})


TASKS: dict[str, Callable[[Row], Sample]] = {
    "coco_2014_vqa": question,
    "text_vqa": question,
    "okvqa": question,
    "doc_qa": question,
    "info_qa": question,
    "chart_qa": question,
    "a_okvqa_da": question,
    "a_okvqa_mc": a_okvqa_mc,
    "ai2_diagram_v2_mix_transparent": ai2_diagram,
    "science_qa_img": science_qa,
    "mmmu_test": mmmu,
    "math_vista_v2": math_vista,
    "real_world_qa_no_instruction": real_world_qa,
    "countbench_qa": question,
    "pixmo_count_counting": labelled,
    "pixmo_count": labelled,
    "pointing_eval": labelled,
}


def text_after_image(checkpoint: Path, sample: Sample, style: str) -> str:
    """What the model reads after the image, decoded from the ids that it gets."""
    tokenizer = PromptTokenizer.from_folder(checkpoint)
    return tokenizer.tokenizer.decode(tokenizer.prompt(sample, style).after)


def test_every_task_is_compared(golden: dict[str, Any]) -> None:
    assert golden["examples"] and set(golden["examples"]) <= set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_the_released_ones(
    golden: dict[str, Any],
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    for example in golden["examples"].get(task, []):
        sample, style = TASKS[task](example["raw"]), example["style"]
        if "option_names" in example:
            assert list(option_names(settle_style(sample, style))) == list(example["option_names"])
        if "prompt" in example:
            assert text_after_image(small_checkpoint, sample, style) == example["prompt"]
        monkeypatch.setattr(wording, "EVALUATION_SEED", 0)
        for seed, prompt in example.get("prompt_by_numpy_randomstate_seed", {}).items():
            drawn = replace(sample, sample_id=f"test-{seed}")
            assert text_after_image(small_checkpoint, drawn, style) == prompt


def test_seed_is_that_of_the_released_evaluation(golden: dict[str, Any]) -> None:
    assert golden["evaluation_defaults"]["seed"] == EVALUATION_SEED


#: Metrics of the reference's tasks by their name there. (Pointing needs masks: not offered.)
METRICS = {
    "vqa_score": "vqa_accuracy_molmo",
    "relaxed_correctness": "relaxed_correctness",
    "em": "exact_match_molmo",
    "ansl": "anls",
    "mc": "multiple_choice",
    "mc_ai2d_opaque": "multiple_choice",
    "mc_ai2d_transparent": "multiple_choice",
    "a_okvqa_score": "a_okvqa_direct_molmo",
    "mmmu_score": "mmmu",
    "real_world_qa_score": "real_world_qa",
}


def test_settings_of_the_tasks_are_documented(golden: dict[str, Any]) -> None:
    """The table of docs/metrics.md has each task's split, limit and metric."""
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    table = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {row[0]: row for row in table if len(row) == 6}
    for name, task in golden["task_settings"].items():
        names = [METRICS[part] for part in task["vqa_eval"].split(",") if part]
        names += ["math_vista_no_network"] * task["math_vista_eval"]
        names += ["counting"] * task["point_count_eval"]
        row = rows[name.partition(":")[0]]
        assert task["split"] in row[2] and str(task["max_new_tokens"]) == row[4], name
        for expected in names or ["none"]:
            assert expected in row[5], name
            assert expected == "none" or metric(expected)
