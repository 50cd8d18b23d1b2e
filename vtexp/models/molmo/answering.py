"""Greedy answers of Molmo v1: prompts read at once, then one token after the other from one graph.

Keys and values lie in buffers of a fixed length, so that every step runs the same kernels at the
same addresses: on a GPU a step is captured once per shape and replayed, as Python would launch its
kernels far more slowly than they run. Prompts are padded on the right, where causal attention does
not see it: no prompt needs a mask.

Shapes: B prompts, L tokens of the longest, N tokens that the buffers hold per prompt.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from vtexp.budget.llm import LlmSetting
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.molmo.blocks import PassContext, rotary_of
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.prefill_graphs import captured

#: Buffers hold a multiple of so many tokens, so that batches of like lengths share a graph.
LENGTH_STEP = 128
#: Share of a GPU's memory that buffers of all shapes may take (or those of one): the oldest go. On
#: the host, where nothing is captured, only the latest stay.
MOST_MEMORY = 0.1


class LateTokens(NamedTuple):
    """What blocks hold of B prompts that lose tokens behind the `first` blocks that run.

    lengths int64 (B,), the most of them, and the positions (B,) of the next tokens there.
    """

    first: int
    lengths: torch.Tensor
    longest: int
    positions: torch.Tensor


class BufferSizes(NamedTuple):
    """B prompts and the tokens of each that buffers hold: of all blocks that run under `llm`, or of
    the `first` ones and, `late`, of the others."""

    batch: int
    tokens: int
    first: int = sys.maxsize
    late: int = 0
    llm: LlmSetting | None = None


class HeldTokens:
    """How many of N tokens blocks hold of each of B prompts: `lengths` int64 (B,).

    positions: of each row's next token; of a reduced prompt it may be beyond its length.
    """

    def __init__(self, batch: int, tokens: int, device: torch.device) -> None:
        self.tokens = tokens
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.lengths)

    def start(self, lengths: torch.Tensor, positions: torch.Tensor) -> None:
        """Hold new prompts."""
        self.lengths.copy_(lengths)
        self.positions.copy_(positions)

    def advance(self) -> None:
        """By one token each."""
        self.lengths.add_(1)
        self.positions.add_(1)

    @property
    def mask(self) -> torch.Tensor:
        """Bool (B, 1, 1, N): what the next token of each row sees, itself too."""
        places = torch.arange(self.tokens, device=self.lengths.device)
        return (places <= self.lengths[:, None])[:, None, None]


class AnswerCache(DynamicCache):
    """Keys and values of B prompts, of the blocks that run; `held` says how many tokens are there,
    in order of the blocks: of all, or of early and late ones."""

    def __init__(self, model: MolmoForCausalLM, sizes: BufferSizes) -> None:
        super().__init__()
        config, blocks = model.config, model.blocks_of(sizes.llm)
        # Norms stay in the type of activations where linear layers are float8.
        weights = [block.attn_norm.weight for block in blocks]
        self._places = {block.layer_idx: place for place, block in enumerate(blocks)}
        batch, device = sizes.batch, weights[0].device
        #: Whether the next pass reads the prompts.
        self.is_prompt = True
        tokens = (sizes.tokens, sizes.late) if sizes.late else (sizes.tokens,)
        self.held = [HeldTokens(batch, count, device) for count in tokens]
        self._first_late, self._latest = sizes.first, 0

        def buffers() -> list[torch.Tensor]:
            shape = (batch, config.num_key_value_heads)
            return [
                torch.zeros(
                    (*shape, self._held_at(place).tokens, config.head_dim),
                    dtype=weight.dtype,
                    device=weight.device,
                )
                for place, weight in enumerate(weights)
            ]

        self.keys, self.values = buffers(), buffers()
        self.rows = torch.arange(batch, device=device)

    def held_of(self, layer_idx: int) -> HeldTokens:
        """What a block holds."""
        return self._held_at(self._places[layer_idx])

    def _held_at(self, place: int) -> HeldTokens:
        return self.held[int(place >= self._first_late)]

    def latest_keys(self, length: int) -> torch.Tensor:
        """What the last block so far made of `length` positions: (B, heads, length, head_dim)."""
        return self.keys[self._latest][:, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (B, heads, L, head_dim) of the prompts, or one token behind those of each row."""
        place = self._places[layer_idx]
        keys, values = self.keys[place], self.values[place]
        if self.is_prompt:
            self._latest, count = place, key_states.shape[2]
            for buffer, states in ((keys, key_states), (values, value_states)):
                buffer[:, :, :count] = states
                buffer[:, :, count:] = 0  # masked, but a NaN would spread all the same
            return key_states, value_states
        lengths = self.held_of(layer_idx).lengths
        rows, places = (t.to(keys.device) for t in (self.rows, lengths))
        keys[rows, :, places] = key_states[:, :, 0]
        values[rows, :, places] = value_states[:, :, 0]
        return keys, values


class AnswerSteps:
    """Steps of B answers: each takes the last token of each row and gives the next."""

    def __init__(self, model: MolmoForCausalLM, sizes: BufferSizes) -> None:
        self._model, self._llm = model, sizes.llm
        self._cache = AnswerCache(model, sizes)
        self._ids = torch.zeros_like(self._cache.rows)
        self._finite = torch.ones_like(self._cache.rows, dtype=torch.bool)
        #: Batches that were answered.
        self.uses = 0
        self._tried = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def start(self, inputs: dict[str, Any], lengths: torch.Tensor) -> torch.Tensor:
        """Read prompts (B, L) of `lengths` (B,): the first token of each answer, int64 (B,)."""
        held = self._cache.held
        held[0].start(lengths, inputs.get("next_positions", lengths))
        if (late := inputs.get("late")) is not None:
            held[1].start(late.lengths, late.positions)
        self._cache.is_prompt = True
        logits = self._read_prompts(inputs, lengths)
        self._cache.is_prompt = False
        self._finite.fill_(True)
        self._choose(logits[:, -1])
        return self._ids.clone()

    def _read_prompts(self, inputs: dict[str, Any], lengths: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, embedding_size) of their last positions."""
        if "read_prompts" in inputs:
            logits: torch.Tensor = inputs["read_prompts"](self._cache)
            return logits
        if "read_images" in inputs:
            inputs = inputs | inputs["read_images"]()
        last: dict[str, Any] = {"logits_to_keep": 1}
        if inputs["attention_mask"] is not None:
            last = {"last_positions": lengths - 1}
        output = self._model(
            **(inputs | {"input_ids": inputs["input_ids"].clamp(min=0), "attention_mask": None}),
            past_key_values=self._cache,
            **last,
        )
        return output.logits

    def prepare(self, stream: torch.cuda.Stream) -> None:
        """Capture a step, if that was not tried before; steps stay eager where it fails.

        Call it before `start`: buffers are written to.
        """
        if self._tried:
            return
        self._tried, self._cache.is_prompt = True, False
        for held in self._cache.held:  # those of an earlier batch may be at the buffers' end
            held.start(torch.zeros_like(held.lengths), torch.zeros_like(held.positions))
        with suppress(RuntimeError):  # of a driver or the memory
            self._graph = self._captured(stream)

    def next(self) -> torch.Tensor:
        """The next token of each answer, int64 (B,)."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        return self._ids.clone()

    def _step(self) -> None:
        model, cache = self._model, self._cache
        parts = model.model.transformer
        contexts = {
            held: PassContext(
                rotary_of(held.positions[:, None], model.config), held.mask, cache, is_prompt=False
            )
            for held in cache.held
        }
        x = parts.wte(self._ids[:, None])
        for block in model.blocks_of(self._llm):
            x = block(x, contexts[cache.held_of(block.layer_idx)])
        self._choose(model.logits_of(x)[:, -1])
        for held in cache.held:
            held.advance()

    def _choose(self, logits: torch.Tensor) -> None:
        """The likeliest next token of each row, and whether its logits (B, ids) were numbers."""
        self._ids.copy_(logits.argmax(dim=-1))
        # The last block of a sharded model is on another GPU than the first one.
        self._finite.logical_and_(logits.isfinite().all(dim=-1).to(self._finite.device))

    @property
    def replayed(self) -> bool:
        """Whether the steps are a graph."""
        return self._graph is not None

    @property
    def finite(self) -> torch.Tensor:
        """Bool (B,): whether all logits since `start` were numbers."""
        return self._finite

    def _captured(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                self._step()  # libraries allocate and choose what they need before the capture
                graph, _ = captured(torch.cuda.graph_pool_handle(), self._step)
        finally:  # where it fails, too: the step writes to the buffers of the prompts that follow
            torch.cuda.current_stream().wait_stream(stream)
        return graph


class Answering:
    """Greedy answers of one model, with buffers and graphs kept for the latest shapes."""

    def __init__(self, model: MolmoForCausalLM, end_ids: tuple[int, ...], graphs: bool) -> None:
        self._model, self._end_ids = model, end_ids
        self._stream = torch.cuda.Stream() if graphs else None
        self._most_tokens = most_tokens(model)
        self._steps: OrderedDict[BufferSizes, AnswerSteps] = OrderedDict()

    def answer(
        self,
        inputs: dict[str, Any],
        max_new_tokens: int,
        on_token: Callable[[], None] | None = None,
        clock: AnswerClock | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New token ids int64 (B, n), finished rows filled with the end of text; and whether the
        logits behind those of a row were numbers, bool (B,).

        inputs: as `MolmoForCausalLM.forward` takes them, prompts padded on the right with
        `attention_mask` (B, L) where their lengths differ. Of reduced prompts L is `longest`,
        `read_images` gives what the model takes in place of images, and with `next_positions` (B,)
        answers go on there and not at the prompts' lengths. Of prompts that lose tokens within the
        model, `read_prompts` takes the cache and gives the logits (B, 1, ids) of their last
        positions, and `late`, `LateTokens`, is what then stays. With `llm`, only some experts and
        blocks work. With `on_token`, which hears of each token, nothing ends before
        `max_new_tokens`. A shape is captured before it is timed, else at its second batch: many
        shapes come once.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        longest = inputs.get("longest", ids.shape[1])
        lengths = torch.full((len(ids),), longest) if mask is None else mask.sum(dim=1)
        sizes = _sizes(len(ids), longest, max_new_tokens - 1, inputs)
        steps = self._steps_for(sizes)
        steps.uses += 1
        if self._stream is not None and (on_token is not None or steps.uses > 1):
            steps.prepare(self._stream)
        if clock is not None:
            clock.replayed = steps.replayed
        try:
            # From here on: a capture is not part of a prefill.
            token = _first(steps, inputs, lengths, clock)
            return self._answer(steps, token, max_new_tokens, on_token)
        except Exception:  # no memory, most likely: buffers are in the way of smaller batches
            self.forget()
            raise

    def forget(self) -> None:
        """Let go of all buffers and graphs."""
        self._steps.clear()

    def _answer(
        self,
        steps: AnswerSteps,
        token: torch.Tensor,
        max_new_tokens: int,
        on_token: Callable[[], None] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = [token]
        ends = torch.tensor(self._end_ids, device=token.device)
        finished = torch.isin(token, ends)
        while True:
            if on_token is not None:
                on_token()
            if len(found) == max_new_tokens or (on_token is None and bool(finished.all())):
                return torch.stack(found, dim=1), steps.finite
            token = steps.next()
            if on_token is None:
                token = torch.where(finished, ends[0], token)
                finished |= torch.isin(token, ends)
            found.append(token)

    def _steps_for(self, sizes: BufferSizes) -> AnswerSteps:
        if sizes not in self._steps:
            held = [own.batch * own.tokens for own in self._steps]
            while held and sum(held) + sizes.batch * sizes.tokens > self._most_tokens:
                self._steps.popitem(last=False)
                held.pop(0)
            self._steps[sizes] = AnswerSteps(self._model, sizes)
        self._steps.move_to_end(sizes)
        return self._steps[sizes]


def most_tokens(model: MolmoForCausalLM) -> int:
    """Tokens whose keys and values take MOST_MEMORY of the model's GPU; 0 without one."""
    config, weight = model.config, model.model.transformer.blocks[0].attn_norm.weight
    if weight.device.type != "cuda":
        return 0
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    memory = torch.cuda.get_device_properties(weight.device).total_memory
    return int(MOST_MEMORY * memory / (values * weight.element_size()))


def _sizes(batch: int, longest: int, more: int, inputs: dict[str, Any]) -> BufferSizes:
    """Buffers for a batch of prompts, with room for so many tokens more."""
    late: LateTokens | None = inputs.get("late")
    sizes = BufferSizes(batch, _stepped(longest + more), llm=inputs.get("llm"))
    if late is None:
        return sizes
    return sizes._replace(first=late.first, late=_stepped(late.longest + more))


def _stepped(tokens: int) -> int:
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


def _first(
    steps: AnswerSteps, inputs: dict[str, Any], lengths: torch.Tensor, clock: AnswerClock | None
) -> torch.Tensor:
    """Read the prompts: the first token of each answer."""
    if clock is not None:
        clock.start()
    token = steps.start(inputs, lengths.to(inputs["input_ids"].device))
    if clock is not None:
        clock.prompts_read()
    return token
