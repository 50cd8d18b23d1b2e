"""What a CUDA graph cannot capture is refused without a GPU too: see helpers/waiting.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.helpers.waiting import DEVICE, by_the_device_alone

X = torch.arange(6.0, device=DEVICE)
ON_HOST = torch.arange(6.0)
Stage = Callable[[torch.Tensor], object]


@pytest.mark.parametrize(
    "stage",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 1),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(torch.ones(6, dtype=torch.int64, device=x.device)),
        lambda x: 1 if (x > 1).any() else 0,
        lambda x: x[: x[1].long()],
        lambda x: x.cpu().numpy(),
        lambda x: ON_HOST.to(x.device),
        lambda x: x.clone().copy_(ON_HOST),
        lambda x: x + ON_HOST,
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x[[0, 1]],
        lambda x: x[None][:, [0, 1]],
        lambda x: torch.from_numpy(np.ones(2)).to(x.device),
        lambda x: torch.randperm(6, device=x.device),
    ],
)
def test_a_stage_that_needs_the_host_is_refused(stage: Stage) -> None:
    stage(ON_HOST)  # nothing else is wrong with it
    with pytest.raises((AssertionError, RuntimeError)):
        by_the_device_alone(lambda: stage(X))


def test_a_stage_of_the_device_is_not() -> None:
    def stage() -> torch.Tensor:
        lengths = ON_HOST.long().tolist()  # what is on the host may be read there
        rows = torch.arange(6, device=X.device)
        order = X.argsort(stable=True)[: lengths[-1]]
        return X[order].index_add(0, rows[:5], X[:5] * 2.0).masked_fill(X[:5] > 1, 0.0)

    assert by_the_device_alone(stage).shape == (5,)
