"""How often noise alone reaches a score, extrapolated from blank frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lodestar_live.data import FloatArray


@dataclass(frozen=True, slots=True)
class NoiseTail:
    """How often noise exceeds a high score: a generalised Pareto tail.

    ``rate(s) = start_rate (1 - shape (s - start) / scale)^(1 / shape)`` per million
    pixels; shape 0 is the exponential tail, larger ones end at ``start + scale /
    shape`` (log scores are bounded above). Fitted by moments to the excesses.
    """

    start: float
    scale: float
    shape: float
    start_rate: float

    @classmethod
    def fit(cls, scores: FloatArray, mpx: float, n_tail: int = 60) -> NoiseTail:
        """Fit to the scores of all maxima, highest first, of `mpx` million pixels."""
        n_tail = min(n_tail, len(scores) // 4)
        excess = scores[:n_tail] - scores[n_tail]
        mean = max(float(excess.mean()), 1e-3)
        ratio = mean**2 / max(float(excess.var()), 1e-9)
        shape = float(np.clip((ratio - 1) / 2, 1e-3, 0.5))
        return cls(float(scores[n_tail]), mean * (1 + shape), shape, n_tail / mpx)

    def score_at(self, rate_per_mpx: float) -> float:
        """Return the score that noise exceeds at a rate."""
        fraction = float((rate_per_mpx / self.start_rate) ** self.shape)
        return self.start + self.scale / self.shape * (1 - fraction)

    def rate_per_mpx(self, score: float) -> float:
        """Return the rate at which noise exceeds a score (at or above the start)."""
        left = 1 - self.shape * max(score - self.start, 0.0) / self.scale
        return self.start_rate * float(max(left, 0.0) ** (1 / self.shape))
