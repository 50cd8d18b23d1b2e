"""Greedy answers of Molmo v1: prompts read at once, then one token after the other from one graph.

Keys and values lie in buffers of a fixed length, so that every step runs the same kernels at the
same addresses: on a GPU a step is captured once per shape and replayed, as Python would launch its
kernels far more slowly than they run. Prompts are padded on the right, where causal attention does
not see it: no prompt needs a mask.

Shapes: B prompts, L tokens of the longest, N tokens that the buffers hold per prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from transformers import DynamicCache

from vtexp.models.answer_clock import AnswerClock
from vtexp.models.molmo.modeling import MolmoForCausalLM, PassContext, rotary_of
from vtexp.models.prefill_graphs import captured

#: Buffers hold a multiple of so many tokens, so that batches of like lengths share a graph.
LENGTH_STEP = 128
#: Tokens that the buffers of all shapes hold together, at most (or those of one): the oldest go.
MOST_TOKENS = 65_536


class AnswerCache(DynamicCache):
    """Keys and values of B prompts, N tokens each; `lengths` int64 (B,) says how many are there."""

    def __init__(self, model: MolmoForCausalLM, batch: int, tokens: int) -> None:
        super().__init__()
        # Norms stay in the type of activations where linear layers are float8.
        config, weights = model.config, [b.attn_norm.weight for b in model.model.transformer.blocks]
        shape = (batch, config.num_key_value_heads, tokens, config.head_dim)
        #: Whether the next pass reads the prompts.
        self.is_prompt = True

        def buffers() -> list[torch.Tensor]:
            return [torch.zeros(shape, dtype=w.dtype, device=w.device) for w in weights]

        self.keys, self.values = buffers(), buffers()
        self.rows = torch.arange(batch, device=weights[0].device)
        self.lengths = torch.zeros_like(self.rows)
        #: Position of each row's next token: of a reduced prompt it may be beyond its length.
        self.positions = torch.zeros_like(self.rows)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (B, heads, L, head_dim) of the prompts, or one token behind those of each row."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if self.is_prompt:
            count = key_states.shape[2]
            for buffer, states in ((keys, key_states), (values, value_states)):
                buffer[:, :, :count] = states
                buffer[:, :, count:] = 0  # masked, but a NaN would spread all the same
            return key_states, value_states
        rows, places = (t.to(keys.device) for t in (self.rows, self.lengths))
        keys[rows, :, places] = key_states[:, :, 0]
        values[rows, :, places] = value_states[:, :, 0]
        return keys, values

    @property
    def mask(self) -> torch.Tensor:
        """Bool (B, 1, 1, N): what the next token of each row sees, itself too."""
        places = torch.arange(self.keys[0].shape[2], device=self.lengths.device)
        return (places <= self.lengths[:, None])[:, None, None]


class AnswerSteps:
    """Steps of B answers: each takes the last token of each row and gives the next."""

    def __init__(self, model: MolmoForCausalLM, batch: int, tokens: int) -> None:
        self._model = model
        self._cache = AnswerCache(model, batch, tokens)
        self._ids = torch.zeros_like(self._cache.rows)
        self._finite = torch.ones_like(self._cache.rows, dtype=torch.bool)
        #: Batches that were answered.
        self.uses = 0
        self._tried = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def start(self, inputs: dict[str, Any], lengths: torch.Tensor) -> torch.Tensor:
        """Read prompts (B, L) of `lengths` (B,): the first token of each answer, int64 (B,)."""
        self._cache.lengths.copy_(lengths)
        self._cache.positions.copy_(inputs.get("next_positions", lengths))
        if "read_images" in inputs:
            inputs = inputs | inputs["read_images"]()
        self._cache.is_prompt = True
        last: dict[str, Any] = {"logits_to_keep": 1}
        if inputs["attention_mask"] is not None:
            last = {"last_positions": lengths - 1}
        output = self._model(
            **(inputs | {"input_ids": inputs["input_ids"].clamp(min=0), "attention_mask": None}),
            past_key_values=self._cache,
            **last,
        )
        self._cache.is_prompt = False
        self._finite.fill_(True)
        self._choose(output.logits[:, -1])
        return self._ids.clone()

    def prepare(self, stream: torch.cuda.Stream) -> None:
        """Capture a step, if that was not tried before; steps stay eager where it fails.

        To be called before `start`: buffers are written to.
        """
        if self._tried:
            return
        self._tried, self._cache.is_prompt = True, False
        self._cache.lengths.zero_()  # those of an earlier batch may be at the buffers' end
        self._cache.positions.zero_()
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
        rotary = rotary_of(cache.positions[:, None], model.config)
        context = PassContext(rotary, cache.mask, cache, is_prompt=False)
        x = parts.wte(self._ids[:, None])
        for block in parts.blocks:
            x = block(x, context)
        self._choose(model.logits_of(x)[:, -1])
        cache.lengths.add_(1)
        cache.positions.add_(1)

    def _choose(self, logits: torch.Tensor) -> None:
        """The likeliest next token of each row, and whether its logits (B, ids) were numbers."""
        self._ids.copy_(logits.argmax(dim=-1))
        self._finite.logical_and_(logits.isfinite().all(dim=-1))

    @property
    def finite(self) -> torch.Tensor:
        """Bool (B,): whether all logits since `start` were numbers."""
        return self._finite

    def _captured(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step()  # libraries allocate and choose what they need before the capture
            graph, _ = captured(torch.cuda.graph_pool_handle(), self._step)
        torch.cuda.current_stream().wait_stream(stream)
        return graph


class Answering:
    """Greedy answers of one model, with buffers and graphs kept for the latest shapes."""

    def __init__(self, model: MolmoForCausalLM, end_ids: tuple[int, ...], graphs: bool) -> None:
        self._model, self._end_ids = model, end_ids
        self._stream = torch.cuda.Stream() if graphs else None
        self._steps: OrderedDict[tuple[int, int], AnswerSteps] = OrderedDict()

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
        answers go on there and not at the prompts' lengths. With `on_token`,
        which hears of each token, nothing ends before `max_new_tokens`. A shape is captured before
        it is timed, else at its second batch: many shapes come once.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        longest = inputs.get("longest", ids.shape[1])
        lengths = torch.full((len(ids),), longest) if mask is None else mask.sum(dim=1)
        steps = self._steps_for(len(ids), longest + max_new_tokens - 1)
        steps.uses += 1
        if self._stream is not None and (on_token is not None or steps.uses > 1):
            steps.prepare(self._stream)
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

    def _steps_for(self, batch: int, tokens: int) -> AnswerSteps:
        shape = (batch, -(-tokens // LENGTH_STEP) * LENGTH_STEP)
        if shape not in self._steps:
            held = [own[0] * own[1] for own in self._steps]
            while held and sum(held) + shape[0] * shape[1] > MOST_TOKENS:
                self._steps.popitem(last=False)
                held.pop(0)
            self._steps[shape] = AnswerSteps(self._model, *shape)
        self._steps.move_to_end(shape)
        return self._steps[shape]


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
