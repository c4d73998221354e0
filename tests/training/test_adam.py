"""Our Adam against torch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lodestar_live.training.adam import Adam


@pytest.mark.parametrize(
    ("betas", "weight_decay"), [((0.9, 0.999), 0.0), ((0.9, 0.99), 0.01)]
)
def test_steps_are_those_of_adamw(
    betas: tuple[float, float], weight_decay: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    adam = Adam([ours], betas=betas, weight_decay=weight_decay)
    reference = torch.optim.AdamW([theirs], betas=betas, weight_decay=weight_decay)
    for step in range(30):
        gradient = torch.randn(50, generator=generator, dtype=torch.float64)
        rate = 0.01 * (step + 1)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        adam.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


_TRAIN_BRIEFLY = """
import sys
from lodestar_live.errors import ModelError
from lodestar_live.training import train
from tests.simulation import shapes
try:
    train(shapes.sample("sphere", 1, snr=10, seed=1).images[0], steps=10)
except ModelError:
    pass  # ten steps learn nothing
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules
"""


def test_training_does_not_import_torchs_compiler() -> None:
    """It costs 1.5 s and 100 MB: the reason for an Adam of our own."""
    subprocess.run([sys.executable, "-c", _TRAIN_BRIEFLY], check=True, timeout=120)
