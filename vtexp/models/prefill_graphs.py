"""Prefills as CUDA graphs: one per shape of a prompt, replayed without Python between kernels.

A prefill of one crop launches a thousand kernels and more, and Python launches them more slowly
than a GPU runs them: timed like that, 1 crop takes as long as 4 (docs/gpu.md). A graph launches
them all at once. Encoder, connector and language model are a graph each, so that the borders
between them can still be read off the device.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import DynamicCache

from vtexp.errors import error_line
from vtexp.models.clocks import MIB
from vtexp.utils.text import percent

Tensors = dict[str, torch.Tensor]
Result = TypeVar("Result")
#: Replayed logits are the eager ones bit for bit; where they are as far off as this (norm of the
#: difference over that of the logits), the graph reads what is not its own.
MOST_DIFFERENT = 0.01
#: Share of the GPU's memory that graphs may take; shapes beyond it stay eager.
MOST_MEMORY = 0.1
#: Bytes that the driver may take for one prefill's graphs, beside torch's allocator.
MOST_OF_DRIVER = 2**28
#: Shapes whose capture may fail before no further one is tried: each try takes time, and what a
#: broken capture had of the memory may stay taken.
MOST_FAILURES = 3


class GraphStages(NamedTuple):
    """The stages of one prompt's prefill, from nothing but tensors on the device.

    inputs: what differs between prompts of one shape. The functions take it, and the result of the
    stage before; nothing in them may wait for the device or read its memory on the host. `reduce`
    is there where vision tokens are reduced, and `read_early` before it where the first blocks of
    the language model read all of them. `read_prompt` reads on and returns the logits
    (1, 1, vocabulary) of the last position.
    """

    inputs: Tensors
    encode: Callable[[Tensors], Any]
    connect: Callable[[Tensors, Any], Any]
    read_prompt: Callable[[Tensors, Any], torch.Tensor]
    reduce: Callable[[Tensors, Any], Any] | None = None
    read_early: Callable[[Tensors, Any], Any] | None = None

    def run(self) -> torch.Tensor:
        """Logits of an eager pass."""
        features = self.connect(self.inputs, self.encode(self.inputs))
        if self.read_early is not None:
            features = self.read_early(self.inputs, features)
        if self.reduce is not None:
            features = self.reduce(self.inputs, features)
        return self.read_prompt(self.inputs, features)


def cache_argument(call: Callable[..., Any]) -> str:
    """By what name a pass of transformers, or the class of its output, takes keys and values: it
    changed in 5.24."""
    return "cache" if "cache" in inspect.signature(call).parameters else "past_key_values"


class PromptCache(DynamicCache):
    """Keys and values of one prompt, kept beside what the layers go on with."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what one layer made, and return it: there is nothing before it."""
        # Contiguous, as a cache that is read later: a view would keep all that it is cut from.
        self.kept.append((key_states.contiguous(), value_states.contiguous()))
        return key_states, value_states

    def latest_keys(self, length: int) -> torch.Tensor:
        """What the last layer so far made of `length` positions: (1, heads, length, head_dim)."""
        return self.kept[-1][0][:, :, :length]


class PrefillGraph:
    """A captured prefill of one shape: `load` a prompt, then replay its stages in their order."""

    def __init__(self, stages: GraphStages, pool: Any, stream: torch.cuda.Stream) -> None:
        """Capture. Raises what torch raises where a stage cannot be captured."""
        self._inputs = {name: tensor.clone() for name, tensor in stages.inputs.items()}
        # Kept for what its functions hold on the device: the graphs read it at every replay.
        self._stages = own = stages._replace(inputs=self._inputs)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Eagerly first: libraries allocate and choose what they need before the capture.
            expected = own.run()
            stream.synchronize()
            before, reserved = _memory(stream.device)
            # The outputs of all but the last are let go at the end: their memory serves the next
            # shapes, as no other graph runs between the stages of this one.
            self._encode, encoded = captured(pool, lambda: own.encode(self._inputs))
            self._connect, connected = captured(pool, lambda: own.connect(self._inputs, encoded))
            self._read_early, early = None, connected
            if (read := own.read_early) is not None:
                self._read_early, early = captured(pool, lambda: read(self._inputs, connected))
            self._reduce, features = None, early
            if (reduce := own.reduce) is not None:
                self._reduce, features = captured(pool, lambda: reduce(self._inputs, early))
            self._read_prompt, self._logits = captured(
                pool, lambda: own.read_prompt(self._inputs, features)
            )
            after, reserved_now = _memory(stream.device)
            # Another process on this GPU takes of it, too, and maybe more than any graph.
            taken = max(0, min(before - after, reserved_now - reserved + MOST_OF_DRIVER))
            self.inputs_bytes = sum(tensor.nbytes for tensor in self._inputs.values())
            #: Memory that the graph takes of the device: of its own, and its copy of the inputs.
            self.bytes = taken + self.inputs_bytes
            graphs = (self._read_early, self._reduce)
            for graph in (self._encode, self._connect, *graphs, self._read_prompt):
                if graph is not None:
                    graph.replay()
            difference = (self._logits.float() - expected.float()).norm() / expected.float().norm()
        torch.cuda.current_stream().wait_stream(stream)
        if not difference.item() <= MOST_DIFFERENT:  # or it is NaN
            raise RuntimeError(
                f"replayed logits differ from the eager pass's by {percent(difference.item(), 1)}"
            )

    def load(self, inputs: Tensors) -> None:
        """Copy a prompt of the same shape to where the graphs read it."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)

    def encode(self) -> None:
        """Run the vision encoder."""
        self._encode.replay()

    def connect(self) -> None:
        """Run the connector."""
        self._connect.replay()

    @property
    def reads_early(self) -> bool:
        """Whether the language model's first blocks run before tokens are reduced."""
        return self._read_early is not None

    def read_early(self) -> None:
        """Run these blocks, where there are any."""
        if self._read_early is not None:
            self._read_early.replay()

    @property
    def reduces(self) -> bool:
        """Whether there are vision tokens to reduce."""
        return self._reduce is not None

    def reduce(self) -> None:
        """Reduce vision tokens, where that is wanted."""
        if self._reduce is not None:
            self._reduce.replay()

    def read_prompt(self) -> torch.Tensor:
        """Run the language model, or the rest of it: logits (1, 1, vocabulary), overwritten by the
        next replay."""
        self._read_prompt.replay()
        return self._logits


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes of the device that are free, and that this process's allocator holds."""
    return torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)


def captured(pool: Any, stage: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """What a function does on the device as a graph, and its result, which each replay overwrites.

    Call it on a stream of its own, after an eager call. Raises what torch raises. Not by
    `torch.cuda.graph`, which gives all unused memory back each time: a hundred captures would take
    as long as the timing.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        output = stage()
        graph.capture_end()
    except Exception:
        with suppress(RuntimeError):  # it only says once more that the capture broke
            graph.capture_end()
        # Where that failed, the allocator still thinks that a capture is under way.
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        _let_random_numbers_go()
        raise
    return graph, output


def _let_random_numbers_go() -> None:
    """Capture nothing: in torch 2.11, only a capture that ends well tells the generator that it is
    over. Until then it refuses to draw, as for the random weights of the next model.
    """
    graph = torch.cuda.CUDAGraph()
    with suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the graph is empty
        graph.capture_begin(pool=torch.cuda.graph_pool_handle(), capture_error_mode="thread_local")
        graph.capture_end()


def held_by_pools(segments: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Bytes that graphs' own pools handed out (`allocated`) and hold (`reserved`).

    segments: of `torch.cuda.memory_snapshot`; those of no graph are of the pool (0, 0).
    """
    own = [segment for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0)]
    return {
        "allocated": sum(segment["allocated_size"] for segment in own),
        "reserved": sum(segment["total_size"] for segment in own),
    }


class PrefillGraphs:
    """The graphs of one model on one GPU, by shape, within a share of its memory."""

    def __init__(self, device: torch.device, most_memory: float = MOST_MEMORY) -> None:
        self._device = device
        self._most_bytes = most_memory * torch.cuda.get_device_properties(device).total_memory
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        self._graphs: dict[Hashable, PrefillGraph] = {}
        self._bytes = 0
        self._failures = 0
        self._eager: set[Hashable] = set()
        #: Why a shape could not be captured, the first of these; None while all could.
        self.failure: str | None = None

    def get(self, shape: Hashable) -> PrefillGraph | None:
        """The graph of a shape; None where it was not captured."""
        return self._graphs.get(shape)

    @property
    def memory_mib(self) -> float:
        """Memory of the device that all graphs take, beside weights and what passes use."""
        return self._bytes / MIB

    def held_mib(self) -> dict[str, float]:
        """What torch's allocator handed out to graphs and holds for them, those of answers too: the
        names are `StageMemory`'s."""
        inputs = sum(graph.inputs_bytes for graph in self._graphs.values())
        return {
            kind: (bytes_ + inputs) / MIB
            for kind, bytes_ in held_by_pools(torch.cuda.memory_snapshot()).items()
        }

    def capture(self, shape: Hashable, stages: Callable[[], GraphStages]) -> None:
        """Capture a shape that is not captured yet; where that fails, `failure` says why.

        A shape that failed stays eager; after MOST_FAILURES of them all further ones do.
        """
        if shape in self._graphs or shape in self._eager or self._failures >= MOST_FAILURES:
            return
        if self._bytes > self._most_bytes:
            self._stays_eager(
                shape,
                f"graphs of {len(self._graphs)} shapes take {self.memory_mib:.0f} MiB, as much as "
                "they may",
            )
            return
        try:
            graph = PrefillGraph(stages(), self._pool, self._stream)
        except Exception as error:  # of a driver, a kernel, the memory: eager passes go on
            self._failures += 1
            self._stays_eager(shape, error_line(error))
            torch.cuda.synchronize(self._device)
            self._pool = torch.cuda.graph_pool_handle()
            return
        self._graphs[shape] = graph
        self._bytes += graph.bytes

    def _stays_eager(self, shape: Hashable, reason: str) -> None:
        self._eager.add(shape)
        self.failure = self.failure or reason
