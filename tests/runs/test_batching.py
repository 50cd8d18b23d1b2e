"""Batches grow, and shrink when memory runs out, and every item is processed once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtexp.errors import VtexpError
from vtexp.runs.batching import BatchSize, out_of_memory


def walk(batches: BatchSize, count: int, capacity: int) -> list[int]:
    """Process items on a device that holds `capacity` of them; returns the batch sizes."""
    seen: list[int] = []

    def process(batch):
        if len(batch) > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * item for item in batch]

    for batch, result in batches.run(list(range(count)), process):
        assert result == [10 * item for item in batch]
        seen += batch
    assert seen == list(range(count))
    return seen


@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 40))
def test_every_item_once_whatever_fits(count: int, limit: int, capacity: int) -> None:
    batches = BatchSize(limit, adjust=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        # To look for garbage in all that other tests left takes 0.1 s, some hundred times here.
        monkeypatch.setattr("vtexp.runs.batching._free_memory", lambda: None)
        walk(batches, count, capacity)
    assert batches.most <= min(limit, capacity)
    assert batches.out_of_memory_count <= 6  # each halves: never back to a size that failed


def test_a_process_may_return_nothing() -> None:
    done = list(BatchSize(4, adjust=True).run([1, 2, 3], lambda batch: None))
    assert done == [([1, 2, 3], None)]


def test_grows_to_the_limit() -> None:
    batches = BatchSize(16, adjust=True)
    walk(batches, 100, 1000)
    assert (batches.most, batches.out_of_memory_count) == (16, 0)


def test_one_sample_that_does_not_fit_is_a_clear_error() -> None:
    with pytest.raises(VtexpError, match="even one sample"):
        walk(BatchSize(8, adjust=True), 10, 0)


def test_without_adjusting_the_limit_is_used_and_named() -> None:
    walk(BatchSize(8, adjust=False), 10, 8)
    with pytest.raises(VtexpError, match=r"batch size 8.*auto_adjust_batch_size=true"):
        walk(BatchSize(8, adjust=False), 10, 4)


def test_other_errors_pass() -> None:
    def process(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchSize(4, adjust=True).run([1], process))


def test_a_real_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("text", "is_memory"),
    [
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if ...", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", True),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...", True),
        ("CUDA error: invalid configuration argument", True),
        ("HIP out of memory. Tried to allocate 2 GiB", True),
        ("MPS backend out of memory (MPS allocated: 9 GB)", True),
        ("CUDA error: device-side assert triggered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_every_way_to_say_that_memory_ended(text: str, is_memory: bool) -> None:
    assert out_of_memory(RuntimeError(text)) is is_memory
    assert not out_of_memory(ValueError("CUDA error: invalid configuration argument"))
