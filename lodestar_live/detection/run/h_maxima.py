"""The paper's criterion: maxima that stand out from their surroundings by h."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.detection.run.postprocess import Found, cells


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
