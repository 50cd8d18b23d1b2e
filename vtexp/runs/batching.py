"""Batches as large as memory allows: grow by doubling, halve when memory runs out."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from vtexp.errors import VtexpError, no_memory_left

#: How libraries say that a batch was too large. cuBLAS and cuDNN find no room for their own
#: workspaces; a kernel's grid has a largest size; accelerate's `should_reduce_batch_size` lists
#: most of these too.
_NO_ROOM = re.compile(
    r"out of memory|CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|CUDNN_STATUS_\w+"
    r"|DefaultCPUAllocator|invalid configuration argument",
    re.IGNORECASE,
)

Item = TypeVar("Item")
Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host had no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError) or no_memory_left(error):
        return True
    return isinstance(error, RuntimeError) and _NO_ROOM.search(str(error)) is not None


class BatchSize:
    """Walks through items in batches; `size` is what the next batch holds, `most` the largest done.

    With `adjust`, starts at 4 and doubles after each success up to `limit`; an out-of-memory error
    halves it for good. Without, `limit` is used as it is.
    """

    def __init__(self, limit: int, adjust: bool) -> None:
        self.limit = limit
        self.adjust = adjust
        self.size = min(4, limit) if adjust else limit
        self.most = 0
        self.out_of_memory_count = 0

    def run(
        self, items: Sequence[Item], process: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Yield (batch, result) over all items. Raises VtexpError when one sample does not fit."""
        start = 0
        while start < len(items):
            batch = items[start : start + self.size]
            fits = True
            try:
                result = process(batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._shrink(len(batch), error)
                fits = False
            if not fits:
                # Only now is the error gone, with its traceback and the tensors that it held.
                _free_memory()
                continue
            start += len(batch)
            self.most = max(self.most, len(batch))
            yield batch, result
            if self.adjust:
                self.size = min(2 * self.size, self.limit)

    def _shrink(self, failed: int, error: BaseException) -> None:
        self.out_of_memory_count += 1
        if failed == 1 or not self.adjust:
            hint = (
                "even one sample does not fit; take fewer crops or a device with more memory"
                if failed == 1
                else "take a smaller hardware.batch_size or hardware.auto_adjust_batch_size=true"
            )
            raise VtexpError(f"out of memory at batch size {failed}: {hint}") from error
        self.limit = self.size = failed // 2


def _free_memory() -> None:
    """Give back what no tensor needs any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
