"""Each reduction method against its definition, written out slowly in numpy."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtexp.budget.reduction import CONTEXTUAL
from vtexp.models.reduction.attended import cls_attention
from vtexp.models.reduction.conditional import LEAST, conditional
from vtexp.models.reduction.floors import pool, pool_cells, random, stride
from vtexp.models.reduction.max_min import max_min
from vtexp.models.reduction.method import Encoded, Grid, Method

METHODS: dict[str, Method] = {
    "random": random,
    "stride": stride,
    "pool": pool,
    "max_min": max_min,
    "cls_attention": cls_attention,
    "cls_attention, merged": partial(cls_attention, merge=True),
    "conditional": conditional,
}


def encoded(
    seed: int, grids: tuple[Grid, ...] = (Grid(3, 4), Grid(4, 5)), hidden: int = 8
) -> Encoded:
    rng = torch.Generator().manual_seed(seed)
    n = sum(grid.tokens for grid in grids)
    features, attention = (
        torch.randn(n, hidden, generator=rng),
        torch.rand(n, generator=rng),
    )
    return Encoded(features, grids, lambda: attention, torch.randn(5, hidden, generator=rng))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(seed=st.integers(0, 99), k=st.integers(1, 32))
def test_as_many_as_asked_and_all_is_all(method: Method, seed: int, k: int) -> None:
    image = encoded(seed)
    reduced = method(image, k)
    assert reduced.features.shape == (k, 8)
    assert reduced.indices.tolist() == sorted(set(reduced.indices.tolist()))
    whole = method(image, 32)
    assert whole.indices.tolist() == list(range(32))
    assert torch.equal(whole.features, image.features)


@given(seed=st.integers(0, 99), k=st.integers(1, 32))
def test_stride_and_random_keep_features_as_they_are(seed: int, k: int) -> None:
    image = encoded(seed)
    for reduced in (stride(image, k), random(image, k, seed=seed)):
        assert torch.equal(reduced.features, image.features[reduced.indices])
    gaps = np.diff(stride(image, k).indices.numpy())
    assert k == 1 or gaps.max() - gaps.min() <= 1
    again = random(encoded(seed + 1), k, seed=seed).indices
    assert torch.equal(random(image, k, seed=seed).indices, again)


def test_random_seeds_differ() -> None:
    drawn = {tuple(random(encoded(0), 8, seed=seed).indices.tolist()) for seed in range(20)}
    assert len(drawn) == 20
    often = np.bincount(
        [i for seed in range(2000) for i in random(encoded(0), 8, seed=seed).indices.tolist()]
    )
    assert abs(often / 2000 - 8 / 32).max() < 0.05


@given(
    grids=st.lists(st.builds(Grid, st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    share=st.floats(0.001, 1),
)
def test_cells_tile_the_grids(grids: list[Grid], share: float) -> None:
    n = sum(grid.tokens for grid in grids)
    k = max(1, round(share * n))
    cells = pool_cells(grids, k)
    tokens = list(itertools.chain(*(cell.tokens for cell in cells)))
    assert len(cells) == k
    assert len(set(tokens)) == len(tokens)
    assert all(cell.middle in cell.tokens for cell in cells)
    if k >= len(grids):
        assert sorted(tokens) == list(range(n))


def test_pooling_a_grid_by_four_is_the_mean_over_two_by_two() -> None:
    image = encoded(0, (Grid(6, 4),))
    reduced = pool(image, 6)
    blocks = image.features.view(3, 2, 2, 2, 8).mean(dim=(1, 3)).flatten(0, 1)
    torch.testing.assert_close(reduced.features, blocks)


@given(seed=st.integers(0, 99), k=st.integers(1, 31))
def test_max_min_is_the_greedy_solution(seed: int, k: int) -> None:
    features = encoded(seed).features.double().numpy()
    n = len(features)

    def distance(i: int, j: int) -> float:
        a, b = features[min(i, j)], features[max(i, j)]  # nearest neighbours tie
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    chosen = [max(range(n), key=lambda i: min(distance(i, j) for j in range(n) if j != i))]
    while len(chosen) < k:
        rest = [i for i in range(n) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance(i, j) for j in chosen)))
    assert max_min(encoded(seed), k).indices.tolist() == sorted(chosen)


@given(seed=st.integers(0, 99), k=st.integers(1, 31))
def test_attention_keeps_the_highest(seed: int, k: int) -> None:
    image = encoded(seed)
    by_score = sorted(range(32), key=lambda i: -float(image.attention()[i]))[:k]
    assert cls_attention(image, k).indices.tolist() == sorted(by_score)


@given(seed=st.integers(0, 99), k=st.integers(4, 31))
def test_merged_tokens_are_means_of_their_likes(seed: int, k: int) -> None:
    image = encoded(seed)
    ranked = sorted(range(32), key=lambda i: -float(image.attention()[i]))
    contextual = round(CONTEXTUAL * k)
    dominant, rest = ranked[: k - contextual], sorted(ranked[k - contextual :])
    targets = [rest[(2 * i + 1) * len(rest) // (2 * contextual)] for i in range(contextual)]
    x = image.features.double().numpy()
    x_unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    groups = {target: [target] for target in targets}
    for i in rest:
        if i not in targets:
            groups[max(targets, key=lambda j: x_unit[i] @ x_unit[j])].append(i)
    reduced = cls_attention(image, k, merge=True)
    assert reduced.indices.tolist() == sorted([*dominant, *targets])
    for place, feature in zip(reduced.indices.tolist(), reduced.features, strict=True):
        expected = x[groups[place]].mean(axis=0) if place in groups else x[place]
        np.testing.assert_allclose(feature, expected, atol=1e-5)


def _log_determinant(kernel: np.ndarray, chosen: list[int]) -> float:
    sign, value = np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])
    return value if sign > 0 else -np.inf


@given(seed=st.integers(0, 99), k=st.integers(1, 8))
def test_conditional_is_the_greedy_most_likely_set(seed: int, k: int) -> None:
    image = encoded(seed, hidden=16)
    x, question = image.features.double().numpy(), image.question.double().numpy().mean(axis=0)
    x_unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x_unit @ question / np.linalg.norm(question)
    relevance = np.maximum((cosine - cosine.min()) / np.ptp(cosine), LEAST)
    kernel = relevance[:, None] * (x_unit @ x_unit.T) * relevance
    chosen: list[int] = []
    for _ in range(k):
        rest = [i for i in range(32) if i not in chosen]
        chosen.append(max(rest, key=lambda i: _log_determinant(kernel, [*chosen, i])))
    assert conditional(image, k).indices.tolist() == sorted(chosen)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_equal_and_empty_tokens_still_give_as_many(method: Method) -> None:
    same = encoded(0)._replace(features=torch.ones(32, 8), attention=lambda: torch.ones(32))
    nothing = same._replace(features=torch.zeros(32, 8), question=torch.zeros(5, 8))
    for image in (same, nothing):
        reduced = method(image, 7)
        assert len(set(reduced.indices.tolist())) == 7
        assert reduced.features.isfinite().all()
