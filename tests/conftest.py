"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from tests.helpers.slurm_cluster import Cluster, what_is_missing
from tests.helpers.wandb_server import KEY, WandbServer
from vtexp.config.compose import compose_config
from vtexp.config.schema import Config
from vtexp.data.sample import ImageFile, Sample

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes that take all cores are slower
    os.environ["OMP_NUM_THREADS"] = "1"
# Some images of containers set it; each process that a test starts would then compile vtexp again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Else Python looks for garbage in all that torch and transformers bring, a tenth of the time.
gc.set_threshold(50_000, 20, 20)

# How long an example takes tells of the machine and of what else runs on it. What a test's own
# `@settings` leave out comes from here.
settings.register_profile("vtexp", deadline=None)
settings.load_profile("vtexp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark SLURM tests slow; put what a fault test shows into its result (benchmarks/faults.py)."""
    for item in items:
        if item.get_closest_marker("slurm"):
            item.add_marker("slow")
        for mark in item.iter_markers("fault"):
            names = ("part", "fault", "outcome")
            item.user_properties += zip(names, mark.args, strict=True)


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the whole session, also of several workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def drawn_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cache folder of the session: small_print is drawn once."""
    folder = shared(tmp_path_factory) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VTEXP_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may reach an account or write into the home directory."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "unset by the test")


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A stand-in for W&B's API, and a key for it, as a user with an account has them."""
    server = WandbServer()
    monkeypatch.setattr("vtexp.tracking.mirror._offline_because", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the reference data: VTEXP_GOLDEN_DIR, or the project's own copy."""
    return Path(os.environ.get("VTEXP_GOLDEN_DIR", Path(__file__).parent / "golden"))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub cache, and no hub: the address answers no one."""
    folder = tmp_path / "hub"
    for module in ("huggingface_hub.constants", "huggingface_hub._snapshot_download.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def draw_noise(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[list[tuple[int, int]]], list[Sample]]:
    """Samples with images of noise in given sizes (height, width), and prompts of two lengths."""

    def draw(shapes: list[tuple[int, int]]) -> list[Sample]:
        folder = tmp_path_factory.mktemp("images")
        rng = np.random.default_rng(0)
        found = []
        for i, (height, width) in enumerate(shapes):
            path = folder / f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
            question = "is there a red shape?" * (1 + i % 2)
            found.append(Sample(str(i), str(i), ImageFile(path), question, ("yes",), "yes/no"))
        return found

    return draw


@pytest.fixture
def make_config(tmp_path: Path, small_checkpoint: Path) -> Callable[..., Config]:
    """Config from overrides as on the command line; small, without tracking, in tmp_path."""
    small = [
        f"model.path={small_checkpoint}",
        "dataset=easy_vqa",
        "dataset.limit=6",
        "measure.latency_samples=2",
        "measure.latency_repeats=2",
        "measure.warmup_repeats=1",
        "measure.min_seconds=0",
        "measure.max_seconds=0",
        "tracking=none",
        f"sweep.folder={tmp_path}",
        "sweep.name=sweep",
    ]

    def make(*overrides: str) -> Config:
        return compose_config([*small, *overrides])

    return make


@pytest.fixture
def made_runs(
    make_config: Callable[..., Config], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A sweep of two finished runs, made without tracking, once for all tests and workers."""
    kept = shared(tmp_path_factory) / "made_runs"
    with FileLock(kept.with_suffix(".lock")):
        if not kept.is_dir():
            from vtexp.jobs.here import run_job

            run_job(make_config("knob.sizes=[336x336,560x336]"))
            shutil.copytree(tmp_path / "sweep", kept)
            return tmp_path / "sweep"
    return shutil.copytree(kept, tmp_path / "sweep")


@pytest.fixture
def figures() -> None:
    """Reports that this process makes have their figures."""


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports that this process makes have comparison.png, and no figure of each plot."""
    monkeypatch.setattr("vtexp.report.figures.drawings", lambda _: [])


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have none unless a test asks for `figures` or `picture`: they take most time."""
    if not {"figures", "picture"} & set(request.fixturenames):
        monkeypatch.setattr("vtexp.report.write.write_figures", lambda *_: None)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Molmo v1 checkpoint of random weights, far smaller than molmo_tiny, in the real format.

    The same folder for all workers: its path is part of a run's id, and `made_runs` are shared.
    """
    folder = shared(tmp_path_factory) / "checkpoint"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _write_small_checkpoint(folder)
    return folder


def _write_small_checkpoint(folder: Path) -> None:
    import torch

    from tools.train_molmo_tiny.tiny import tiny_config, train_tokenizer
    from vtexp.models.molmo.modeling import MolmoForCausalLM
    from vtexp.prompts.tokenizer import PromptTokenizer

    folder.mkdir()
    train_tokenizer([" User: easy_vqa: is there a red circle? Assistant: yes"], folder)
    tokenizer = PromptTokenizer.from_folder(folder)
    config = tiny_config(min(tokenizer.image_ids), tokenizer.eos_id)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 64, 2
    config.num_attention_heads = config.num_key_value_heads = 4
    config.vision_backbone |= {
        "image_emb_dim": 32,
        "image_num_heads": 2,
        "image_head_dim": 16,
        "image_mlp_dim": 32,
    }
    torch.manual_seed(0)
    MolmoForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def slurm_clusters() -> Iterator[Callable[..., Cluster]]:
    """Running clusters by the options of `Cluster`; each is started once, when first asked for."""
    with ExitStack() as stack:
        # What `timeout` or a CI system sends: like Ctrl-C it has to come by `stop`.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, before)

        @functools.cache
        def start(**options: Any) -> Cluster:
            cluster = Cluster(**options)
            stack.callback(cluster.stop)
            cluster.start()
            return cluster

        yield start


@pytest.fixture
def use_slurm(
    slurm_clusters: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Cluster]]:
    """Cluster with the given options as this test's SLURM; empty and whole again afterwards.

    Skips the test where none can start, unless VTEXP_REQUIRE_SLURM=1 makes that a failure.
    """
    with ExitStack() as stack:

        def use(**options: Any) -> Cluster:
            if reason := what_is_missing(accounting=bool(options.get("accounting"))):
                required = os.environ.get("VTEXP_REQUIRE_SLURM") == "1"
                (pytest.fail if required else pytest.skip)(reason)
            cluster = slurm_clusters(**options)
            stack.callback(cluster.reset)
            for name, value in cluster.environment.items():
                monkeypatch.setenv(name, value)
            return cluster

        yield use


@pytest.fixture
def slurm(use_slurm: Callable[..., Cluster]) -> Cluster:
    """A SLURM of 2 nodes x 2 GPUs without accounting: sacct fails, as on many small clusters."""
    return use_slurm()


@pytest.fixture
def slurm_with_accounting(use_slurm: Callable[..., Cluster]) -> Cluster:
    """The same with slurmdbd, so that sacct works."""
    return use_slurm(accounting=True)
