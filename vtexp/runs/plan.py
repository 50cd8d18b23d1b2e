"""From a config to the runs it means, checked before anything heavy is imported or loaded.

Reads image headers and the tokenizer only: no torch, no transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vtexp.budget.geometry import Geometry, Size
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.limits import Verdict, crop_limit, own_limit_warning, prompt_limit
from vtexp.budget.llm import LlmSetting
from vtexp.config.choices import Weights
from vtexp.config.knob_schema import values_key
from vtexp.config.schema import Config, ModelConfig
from vtexp.cost.memory import estimate, refusal, warning
from vtexp.data.sample import FailedSample, Sample
from vtexp.errors import CheckpointError, ConfigError
from vtexp.metrics import metric
from vtexp.models.checkpoints import Checkpoint, find_checkpoint
from vtexp.models.families import FAMILIES, text_config
from vtexp.runs.block_order import require_order_of
from vtexp.runs.llm import llm_setting, remark
from vtexp.runs.planned_run import PlannedRun, read_of
from vtexp.runs.samples import asked_samples, other_styles
from vtexp.runs.setting_warnings import setting_warnings


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

    def share(self, rank: int) -> range:
        """Indices of the samples that a rank of a run answers."""
        return range(rank, len(self.samples), self.config.hardware.gpus_per_run)

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
    scoring = metric(config.dataset.metric)  # before anything is fetched
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
    asked = asked_samples(config, checkpoint, index, scoring, geometry, settings)
    runs = [
        _plan_run(config, checkpoint, geometry, value, setting, asked.sizes, asked.text_lengths)
        for value, setting in settings
    ]
    styles = other_styles(config, checkpoint)
    runs = [replace(r, failed=asked.failed, warnings=(*r.warnings, *styles)) for r in runs]
    most = min(config.hardware.batch_size, len(asked.samples))
    batch_size = most if checkpoint.answers else 1
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
        samples=asked.samples,
        image_sizes=asked.sizes,
        checkpoint=checkpoint,
        geometry=geometry,
        runs=tuple(runs),
        failed=asked.failed,
        transparent=asked.transparent,
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
        length - read_of(planned.setting, tiling, geometry).first
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


#: From this share of the context on, prompt and answer are near its limit.
NEAR_CONTEXT = 0.95


def _plan_run(
    config: Config,
    checkpoint: Checkpoint,
    geometry: Geometry,
    value: KnobValue,
    setting: CropSetting,
    sizes: Sequence[Size],
    text_lengths: Sequence[int],
) -> PlannedRun:
    per_size = {size: setting.tiling(size, geometry) for size in set(sizes)}
    tilings = tuple(per_size[size] for size in sizes)
    image_tokens = {t: read_of(setting, t, geometry).first for t in set(tilings)}
    lengths = tuple(
        image_tokens[tiling] + text for tiling, text in zip(tilings, text_lengths, strict=True)
    )
    verdict = _verdict(config, geometry, setting, max(lengths))
    warnings = setting_warnings(value, setting, geometry, sizes)
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
