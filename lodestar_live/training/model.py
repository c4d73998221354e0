"""A trained model: plain numpy weights, a card that says what it is, and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lodestar_live.detection.model.weights import NetworkWeights
from lodestar_live.detection.model.writer import write_model
from lodestar_live.detection.run.template import shown_around
from lodestar_live.model_card import CardDraft
from lodestar_live.training.particle.measure import Particle

LOOK_RADII = 1.3  # so far around a particle, in radii, the shape filter looks


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What `train` returns.

    Parameters
    ----------
    weights
        The network, layer by layer, as numpy arrays.
    card
        Where the model comes from and how well it learnt; travels inside the
        exported file.
    particles
        The training particles as measured, one per crop.
    history
        ``loss`` and ``consistency_px`` per training step.
    """

    weights: NetworkWeights
    card: CardDraft
    particles: tuple[Particle, ...]
    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def particle(self) -> Particle:
        """The first training particle."""
        return self.particles[0]

    @property
    def looks(self) -> list[list[list[float]]]:
        """What each crop's particle looks like around the point detections name."""
        like = self.card.like
        is_compared = like is not None and like.match is not None
        if not is_compared and self.card.orientation is None:
            return []
        return [
            shown_around(p.signal, crop.centre_px, LOOK_RADII * p.radius_px)
            for p, crop in zip(self.particles, self.card.crops, strict=True)
        ]

    def export(self, path: str | Path) -> Path:
        """Write one self-contained ``.onnx`` file and return its path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.to_bytes())
        return target

    def to_bytes(self) -> bytes:
        """Return the exported model; `Detector` takes it as it is."""
        return write_model(self.weights, self.card, self.looks)
