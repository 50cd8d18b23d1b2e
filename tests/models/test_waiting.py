"""What a CUDA graph cannot capture is refused without a GPU too: see helpers/waiting.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.helpers.waiting import DEVICE, by_the_device_alone

X = torch.arange(6.0, device=DEVICE)
ON_HOST = torch.arange(6.0)


@pytest.mark.parametrize(
    "stage",
    [
        lambda: X[0].item(),
        lambda: X.tolist(),
        lambda: X[X > 1],
        lambda: X.nonzero(),
        lambda: torch.where(X > 1),
        lambda: X.unique(),
        lambda: X.repeat_interleave(torch.ones(6, dtype=torch.int64, device=DEVICE)),
        lambda: 1 if (X > 1).any() else 0,
        lambda: X[: X[1].long()],
        lambda: X.cpu(),
        lambda: ON_HOST.to(DEVICE),
        lambda: X.clone().copy_(ON_HOST),
        lambda: X + ON_HOST,
        lambda: torch.tensor([1, 2], device=DEVICE),
        lambda: X.new_tensor([1.0]),
        lambda: X[[0, 1]],
        lambda: torch.from_numpy(np.ones(2)).to(DEVICE),
        lambda: torch.randperm(6, device=DEVICE),
    ],
)
def test_a_stage_that_needs_the_host_is_refused(stage: Callable[[], object]) -> None:
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        by_the_device_alone(stage)


def test_a_stage_of_the_device_is_not() -> None:
    def stage() -> torch.Tensor:
        lengths = ON_HOST.long().tolist()  # what is on the host may be read there
        rows = torch.arange(6, device=X.device)
        order = X.argsort(stable=True)[: lengths[-1]]
        return X[order].index_add(0, rows[:5], X[:5] * 2.0).masked_fill(X[:5] > 1, 0.0)

    assert by_the_device_alone(stage).shape == (5,)
