"""What a model sees in the snapshot, scored once; a threshold then only filters it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodestar_live.data import Detections, Pixels
from lodestar_live.detection import Detector

_BELOW = 4.0  # how far below the model's own threshold candidates are kept


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Maxima of the score in the snapshot, and the model's own threshold.

    Parameters
    ----------
    model
        Path of the .onnx file.
    snapshot
        Shape (y, x).
    all
        Everything that a threshold could let pass: what the slider filters while it
        is moved. Exact is `found`: a run's floor of contrast is a share of that of the
        detections, so it moves a little with the threshold.
    own_threshold
        The model's, from its snapshot.
    """

    model: Path
    snapshot: Pixels
    all: Detections
    own_threshold: float

    @classmethod
    def of(cls, model: Path, snapshot: Pixels) -> Candidates:
        """Score the snapshot's maxima."""
        own = Detector(model).card.threshold or 0.0
        everything = Detector(model, threshold=own - _BELOW)(snapshot)
        return cls(model, snapshot, everything, own)

    def found(self, threshold: float | None) -> Detections:
        """Return what a run finds in the snapshot; None: the model's own threshold."""
        return Detector(self.model, threshold=threshold)(self.snapshot)

    def facts(self) -> dict[str, Any]:
        """Return what the page's slider needs."""
        best = float(self.all.rows["score"].max()) if len(self.all) else 0.0
        return {
            "own_threshold": self.own_threshold,
            "lowest": self.own_threshold - _BELOW,
            "highest": max(best, self.own_threshold + 0.5),
        }
