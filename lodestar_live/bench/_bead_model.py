"""The model that the benches on the live loop track the DemoCamera's beads with."""

from __future__ import annotations

from pathlib import Path

from lodestar_live.data import Pixels
from lodestar_live.live.first_model import train_and_wait
from lodestar_live.settings import TrainingSettings

_QUICK_STEPS = 400  # fewer fail on beads of 2 px, and are begun again


def train_on_beads(
    snapshot: Pixels, folder: Path, *, seed: int = 0, quick: bool = False
) -> Path:
    """Train on a frame of beads, in a process of its own; return the model's path."""
    training = TrainingSettings(seed=seed, steps=_QUICK_STEPS if quick else None)
    return train_and_wait(snapshot, training, folder, show=False)
