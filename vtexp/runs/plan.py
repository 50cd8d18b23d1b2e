"""From a config to the runs it means, checked before anything heavy is imported or loaded.

Reads image headers and the tokenizer only: no torch, no transformers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import yaml

from vtexp.budget.geometry import (
    Geometry,
    Size,
    Tiling,
    TokenLayout,
    Verdict,
    aspect_ratio_warning,
    crop_limit,
    letterbox,
    own_limit_warning,
    prompt_limit,
    theoretical_tokens,
    tiling_to_resolution,
    token_layout,
)
from vtexp.budget.knobs import CropSetting, KnobValue, tiling_summary
from vtexp.budget.llm import LlmSetting, LlmSizes
from vtexp.budget.reduction import mean_over_blocks
from vtexp.config.schema import Config, ModelConfig, Weights, to_plain, values_key
from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.flops import Memory, ModelArithmetic, PromptCounts
from vtexp.cost.memory import estimate, refusal, warning
from vtexp.data.images import AnyImage, Header
from vtexp.data.load import load_samples
from vtexp.data.sample import FailedSample, Sample, require_few_failed
from vtexp.errors import CheckpointError, ConfigError, DataError
from vtexp.metrics import Metric, metric
from vtexp.models.checkpoints import Checkpoint, find_checkpoint
from vtexp.models.families import FAMILIES, text_config
from vtexp.prompts.wording import OWN_STYLES, settle_style
from vtexp.runs.block_order import require_order_of
from vtexp.runs.llm import llm_setting, remark
from vtexp.runs.records import Asked
from vtexp.utils.console import progress


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

    def _read(self, tiling: Tiling) -> _ImageRead:
        return _read_of(self.setting, tiling, self.geometry)

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


class _ImageRead(NamedTuple):
    """Of an image: vision tokens of its layout, how many the language model's last block reads, and
    all tokens of the image that its first and its last block read."""

    tokens: int
    kept: int
    first: int
    last: int


def _read_of(setting: CropSetting, tiling: Tiling, geometry: Geometry) -> _ImageRead:
    """What is read under a tiling.

    Overlap is dropped unless tokens are forced; then what a reduction takes off is, also of the
    text beside the image.
    """
    layout = token_layout(tiling, geometry, force_full_tokens=setting.force_full_tokens)
    tokens, length = layout.vision_tokens, layout.sequence_length
    own = setting.behind_connector
    if own is None:
        return _ImageRead(tokens, tokens, length, length)
    kept = own.kept_of(tokens)
    if own.structure_tokens == "drop":
        last = kept - geometry.template_markers
    else:
        last = kept + length - tokens
    return _ImageRead(tokens, kept, last if own.layer is None else length, last)


@dataclass(frozen=True)
class Plan:
    """All runs of one job, on the same samples; `failed` were drawn but cannot be asked."""

    config: Config
    samples: tuple[Sample, ...]
    image_sizes: tuple[Size, ...]  # of each sample, from the image's header
    checkpoint: Checkpoint
    geometry: Geometry
    runs: tuple[PlannedRun, ...]
    failed: tuple[FailedSample, ...] = ()
    transparent: int = 0  # images that can be transparent, by their headers

    @property
    def answers(self) -> bool:
        """Whether there is anything to answer with: of random weights no answer means anything."""
        return self.checkpoint.answers

    def renamed(self, sweep: str) -> Plan:
        """The same plan in a sweep of another name."""
        config = replace(self.config, sweep=replace(self.config.sweep, name=sweep))
        folder = sweep_folder(config)
        runs = tuple(replace(run, folder=folder / run.folder.name) for run in self.runs)
        return replace(self, config=config, runs=runs)

    def require_feasible(self) -> None:
        """Raises ConfigError for the first run that the model's context refuses."""
        for run in self.runs:
            if run.verdict.level == "refused":
                raise ConfigError(
                    f"{values_key(self.config.knob)}={run.value.value}: {run.verdict.reason}"
                )


def sweep_folder(config: Config) -> Path:
    """Folder of the sweep: `outputs/<sweep>`, absolute."""
    return (Path(config.sweep.folder).expanduser() / config.sweep.name).absolute()


def make_plan(config: Config, index: int | None = None) -> Plan:
    """Work out all runs of a config. Raises ConfigError, DataError or CheckpointError.

    With `index`, on the one sample at that place of the draw. Weights that are not on this machine
    are downloaded last, when all else is found right. To be shown alone (`config.plan`), they are
    not needed, and runs have no ids.
    """
    dataset = config.dataset
    scoring = metric(dataset.metric)
    find = partial(
        find_checkpoint,
        config.model.path,
        config.model.revision,
        random=config.model.weights == Weights.random,
        fetch=not config.plan,
    )
    checkpoint = find(weights=False, sizes_suffice=config.plan)
    geometry = geometry_of(config.model, checkpoint)
    settings = [(v, _setting(config, checkpoint, v, geometry)) for v in config.knob_values]
    _require_reducible(config, checkpoint, settings)
    scored = checkpoint.answers
    samples, sizes, transparent, failed = _draw(
        config, checkpoint, index, scoring if scored else None, geometry, settings
    )
    if checkpoint.family.transparent_on_white:
        samples = [sample.on_white() for sample in samples]
    samples, sizes, text_lengths, endless = _askable(config, checkpoint, geometry, samples, sizes)
    failed = (*failed, *endless)
    require_few_failed(failed, dataset.max_failed, len(samples), dataset.name)
    runs = [
        _plan_run(config, checkpoint, geometry, value, setting, sizes, text_lengths)
        for value, setting in settings
    ]
    runs = [
        replace(run, failed=failed, warnings=(*run.warnings, *_other_styles(config, checkpoint)))
        for run in runs
    ]
    batch_size = min(config.hardware.batch_size, len(samples)) if scored else 1
    runs = [_with_memory(config, checkpoint, run, batch_size) for run in runs]
    if not config.plan and all(run.verdict.level != "refused" for run in runs):
        checkpoint = find()
        require_order_of(config.model, checkpoint)
        runs = [_identified(config, run, checkpoint.fingerprint) for run in runs]
    elif config.model.block_order is not None:
        with suppress(CheckpointError):  # weights that are not here cannot be compared
            require_order_of(config.model, find())
    return Plan(
        config=config,
        samples=tuple(samples),
        image_sizes=tuple(sizes),
        checkpoint=checkpoint,
        geometry=geometry,
        runs=tuple(runs),
        failed=failed,
        transparent=transparent,
    )


def _setting(
    config: Config, checkpoint: Checkpoint, value: KnobValue, geometry: Geometry
) -> CropSetting:
    """What preprocessor and model are told under a value. Raises ConfigError for a bad one."""
    setting = value.crop_setting(geometry)
    return replace(setting, llm=llm_setting(config, checkpoint, value))


def _require_reducible(
    config: Config, checkpoint: Checkpoint, settings: Sequence[tuple[KnobValue, CropSetting]]
) -> None:
    """Raises ConfigError where the model's family has no such reduction behind its connector."""
    family, blocks = checkpoint.family, checkpoint.family.llm_sizes(checkpoint.config).layers
    for _, setting in settings:
        if (own := setting.behind_connector) is None:
            continue
        if own.method not in family.reduces:
            having = [each.name for each in FAMILIES.values() if own.method in each.reduces]
            raise ConfigError(
                f"reduction={own.method}: not for {family.name}, only for {', '.join(having)}; "
                "reduction=resize works with every family"
            )
        by_template = own.structure_tokens == "drop" and family.geometry.template_markers
        if by_template and not checkpoint.tokenizer.form.marks_image:
            raise ConfigError(
                "reduction.structure_tokens=drop: the chat template of this checkpoint writes no "
                "special tokens around an image; take keep"
            )
        if own.layer is not None and config.hardware.sharded:
            raise ConfigError("reduction=early_layer: not with hardware.sharded=true")
        ran = len((setting.llm or LlmSetting()).ran(blocks))
        if own.layer is not None and own.layer >= ran:
            raise ConfigError(
                f"reduction.layer={own.layer}: must be 1 to {ran - 1}, as {ran} blocks of "
                f"{config.model.name} run"
            )


def with_value(plan: Plan, value: KnobValue) -> PlannedRun:
    """What another value would mean for a plan's samples; it has no id and belongs to no sweep.

    Raises ConfigError for a bad value.
    """
    config, geometry, planned = plan.config, plan.geometry, plan.runs[0]
    text_lengths = [
        length - _read_of(planned.setting, tiling, geometry).first
        for tiling, length in zip(planned.tilings, planned.prompt_lengths, strict=True)
    ]
    setting, sizes = _setting(config, plan.checkpoint, value, geometry), list(plan.image_sizes)
    run = _plan_run(config, plan.checkpoint, geometry, value, setting, sizes, text_lengths)
    return _with_memory(config, plan.checkpoint, run, 1)


def geometry_of(asked: ModelConfig, checkpoint: Checkpoint) -> Geometry:
    """The checkpoint's geometry at the config's context. Raises ConfigError if it is too long."""
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    length, model = asked.max_sequence_length, text_config(checkpoint.config)
    # MolmoE's says two: the longest that positions are made for, and the longest it was made for.
    context = min(
        model.get("max_position_embeddings", geometry.max_sequence_length),
        model.get("max_sequence_length", sys.maxsize),
    )
    if length > context:
        raise ConfigError(
            f"model.max_sequence_length={length}: the checkpoint's config.json says {context}"
        )
    return replace(geometry, max_sequence_length=length)


def _draw(
    config: Config,
    checkpoint: Checkpoint,
    index: int | None,
    scoring: Metric | None,
    geometry: Geometry,
    settings: Sequence[tuple[KnobValue, CropSetting]],
) -> tuple[list[Sample], list[Size], int, tuple[FailedSample, ...]]:
    """Samples to ask, sizes of their images, how many images are transparent; and the others.

    Raises DataError where more cannot than the config allows.
    """
    dataset = config.dataset
    drawn = load_samples(dataset, fetch=not config.plan, index=index, may_import=True)
    if not drawn.samples and not drawn.failed:
        raise ConfigError(f"dataset={dataset.name}: no samples")
    trained = checkpoint.trained_styles
    samples = [settle_style(sample, dataset.style, trained) for sample in drawn.samples]
    unscored: list[FailedSample] = []
    if scoring is not None:
        samples, unscored = _scorable(samples, scoring)

    def too_flat(size: Size) -> bool:
        return any(_is_too_flat(size, setting, geometry) for _, setting in settings)

    samples, headers, unreadable = _readable(samples, too_flat)
    failed = (*drawn.failed, *unscored, *unreadable)
    require_few_failed(failed, dataset.max_failed, len(samples), dataset.name)
    if scoring is not None:
        scoring.prepare(samples)
    pairs = zip(samples, headers, strict=True)
    transparent = len({sample.image for sample, header in pairs if header.transparent})
    return samples, [header.size for header in headers], transparent, failed


def _other_styles(config: Config, checkpoint: Checkpoint) -> list[str]:
    """Which styles the model was not trained on, and in which it is asked instead."""
    asked = {config.dataset.style, *config.dataset.styles.values()} & OWN_STYLES.keys()
    return [
        f"the model was not trained on the style {own}: it is asked as {OWN_STYLES[own]}"
        for own in sorted(asked - set(checkpoint.trained_styles))
    ]


def _askable(
    config: Config,
    checkpoint: Checkpoint,
    geometry: Geometry,
    samples: Sequence[Sample],
    sizes: Sequence[Size],
) -> tuple[list[Sample], list[Size], list[int], list[FailedSample]]:
    """Samples whose text leaves room for one crop, with sizes and text tokens; and the others.

    Whether more crops fit is a question of the knob, not of the sample; where no sample fits, it is
    the context that is too short.
    """
    dataset, context = config.dataset, geometry.max_sequence_length
    least = token_layout(Tiling(1, 1), geometry).sequence_length + dataset.max_new_tokens
    kept: list[tuple[Sample, Size, int]] = []
    failed, lengths = [], []
    for sample, size in zip(samples, sizes, strict=True):
        prompt = checkpoint.tokenizer.prompt(sample, dataset.style)
        length = len(prompt.before) + len(prompt.after)
        lengths.append(length)
        if least + length > context:
            reason = f"its text of {length} tokens leaves no room in a context of {context}"
            failed.append(FailedSample(sample.sample_id, reason))
        else:
            kept.append((sample, size, length))
    if not kept:
        return list(samples), list(sizes), lengths, []
    return [k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept], failed


def _scorable(
    samples: Sequence[Sample], scoring: Metric
) -> tuple[list[Sample], list[FailedSample]]:
    """Samples that have what the metric needs, and the others."""
    kept, failed = [], []
    for sample in samples:
        if lack := scoring.lacks(sample):
            reason = f"dataset.metric={scoring.name}: it {lack}"
            failed.append(FailedSample(sample.sample_id, reason))
        else:
            kept.append(sample)
    return kept, failed


#: From this share of the context on, prompt and answer are near its limit.
NEAR_CONTEXT = 0.95
#: From so many samples on, reading the headers of their images shows its progress.
_MANY = 1000


def _readable(
    samples: Sequence[Sample], too_flat: Callable[[Size], bool]
) -> tuple[list[Sample], list[Header], list[FailedSample]]:
    """Samples with a usable image, the images' headers, and the others; each is opened once."""
    known: dict[AnyImage, Header | str] = {}
    kept, headers, failed = [], [], []
    many = len(samples) >= _MANY
    with progress("reading image headers", len(samples)) if many else nullcontext(int) as advance:
        for sample in samples:
            image = sample.image
            if image not in known:
                try:
                    header = sample.image_header()
                    flat = f"{image}: an image of {header.size} px is too flat to be letterboxed"
                    known[image] = flat if too_flat(header.size) else header
                except DataError as error:
                    known[image] = str(error)
            found = known[image]
            if isinstance(found, str):
                failed.append(FailedSample(sample.sample_id, found))
            else:
                kept.append(sample)
                headers.append(found)
            advance(1)
    return kept, headers, failed


def _is_too_flat(size: Size, setting: CropSetting, geometry: Geometry) -> bool:
    """Whether a side of a letterboxed view would shrink to 0, which nothing can be resized to."""
    if setting.fit == "stretch":
        return False
    targets = [Size(geometry.crop_px, geometry.crop_px)]
    if setting.fit == "letterbox":
        targets.append(tiling_to_resolution(setting.tiling(size, geometry), geometry))
    return any(0 in letterbox(size, target).scaled for target in targets)


def _plan_run(
    config: Config,
    checkpoint: Checkpoint,
    geometry: Geometry,
    value: KnobValue,
    setting: CropSetting,
    sizes: list[Size],
    text_lengths: list[int],
) -> PlannedRun:
    per_size = {size: setting.tiling(size, geometry) for size in set(sizes)}
    tilings = tuple(per_size[size] for size in sizes)
    image_tokens = {t: _read_of(setting, t, geometry).first for t in set(tilings)}
    lengths = tuple(
        image_tokens[tiling] + text for tiling, text in zip(tilings, text_lengths, strict=True)
    )
    verdict = _verdict(config, geometry, setting, max(lengths))
    warnings = _warnings(value, setting, geometry, sizes)
    most = max(tiling.num_crops for tiling in tilings)
    llm_sizes = checkpoint.family.llm_sizes(checkpoint.config)
    for told in (
        own_limit_warning(setting.max_crops, most, geometry),
        remark(config, setting.llm, llm_sizes.layers),
    ):
        warnings += [told] if told else []
    needed = max(lengths) + config.dataset.max_new_tokens
    context = geometry.max_sequence_length
    if verdict.level != "refused" and needed > NEAR_CONTEXT * context:
        warnings.append(f"near the limit: prompt and answer need {needed} of {context} tokens")
    return PlannedRun(
        value=value,
        setting=setting,
        geometry=geometry,
        tilings=tilings,
        prompt_lengths=lengths,
        llm_sizes=llm_sizes,
        verdict=verdict,
        warnings=tuple(warnings),
    )


def _verdict(config: Config, geometry: Geometry, setting: CropSetting, longest: int) -> Verdict:
    """By the true length of the longest prompt; with full tokens, by the seeds' table too."""
    verdict = prompt_limit(longest, config.dataset.max_new_tokens, geometry)
    if setting.force_full_tokens and verdict.level == "recommended":
        return crop_limit(setting.max_crops, geometry)
    return verdict


def _with_memory(
    config: Config, checkpoint: Checkpoint, run: PlannedRun, batch_size: int
) -> PlannedRun:
    """The run with its memory estimate, and refused or warned about where that is too much."""
    arithmetic = run.arithmetic(checkpoint)
    if arithmetic is None:
        return run
    one, batch = (estimate(arithmetic, config, run.prompts, size) for size in (1, batch_size))
    verdict, warnings = run.verdict, run.warnings
    if verdict.level != "refused":
        verdict = refusal(one, config) or verdict
    if told := warning(one, batch, batch_size, config):
        warnings = (*warnings, told)
    return replace(run, memory=one, verdict=verdict, warnings=warnings)


def _identified(config: Config, run: PlannedRun, weights: str) -> PlannedRun:
    """The run with its id and folder, from the fingerprint of the weights."""
    run_id = config.run_id(run.value, weights, run.setting.llm)
    folder = sweep_folder(config) / _folder_name(config, run, run_id)
    return replace(run, run_id=run_id, folder=folder)


def _warnings(
    value: KnobValue, setting: CropSetting, geometry: Geometry, sizes: list[Size]
) -> list[str]:
    found = []
    if setting.image_size is not None:
        canvas = tiling_to_resolution(setting.tiling(setting.image_size, geometry), geometry)
        if canvas != setting.image_size:
            found.append(
                f"{value.value} is not a whole number of crops: images are resized to {canvas}"
            )
        warning = aspect_ratio_warning(setting.image_size)
        if warning:
            found.append(warning)
    else:
        flat = sorted({w for s in set(sizes) if (w := aspect_ratio_warning(s))})
        if flat:
            more = f" (and {len(flat) - 1} more image sizes)" if len(flat) > 1 else ""
            found.append(f"{flat[0]}{more}")
    if setting.fit == "letterbox":
        covered = {size: _image_share(size, setting, geometry) for size in set(sizes)}
        padded = sum(covered[size] < 0.5 for size in sizes)
        if padded:
            found.append(
                f"for {padded / len(sizes):.0%} of the images more than half of the crops' area "
                f"is padding (the image takes as little as {min(covered.values()):.0%} of it)"
            )
    elif setting.fit == "stretch" and setting.image_size is None:
        stretched = {size: _distortion(size, setting, geometry) for size in set(sizes)}
        bent = sum(stretched[size] > 2 for size in sizes)
        if bent:
            found.append(
                f"for {bent / len(sizes):.0%} of the images one side is stretched over twice as "
                f"much as the other (up to {max(stretched.values()):.3g} times)"
            )
    return found


def _image_share(size: Size, setting: CropSetting, geometry: Geometry) -> float:
    """Share of the canvas that a letterboxed image of `size` covers."""
    canvas = tiling_to_resolution(setting.tiling(size, geometry), geometry)
    scaled = letterbox(size, canvas).scaled
    return (scaled.height * scaled.width) / (canvas.height * canvas.width)


def _distortion(size: Size, setting: CropSetting, geometry: Geometry) -> float:
    """How many times more one side of a stretched image grows than the other."""
    canvas = tiling_to_resolution(setting.tiling(size, geometry), geometry)
    ratio = canvas.aspect_ratio / size.aspect_ratio
    return max(ratio, 1 / ratio)


def _folder_name(config: Config, run: PlannedRun, run_id: str) -> str:
    value, llm = run.value, run.setting.llm or LlmSetting()
    knob = f"{value.name}-{value.value}"
    if value.name == "image_size" and value.fit != "stretch":
        knob += f"-{value.fit}"
    if value.force_full_tokens:
        knob += "-full"
    if llm.top_k is not None and value.name != "moe_top_k":
        knob += f"-top{llm.top_k}"
    if llm.blocks is not None and value.name != "transformer_blocks":
        knob += f"-blocks{len(llm.blocks)}"
    parts = (knob, config.model.name, config.dataset.name, config.hardware.name, run_id[:8])
    return "_".join(part.replace("/", "-") for part in parts)
