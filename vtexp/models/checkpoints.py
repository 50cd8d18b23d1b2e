"""What a model is made of, found and read but not loaded. No torch here: plans read this only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtexp.errors import CheckpointError, ConfigError
from vtexp.models.config_checks import wrong_number
from vtexp.models.families import FAMILIES, Family
from vtexp.models.fingerprints import checkpoint_fingerprint, weight_files
from vtexp.models.processors import IMAGES
from vtexp.prompts.tokenizer import PromptTokenizer
from vtexp.prompts.wording import OWN_STYLES
from vtexp.utils.hub import HubError, HubNameError, snapshot

EMBEDDED = "embedded:"
ASSETS = Path(__file__).parent.parent / "assets"
#: What of a repository is fetched: never code, never pickled weights.
TEXTS, WEIGHTS = ["*.json", "*.txt", "*.jinja"], ["*.safetensors"]


@dataclass(frozen=True)
class Checkpoint:
    """A model's family, configuration and tokenizer, and where its weights are.

    `folder` is None where weights are random, or where only the published sizes are known: then
    `estimated` is true, and the tokenizer stands in for the model's own. `fingerprint` stands for
    all of it in a run's id.
    """

    name: str
    family: Family
    config: dict[str, Any]
    tokenizer: PromptTokenizer
    folder: Path | None
    fingerprint: str
    estimated: bool = False

    @property
    def answers(self) -> bool:
        """Whether there is anything to answer with: of random weights no answer means anything."""
        return self.folder is not None or self.estimated

    @property
    def trained_styles(self) -> Collection[str]:
        """Which of this package's own styles the model knows, by `trained_styles` of its config.

        All, for families that are not told styles.
        """
        if not self.family.form.wording.names_styles:
            return OWN_STYLES
        said = self.config.get("trained_styles")
        return [style for style in said if isinstance(style, str)] if isinstance(said, list) else ()


def find_checkpoint(
    path: str,
    revision: str | None = None,
    *,
    random: bool = False,
    fetch: bool = False,
    weights: bool = True,
    sizes_suffice: bool = False,
) -> Checkpoint:
    """The checkpoint at `model.path`: a local folder, `embedded:NAME`, or a hub repository.

    With `random`, weights are neither needed nor looked for; the sizes of published Molmos come
    with the package, others need config and tokenizer. With `fetch`, what the hub's cache lacks is
    downloaded. Without `weights`, they are left for later, and the fingerprint is empty: config
    and tokenizer are enough to check a plan. Where `sizes_suffice`, published models need neither:
    what is not on this machine is `estimated` from the sizes in the package. Raises
    CheckpointError, naming what is missing and how to get it, and ConfigError for a path that
    cannot be one.
    """
    weights = weights and not random
    known = ASSETS / "architectures" / f"{path}.json"
    may_lack = (random or sizes_suffice) and known.is_file()
    folder = _folder(path, revision, fetch=fetch, weights=weights, may_lack=may_lack)
    if folder is not None:
        known = folder / "config.json"
        if not random:
            _check_files(path, folder, weights)
    config = read_model_config(known)
    family = FAMILIES[config["model_type"]]
    if random:
        tokenizer = (
            _tokenizer(folder, family, config)
            if folder is not None and (folder / "tokenizer.json").is_file()
            else stand_in_tokenizer(family, config)
        )
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return Checkpoint(Path(path).name, family, config, tokenizer, None, digest[:16])
    if folder is None:
        tokenizer = stand_in_tokenizer(family, config)
        return Checkpoint(Path(path).name, family, config, tokenizer, None, "", estimated=True)
    tokenizer = _tokenizer(folder, family, config)
    fingerprint = checkpoint_fingerprint(folder) if weights else ""
    return Checkpoint(folder.name, family, config, tokenizer, folder, fingerprint)


def _folder(
    path: str, revision: str | None, *, fetch: bool, weights: bool, may_lack: bool
) -> Path | None:
    """Folder of `model.path`; None where it `may_lack` and is not on this machine."""
    if not path:
        raise ConfigError("model.path is empty; give the folder of a checkpoint")
    if path.startswith(EMBEDDED):
        return _embedded_folder(path)
    folder = Path(path)
    with suppress(RuntimeError):  # a user that is not there
        folder = folder.expanduser()
    if folder.is_dir():
        return folder
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.startswith("."):
        return _hub_folder(path, revision, fetch=fetch, weights=weights, may_lack=may_lack)
    raise CheckpointError(
        f"model.path={path}: no such folder; download a checkpoint first "
        "(hf download REPOSITORY --local-dir FOLDER) and give its folder"
    )


def _embedded_folder(path: str) -> Path:
    """Folder of a model that comes with the package. Raises ConfigError for any other name."""
    names = sorted(config.parent.name for config in ASSETS.glob("*/config.json"))
    name = path.removeprefix(EMBEDDED)
    if name not in names:
        raise ConfigError(
            f"model.path={path}: no such model in the package; there are: {', '.join(names)}"
        )
    return ASSETS / name


def _hub_folder(
    path: str, revision: str | None, *, fetch: bool, weights: bool, may_lack: bool
) -> Path | None:
    """Folder of a hub repository in the cache; its missing files are downloaded with `fetch`."""
    command = f"hf download {path}" + (f" --revision {revision}" if revision else "")
    try:
        return snapshot(
            path,
            revision,
            "model",
            [*TEXTS, *WEIGHTS] if weights else TEXTS,
            lambda folder: missing_files(folder, weights),
            fetch=fetch and not may_lack,
            command=command,
        )
    except HubError as error:
        if may_lack and not isinstance(error, HubNameError):
            return None
        raise CheckpointError(f"model.path={path}: no such folder, and {error}") from error


def missing_files(folder: Path, weights: bool) -> str:
    """What a checkpoint's folder lacks, in words; empty where it is whole."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            return name
    if not weights:
        return ""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            elsewhere = [name for name in shards if not name or Path(name).name != name]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return f"a readable {index.name}"
        if elsewhere:
            return f"{index.name} that names only files in it"
        there = {path.name for path in folder.iterdir() if path.is_file()}
        return next((name for name in shards if name not in there), "")
    return "" if weight_files(folder) else "*.safetensors"


def _check_files(path: str, folder: Path, weights: bool) -> None:
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"model.path={path}: the folder has an adapter (adapter_config.json), which is not "
            "read: merge it into the weights, and save these alone"
        )
    missing = missing_files(folder, weights)
    if missing:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        remark = " (pickled weights are not read)" if pickled or "*" in missing else ""
        raise CheckpointError(f"model.path={path}: the folder has no {missing}{remark}")


def _tokenizer(folder: Path, family: Family, config: dict[str, Any]) -> PromptTokenizer:
    """The folder's tokenizer. Raises CheckpointError if its image tokens are not config.json's."""
    tokenizer = PromptTokenizer.from_folder(folder, family.form)
    said = family.image_ids(config)
    if family.id_keys and tokenizer.image_ids != said:
        raise CheckpointError(
            f"{folder}: config.json and tokenizer.json are not of one model: image tokens are "
            f"{said} in the one, {tokenizer.image_ids} in the other"
        )
    return tokenizer


def stand_in_tokenizer(family: Family, config: dict[str, Any]) -> PromptTokenizer:
    """molmo_tiny's tokenizer with the image ids of another model.

    For random weights without a download: prompts then have about as many tokens as with the
    published tokenizer. Special tokens of the family's prompt become the end of text.
    """
    own = PromptTokenizer.from_folder(ASSETS / "molmo_tiny")
    return PromptTokenizer(
        own.tokenizer,
        own.bos_id,
        own.eos_id,
        family.image_ids(config),
        family.form,
        (own.eos_id,) * len(family.form.special_tokens),
    )


def read_model_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint, with what its family reads of its processor's files.

    Raises CheckpointError for a model that cannot run.
    """
    config = _read_json(path)
    found = config.get("model_type")
    family = FAMILIES.get(found) if isinstance(found, str) else None
    if family is None:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{path}: model_type is {found!r}; only these can run: {known}")
    config |= _of_processor(path.parent, family)
    if problem := _quantized(config) or wrong_number(config) or family.problem(config):
        raise CheckpointError(f"{path}: not a {family.name} that can run: {problem}")
    return config


def _of_processor(folder: Path, family: Family) -> dict[str, Any]:
    """What a family reads of its processor's files, by the keys that it has in a config.

    As in transformers, the image processor's part of processor_config.json goes before
    preprocessor_config.json.
    """
    processor, images = folder / "processor_config.json", folder / "preprocessor_config.json"
    said = _read_json(processor) if processor.is_file() else {}
    found = {key: said[key] for key in family.processor_keys if key in said}
    if IMAGES in said:
        return found | {IMAGES: said[IMAGES]}
    return found | ({IMAGES: _read_json(images)} if images.is_file() else {})


def _quantized(config: dict[str, Any]) -> str:
    """Quantized weights would need another library, and have other times and answers."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    if any(part.get("quantization_config") for part in parts):
        return "its weights are quantized (quantization_config); take those it was made from"
    return ""


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint, without orders. Raises CheckpointError where it is none."""
    if not path.is_file():
        raise CheckpointError(f"model.path={path.parent}: the folder has no {path.name}")
    try:
        config = _without_orders(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: cannot be read (not a JSON object)")
    return config


#: What transformers would act on: code of attention or experts, from the hub even, and other files
#: than the usual ones. What a checkpoint says of these is not followed.
_ORDERS = re.compile(
    r"_?(attn|experts)_implementation(_internal)?|auto_map|transformers_weights|distributed_config"
)


def _without_orders(value: Any) -> Any:
    """A config, or a part of one, without the keys of _ORDERS at any depth."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if not _ORDERS.fullmatch(key)}
        return {key: _without_orders(part) for key, part in kept.items()}
    return [_without_orders(part) for part in value] if isinstance(value, list) else value
