"""Sizes of published models in conf/ and the README, and constants of the code in docs/."""

from __future__ import annotations

import pytest

from tests.helpers.documented import ROOT, arithmetic, n, page
from tests.helpers.facts import says
from vtexp.jobs import slurm


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("molmo_7b_d", "Molmo-7B-D-0924"), ("molmo_7b_o", "Molmo-7B-O-0924"),
        ("molmo_72b", "Molmo-72B-0924"), ("molmo2_4b", "Molmo2-4B"), ("molmo2_8b", "Molmo2-8B"),
        ("molmo2_o_7b", "Molmo2-O-7B"), ("molmoe_1b", "MolmoE-1B-0924"),
    ],
)  # fmt: skip
def test_sizes_of_published_models(config: str, model: str) -> None:
    sizes = arithmetic(f"architectures/allenai/{model}.json")
    comment = (ROOT / "conf" / "model" / f"{config}.yaml").read_text()
    assert f"{n(sizes.parameters / 1e9)} B parameters" in comment
    if config == "molmoe_1b":
        unread = sum(block.weights() - block.weights(1) for block in sizes.llm.blocks)
        assert f"{n((sizes.parameters - unread) / 1e9)} B used per token" in comment
        return
    assert f"{n(sizes.weights_bytes('bfloat16') / 1e9, 0)} GB as bfloat16" in comment
    if config == "molmo_7b_d":
        published = n(sizes.weights_bytes("float32") / 1e9, 0)
        assert f"    # {published} GB\n" in (ROOT / "README.md").read_text()


def test_how_long_status_waits_for_slurm() -> None:
    """It asks once, and then whether a controller is there."""
    assert says(page("docs/cluster.md"), "status", f"at most {2 * slurm.PROMPT_S:.0f} s")
