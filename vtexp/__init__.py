"""vtexp: how many vision tokens does a task need, and what do they cost?

The functions below are the public API: docs/api.md. Each is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from vtexp.utils.by_name import imported

if TYPE_CHECKING:
    from vtexp.api.counts import TokenCounts, count_tokens
    from vtexp.api.model import Model, PrefillTimes, Preprocessed, load_model
    from vtexp.api.score import score
    from vtexp.api.sweep import Sweep, launch, load_sweep
    from vtexp.errors import VtexpError

__version__ = "0.1.0"

_PUBLIC = {
    "Model": "vtexp.api.model:Model",
    "PrefillTimes": "vtexp.api.model:PrefillTimes",
    "Preprocessed": "vtexp.api.model:Preprocessed",
    "Sweep": "vtexp.api.sweep:Sweep",
    "TokenCounts": "vtexp.api.counts:TokenCounts",
    "VtexpError": "vtexp.errors:VtexpError",
    "count_tokens": "vtexp.api.counts:count_tokens",
    "launch": "vtexp.api.sweep:launch",
    "load_model": "vtexp.api.model:load_model",
    "load_sweep": "vtexp.api.sweep:load_sweep",
    "score": "vtexp.api.score:score",
}

__all__ = [
    "Model",
    "PrefillTimes",
    "Preprocessed",
    "Sweep",
    "TokenCounts",
    "VtexpError",
    "__version__",
    "count_tokens",
    "launch",
    "load_model",
    "load_sweep",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vtexp' has no attribute {name!r}")
    return imported(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
