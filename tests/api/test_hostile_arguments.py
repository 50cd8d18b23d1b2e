"""Whatever Python code hands to the API: a result, or one line that names the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtexp
from vtexp import budget
from vtexp.errors import VtexpError
from vtexp.prompts.tokenizer import _BEHIND


class _Hostile:
    """An object all of whose ways raise, and whose text has two lines."""

    def __index__(self) -> int:
        raise RuntimeError("one\ntwo")

    def __iter__(self) -> Any:
        raise RuntimeError("one\ntwo")

    def __repr__(self) -> str:
        return "one\ntwo"


class _Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


#: What is neither a number, a text, a flag, a pair nor a list of texts.
NOTHING: list[Any] = [
    object(), _Hostile(), _Mute(), float("nan"), float("inf"), complex(1, 1), b"4", {}, {1: 2},
    {560, 336}, [[1, 2]], (1, 2, 3), np.array([[2, 3]]), np.array(["a", None], dtype=object),
    torch.tensor([1.5, 2.5, 3.5]), -(10**5000),
]  # fmt: skip
SIZED = {"size": (900, 1200), "max_crops": 4}
CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("target_tokens", budget.tokens_to_crops),
    ("num_crops", budget.crops_to_tiling),
    ("aspect_ratio", lambda v: budget.crops_to_tiling(4, v)),
    ("tiling", budget.tiling_to_resolution),
    ("crop_window_size", lambda v: budget.tiling_to_resolution((1, 2), v)),
    ("total_margin_pixels", lambda v: budget.image_size_to_tiling((560, 336), 224, v)),
    ("original_aspect_ratio", lambda v: budget.vision_tokens_to_image_resolution(720, v)),
    ("size", budget.image_size_to_tiling),
    ("h", lambda v: budget.select_tiling(v, 500, 224, 12)),
    ("patch_size", lambda v: budget.select_tiling(500, 500, v, 12)),
    ("max_num_crops", lambda v: budget.select_tiling(500, 500, 224, v)),
    ("exact_num_crops", lambda v: budget.select_tiling(500, 500, 224, 12, v)),
    ("image", lambda v: budget.resize_for_target_vision_tokens(v, 720)),
    (
        "preserve_aspect_ratio",
        lambda v: budget.resize_for_target_vision_tokens(Image.new("L", (9, 9)), 720, v),
    ),
    ("model", lambda v: vtexp.count_tokens(v, **SIZED)),  # type: ignore[arg-type]
    ("size", lambda v: vtexp.count_tokens(size=v, max_crops=4)),
    ("max_crops", lambda v: vtexp.count_tokens(size=(9, 9), max_crops=v)),
    ("vision_tokens", lambda v: vtexp.count_tokens(size=(9, 9), vision_tokens=v)),
    ("image_size", lambda v: vtexp.count_tokens(image_size=v)),
    ("fit", lambda v: vtexp.count_tokens(image_size="336x336", fit=v)),
    ("force_full_tokens", lambda v: vtexp.count_tokens(image_size="9x9", force_full_tokens=v)),
    ("question", lambda v: vtexp.count_tokens(image_size="336x336", question=v)),
    ("style", lambda v: vtexp.count_tokens(image_size="336x336", style=v)),
    ("path", lambda v: vtexp.count_tokens(image_size="336x336", path=v)),
    ("name", lambda v: vtexp.score(v, "a", "a")),
    ("prediction", lambda v: vtexp.score("anls", v, "a")),
    ("references", lambda v: vtexp.score("anls", "a", v)),
    ("options", lambda v: vtexp.score("multiple_choice", "A", "A", options=v)),
    ("path", vtexp.load_sweep),
    ("overrides", vtexp.launch),
    ("config_dir", lambda v: vtexp.launch(["plan=true"], v)),
    ("hardware", lambda v: vtexp.load_model(hardware=v)),
    ("weights", lambda v: vtexp.load_model(weights=v)),
    ("overrides", lambda v: vtexp.load_model(overrides=v)),
]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_what_no_argument_can_be_is_one_line_that_names_it(
    name: str, call: Callable[[Any], Any]
) -> None:
    for value in NOTHING:
        with pytest.raises(VtexpError) as raised:
            call(value)
        line = str(raised.value)
        assert line.startswith(name) and line.isprintable() and len(line) < 400


@pytest.mark.parametrize("call", [call for _, call in CALLS[:12]])
def test_a_bool_is_no_number(call: Callable[[Any], Any]) -> None:
    for value in (True, np.True_, torch.tensor(True)):
        with pytest.raises(ValueError):
            call(value)


def test_numbers_of_numpy_and_torch_count_as_pythons() -> None:
    for own in (np.uint8(200), np.int64(200), np.array(200), torch.tensor(200)):
        assert budget.select_tiling(own, own, 224, 12, own) == budget.select_tiling(
            200, 200, 224, 12, 200
        )
        assert vtexp.count_tokens(size=(9, 9), max_crops=own) == vtexp.count_tokens(
            size=(9, 9), max_crops=200
        )
    for pair in (np.array([560, 336]), torch.tensor([560, 336]), [560, 336]):
        assert budget.image_size_to_tiling(pair) == (2, 1)
        assert vtexp.count_tokens(image_size=pair).tiling == (2, 1)


def test_a_large_window_does_not_wrap_around() -> None:
    """1000 px x 100 000 crops are more than 2**31: every tiling is an upscaling."""
    assert budget.select_tiling(500, 500, 1_000_000, 4000) == (1, 1)


@pytest.mark.parametrize("size", ["9" * 5000 + "x9", "1000001x336", "336x0", (10**30, 336)])
def test_a_size_of_no_image_is_one_short_line(size: Any) -> None:
    for call in (budget.image_size_to_tiling, lambda v: vtexp.count_tokens(image_size=v)):
        with pytest.raises(VtexpError, match="size") as raised:
            call(size)
        assert len(str(raised.value)) < 250


def test_a_misspelt_budget_is_named_with_those_there_are() -> None:
    with pytest.raises(VtexpError, match=r"max_crop: .*max_crops, image_size, vision_tokens"):
        vtexp.count_tokens(size=(9, 9), max_crop=4)  # type: ignore[call-arg]


def test_a_canvas_too_large_for_an_image_is_refused() -> None:
    with pytest.raises(VtexpError, match="target_tokens=14400000"):
        budget.resize_for_target_vision_tokens(Image.new("L", (9, 9)), 14_400_000)


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_a_palette_is_resized_by_its_colours(mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)).convert("P")
    resized = budget.resize_for_target_vision_tokens(image.convert(mode), 720).convert("RGB")
    expected = image.convert("RGB").resize((560, 560), Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(resized).astype(int) - np.asarray(expected))
    assert difference.max() <= 1


@pytest.fixture(scope="module")
def model() -> vtexp.Model:
    return vtexp.load_model("molmo_tiny")


WHITE = np.full((60, 60, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("question", {"question": None}),
        ("question", {"question": np.array([1, 2])}),
        ("question", {"question": "\ud800"}),
        ("options", {"options": "abc"}),
        ("options", {"options": None}),
        ("options", {"options": ["x"] * 27}),
        (r"options\[1\]", {"options": ["a", 5]}),
        ("style", {"style": ["a"]}),
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("max_new_tokens", {"max_new_tokens": 1.5}),
        ("max_new_tokens", {"max_new_tokens": None}),
        ("crops", {"crops": 4}),
    ],
)
def test_what_cannot_be_asked_names_its_argument(
    model: vtexp.Model, name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(VtexpError, match=f"^{name}"):
        model.answer(WHITE, **{"question": "what?", "max_crops": 1} | arguments)


def test_the_tokenizers_own_mark_in_a_question_stays_text(model: vtexp.Model) -> None:
    """Its id has no row in the embedding; of the texts around it each letter is kept."""
    encode = model.runner.tokenizer.encode
    for before, after in (("", ""), ("is ", " it?")):
        question = f"{before}{_BEHIND}{after}"
        counts = vtexp.count_tokens(image_size="336x336", question=question)
        bare = vtexp.count_tokens(image_size="336x336", question=before + after)
        mark = sum(len(encode(half)) for half in (_BEHIND[:1], _BEHIND[1:]))
        assert abs(counts.prompt_tokens - bare.prompt_tokens - mark) <= 2
        model.answer(WHITE, question, max_crops=1, max_new_tokens=1)


def test_small_numbers_of_numpy_do_not_overflow(model: vtexp.Model) -> None:
    asked = {"question": "what?", "max_crops": 1}
    said = model.answer(WHITE, max_new_tokens=4, **asked)  # type: ignore[arg-type]
    assert model.answer(WHITE, max_new_tokens=np.uint8(4), **asked) == said  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [Image.new("RGB", (0, 5)), "https://example.com/a.png", "data:image/png;base64,a", "~nobody/x",
     "a\0b", "a\nb.png", "\ud800", "", "9" * 5000],
)  # fmt: skip
def test_no_image_is_one_line(model: vtexp.Model, image: Any) -> None:
    with pytest.raises(VtexpError) as raised:
        model.preprocess(image, max_crops=1)
    line = str(raised.value)
    assert line.isprintable() and len(line) < 300
