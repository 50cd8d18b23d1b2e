"""Importing the public Molmo code, a checkout of github.com/allenai/molmo, without its clouds."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from unittest.mock import MagicMock

#: What the reference imports for cloud storage, which none of the benchmarks needs.
CLOUD = ("boto3", "botocore", "botocore.exceptions", "botocore.config", "cached_path")
CLOUD += ("cached_path.schemes", "google.cloud", "google.api_core", "google.api_core.exceptions")
#: Parts of torchvision that need its compiled operators; its resize does not.
COMPILED = ("_meta_registrations", "_autograd_registrations", "datasets", "io", "models", "ops")


def make_importable(folder: Path) -> None:
    """Let `import olmo` find a checkout, with stand-ins for what is imported but not used."""
    importlib.import_module("transformers.activations")  # looks for a real boto3 when imported
    sys.path.insert(0, str(folder))
    for name in CLOUD:
        sys.modules.setdefault(name, MagicMock())


def make_torchvision_importable() -> None:
    """Let `import torchvision` work beside a torch it was not compiled for, such as a CPU build.

    Raises ModuleNotFoundError where it is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # its compiled operators are missing
        for name in COMPILED:
            sys.modules[f"torchvision.{name}"] = MagicMock()
        importlib.import_module("torchvision")
