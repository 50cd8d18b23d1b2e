"""One run of a plan: a knob value, and what arithmetic says of it on the samples."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import yaml

from vtexp.budget.geometry import Geometry, Tiling, TokenLayout, theoretical_tokens, token_layout
from vtexp.budget.knobs import CropSetting, KnobValue, tiling_summary
from vtexp.budget.limits import Verdict
from vtexp.budget.llm import LlmSetting, LlmSizes
from vtexp.budget.reduction import mean_over_blocks
from vtexp.config.schema import Config, to_plain
from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.flops import Memory, ModelArithmetic
from vtexp.cost.prompts import PromptCounts
from vtexp.data.sample import FailedSample
from vtexp.models.checkpoints import Checkpoint
from vtexp.runs.records import Asked


@dataclass(frozen=True)
class PlannedRun:
    """One knob value and what it means for the chosen samples, by arithmetic alone."""

    value: KnobValue
    setting: CropSetting
    geometry: Geometry
    tilings: tuple[Tiling, ...]  # of each sample, in order
    prompt_lengths: tuple[int, ...]  # tokens of each prompt, BOS and image included
    llm_sizes: LlmSizes  # of the published model
    verdict: Verdict
    warnings: tuple[str, ...]
    run_id: str = ""  # of a run that is refused, none
    folder: Path = Path()
    failed: tuple[FailedSample, ...] = ()  # drawn, but impossible to ask
    memory: Memory | None = None  # of one prompt, estimated; None where sizes are not known

    def resolved_config(self, config: Config) -> str:
        """YAML of the whole config with the one value of this run, and its id."""
        plain = to_plain(config)
        plain["run"] = {"run_id": self.run_id, **asdict(self.value)}
        if self.setting.llm is not None:
            plain["run"]["llm"] = self.setting.llm.plain()
        return yaml.safe_dump(plain, sort_keys=False)

    def asked(self, config: Config) -> Asked:
        """What was asked and what arithmetic says of it, as every record of the run has it."""
        llm = self.setting.llm or LlmSetting()
        return Asked(
            run_id=self.run_id,
            run=self.folder.name,
            sweep=config.sweep.name,
            knob=self.value.name,
            knob_value=self.value.value,
            tiling=tiling_summary(self.tilings),
            num_crops=self.num_crops,
            target_vision_tokens=self.target_vision_tokens,
            theoretical_num_crops=self.theoretical_num_crops,
            theoretical_vision_tokens=self.theoretical_vision_tokens,
            force_full_tokens=self.setting.force_full_tokens,
            fit=self.setting.fit,
            reduction=None if self.setting.reduction is None else self.setting.reduction.method,
            reduction_layer=None
            if self.setting.reduction is None
            else self.setting.reduction.layer,
            moe_top_k=llm.top_k or self.llm_sizes.top_k,
            moe_first_block_top_k=llm.first_top_k,
            active_blocks=self.active_blocks,
            blocks=llm.blocks,
            model=config.model.name,
            weights=config.model.weights.value,
            dataset=config.dataset.name,
            split=config.dataset.split,
            hardware=config.hardware.name,
            metric=config.dataset.metric,
            predicted_memory_gb=None if self.memory is None else self.memory.total / 1e9,
            num_failed=len(self.failed),
            failed_samples=self.failed,
        )

    @property
    def label(self) -> str:
        """Text for tables and messages, such as `image_size=560x336`."""
        return self.value.label

    @property
    def num_crops(self) -> int:
        """Crops that the value stands for: the forced number, or the cap."""
        return self.setting.max_crops

    @property
    def target_vision_tokens(self) -> int:
        """The target itself for `vision_tokens` and `kept_tokens` (the mean, of shares), else the
        theoretical tokens of `num_crops`."""
        if self.value.name == "vision_tokens":
            return int(self.value.value)
        if (own := self.value.reduction) is not None:
            kept = (self._read(tiling).kept for tiling in self.tilings)
            return round(fmean(kept)) if own.kept is None else own.kept
        return theoretical_tokens(self.num_crops, self.geometry)

    @property
    def active_blocks(self) -> int:
        """Blocks of the language model that run."""
        return len((self.setting.llm or LlmSetting()).ran(self.llm_sizes.layers))

    def arithmetic(self, checkpoint: Checkpoint) -> ModelArithmetic | None:
        """What a prefill of the run takes; None where that of the model's family is not known."""
        return model_arithmetic(checkpoint.config, self.geometry, self.setting.llm)

    @cached_property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.prompt_lengths)

    @cached_property
    def prompts(self) -> Counter[PromptCounts]:
        """How many prompts have the same counts."""
        tokens = {tiling: self.predicted_tokens(tiling) for tiling in set(self.tilings)}
        return Counter(
            self.with_connected(PromptCounts(tiling.num_crops, tokens[tiling], length, tiling))
            for tiling, length in zip(self.tilings, self.prompt_lengths, strict=True)
        )

    @cached_property
    def theoretical_num_crops(self) -> float:
        """Mean over the samples."""
        return fmean(tiling.num_crops for tiling in self.tilings)

    @cached_property
    def theoretical_vision_tokens(self) -> float:
        """Mean over the samples of (crops + 1) x tokens per crop."""
        return fmean(theoretical_tokens(t.num_crops, self.geometry) for t in self.tilings)

    @cached_property
    def predicted_vision_tokens(self) -> float:
        """Mean over the samples of what the layout leaves: what hooks should count."""
        return fmean(self.predicted_tokens(tiling) for tiling in self.tilings)

    def predicted_tokens(self, tiling: Tiling) -> float:
        """Vision tokens that the language model reads of an image with this tiling: where its
        blocks read unlike numbers, their mean."""
        return mean_over_blocks(self._by_block(tiling))

    def by_block(self, tiling: Tiling) -> tuple[int, ...]:
        """Vision tokens of each block, where they are unlike; else empty."""
        found = self._by_block(tiling)
        return found if len(set(found)) > 1 else ()

    def _by_block(self, tiling: Tiling) -> tuple[int, ...]:
        read, own = self._read(tiling), self.setting.behind_connector
        return (read.tokens,) if own is None else own.by_block(read.tokens, self.active_blocks)

    def _read(self, tiling: Tiling) -> ImageRead:
        return read_of(self.setting, tiling, self.geometry)

    def with_connected(self, counts: PromptCounts) -> PromptCounts:
        """The counts of a prompt, with the tokens from before a reduction where there is one."""
        if self.setting.behind_connector is None or counts.tiling is None:
            return counts
        asked, read = self.setting.behind_connector, self._read(counts.tiling)
        late = None if asked.layer is None else counts.sequence_length - read.first + read.last
        return replace(counts, connected_tokens=read.tokens, reduction=asked, late_length=late)

    @cached_property
    def inputs_fingerprint(self) -> str:
        """Hash of all that decides the model's inputs for these samples, besides the samples.

        And of which of its experts and blocks work on them.
        """
        full = self.setting.force_full_tokens
        views = {
            t: token_layout(t, self.geometry, force_full_tokens=full) for t in set(self.tilings)
        }
        grids = [(*t, views[t].grid_rows, views[t].grid_cols) for t in self.tilings]
        parts = [self.setting.fit, self.geometry.crop_px, grids]
        if any(self._reduces(views[t]) for t in set(self.tilings)):
            assert self.setting.reduction is not None
            parts.append(self.setting.reduction.plain())
        if self.setting.llm is not None:
            parts.append(self.setting.llm.plain())
        text = json.dumps(parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _reduces(self, layout: TokenLayout) -> bool:
        """Whether a reduction takes anything off an image with this layout."""
        own = self.setting.behind_connector
        if own is None:
            return False
        tokens = layout.vision_tokens
        return own.structure_tokens == "drop" or own.kept_of(tokens) < tokens


class ImageRead(NamedTuple):
    """Vision tokens of an image's layout, how many the language model's last block reads, and all
    tokens of the image that its first and its last block read."""

    tokens: int
    kept: int
    first: int
    last: int


def read_of(setting: CropSetting, tiling: Tiling, geometry: Geometry) -> ImageRead:
    """What is read under a tiling.

    Overlap is dropped unless tokens are forced; then what a reduction takes off is, also of the
    text beside the image.
    """
    layout = token_layout(tiling, geometry, force_full_tokens=setting.force_full_tokens)
    tokens, length = layout.vision_tokens, layout.sequence_length
    own = setting.behind_connector
    if own is None:
        return ImageRead(tokens, tokens, length, length)
    kept = own.kept_of(tokens)
    if own.structure_tokens == "drop":
        last = kept - geometry.template_markers
    else:
        last = kept + length - tokens
    return ImageRead(tokens, kept, last if own.layer is None else length, last)
