"""The paper's estimate for an image of one particle: all votes, weighted."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.model_card import ModelCard


def pooled(features: FloatArray, card: ModelCard) -> FloatArray:
    """Return sum of weight * vote / sum of weight, (y, x) px.

    Parameters
    ----------
    features
        The network's outputs (channels, rows, columns), as the card names them.

    Notes
    -----
    A single stray cell must not pull: votes farther than the particle's radius (two
    cells at least) from their weighted median do not count.
    """
    channels = dict(zip(card.channels, features, strict=True))
    log_weight = -np.logaddexp(0, -channels["rho"])
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    stride = card.stride
    cells = stride * np.indices(weight.shape) + (stride - 1) / 2
    votes = cells + np.stack([channels["dy"], channels["dx"]])
    median = np.array([_weighted_median(axis, weight) for axis in votes])
    reach = max(2.0 * stride, card.radius_px or 0.0)
    near = weight * (np.hypot(*(votes - median[:, None, None])) <= reach)
    weight = near if near.sum() > 0 else weight
    position: FloatArray = (votes * weight).sum(axis=(1, 2)) / weight.sum()
    return position


def _weighted_median(values: FloatArray, weight: FloatArray) -> float:
    """Return the value below which half of the weight lies."""
    order = np.argsort(values, axis=None)
    below = np.cumsum(weight.ravel()[order])
    middle = min(int(np.searchsorted(below, 0.5 * below[-1])), len(order) - 1)
    return float(values.ravel()[order[middle]])
