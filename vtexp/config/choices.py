"""The values that keys of the config choose among."""

from __future__ import annotations

from enum import Enum


class Fit(Enum):
    """How an image is brought to the canvas of an image size."""

    stretch = "stretch"
    letterbox = "letterbox"
    crop = "crop"


class Device(Enum):
    """Where the model runs."""

    cpu = "cpu"
    cuda = "cuda"


class Dtype(Enum):
    """Floating-point type of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float8 = "float8"

    @property
    def is_float8(self) -> bool:
        """Whether products of the blocks' linear layers are float8; all else is bfloat16 then."""
        return self is Dtype.float8

    @property
    def of_weights(self) -> str:
        """The type that weights are loaded as, and that activations have."""
        return "bfloat16" if self.is_float8 else self.value


class Preprocess(Enum):
    """Where decoded images are resized, normalised and cut: by the host, or where the model is."""

    host = "host"
    device = "device"


class Launcher(Enum):
    """Where `-m` runs jobs: in this process, as processes of this machine, or through SLURM."""

    here = "here"
    local = "local"
    slurm = "slurm"


class Weights(Enum):
    """Where a model's weights come from; random ones have a latency but no accuracy."""

    pretrained = "pretrained"
    random = "random"


class ReductionMethod(Enum):
    """How vision tokens become fewer behind the connector; resize: by a smaller image; early_layer:
    within the language model."""

    none = "none"
    random = "random"
    stride = "stride"
    pool = "pool"
    resize = "resize"
    max_min = "max_min"
    cls_attention = "cls_attention"
    conditional = "conditional"
    early_layer = "early_layer"
    python = "python"


class StructureTokens(Enum):
    """What becomes of the tokens around an image: start, end, and after each row."""

    keep = "keep"
    drop = "drop"


class Positions(Enum):
    """Positions of what stays in a reduced prompt: those of the whole one, or one after another."""

    keep = "keep"
    renumber = "renumber"


class Form(Enum):
    """The file format of a data set's rows."""

    easy_vqa = "easy_vqa"
    small_print = "small_print"
    parquet = "parquet"
    json = "json"
    imagefolder = "imagefolder"
    saved = "saved"
    python = "python"


class WandbMode(Enum):
    """auto: online where there is a key and a network, else offline."""

    auto = "auto"
    online = "online"
    offline = "offline"
