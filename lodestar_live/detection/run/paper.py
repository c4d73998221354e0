"""The paper's own ways: h-maxima, and one position pooled from all votes."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.detection.run.postprocess import Found, cells
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


def keep_h_maxima(found: Found, score: FloatArray, h: float) -> Found:
    """Keep one candidate per h-maximum of the score w^alpha c^beta: its best.

    Parameters
    ----------
    found
        Rows of the graph, one per candidate cell, all local maxima among them.
    score
        The score map (rows, columns), not its logarithm.
    h
        Least height of a maximum above the pass to a higher one. Both reference
        implementations take a quantile of the score for it.

    References
    ----------
    Midtvedt et al. 2022, Methods; Soille 2003, section 6.3.2 (h-maxima).
    """
    from skimage.measure import label
    from skimage.morphology import h_maxima

    row, column = cells(found)
    peak = label(h_maxima(score, h), connectivity=2)[row, column]
    order = np.lexsort((-score[row, column], peak))
    order = order[peak[order] > 0]
    _, first = np.unique(peak[order], return_index=True)
    kept: Found = found[np.sort(order[first])]
    return kept
