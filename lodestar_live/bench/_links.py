"""How good a linking is, against the truth of a simulated movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.linking.assignment import Pairs, assign

IntArray = npt.NDArray[np.int64]
LONGEST_GAP = 3  # missed frames within one link


@dataclass(frozen=True, slots=True)
class LinkScore:
    """Agreement of two linkings of the same detections.

    A link joins two successive appearances of one identity, at most `LONGEST_GAP`
    missed frames apart. `switches` counts true links whose ends have different track
    ids, per 1000. `jaccard_positions` and `jaccard_tracks` are JSC and JSC_theta of
    Chenouard et al. 2014, where only tracks that share a detection may be paired.
    """

    f1: float
    precision: float
    recall: float
    gap_recall: float
    switches: float
    jaccard_positions: float
    jaccard_tracks: float


def score_links(truth: Sequence[IntArray], found: Sequence[IntArray]) -> LinkScore:
    """Compare identities given per frame and detection; -1 in `truth` is clutter."""
    frame = np.repeat(np.arange(len(truth)), [len(ids) for ids in truth])
    true_id, found_id = np.concatenate(truth), np.concatenate(found)
    true_links = _links(true_id, frame)
    found_links = _links(found_id, frame)
    hit = np.isin(_key(true_links, len(frame)), _key(found_links, len(frame)))
    is_gap = frame[true_links[:, 1]] - frame[true_links[:, 0]] > 1
    switched = found_id[true_links[:, 0]] != found_id[true_links[:, 1]]
    positions, tracks = _jaccard(true_id, found_id)
    n_hit, n_true, n_found = int(hit.sum()), len(true_links), len(found_links)
    return LinkScore(
        f1=2 * n_hit / max(n_true + n_found, 1),
        precision=n_hit / max(n_found, 1),
        recall=n_hit / max(n_true, 1),
        gap_recall=float(hit[is_gap].mean()) if is_gap.any() else float("nan"),
        switches=1000 * float(switched.mean()) if n_true else 0.0,
        jaccard_positions=positions,
        jaccard_tracks=tracks,
    )


def _links(identity: IntArray, frame: IntArray) -> IntArray:
    """Return rows (earlier, later) of linked detections, shape (n, 2)."""
    real = np.flatnonzero(identity >= 0)
    order = real[np.lexsort((frame[real], identity[real]))]
    before, after = order[:-1], order[1:]
    same = (identity[before] == identity[after]) & (
        frame[after] - frame[before] <= LONGEST_GAP + 1
    )
    return np.column_stack([before[same], after[same]])


def _key(links: IntArray, n: int) -> IntArray:
    return links[:, 0] * n + links[:, 1]


def _jaccard(true_id: IntArray, found_id: IntArray) -> tuple[float, float]:
    real = true_id >= 0
    true_ids, true_row = np.unique(true_id[real], return_inverse=True)
    found_ids, found_row = np.unique(found_id, return_inverse=True)
    key, shared = np.unique(
        true_row * len(found_ids) + found_row[real], return_counts=True
    )
    pairs = Pairs(key // len(found_ids), key % len(found_ids), shared.astype(float))
    partner = assign(pairs, len(true_ids), len(found_ids)).detection
    chosen = partner[pairs.track] == pairs.detection
    n_shared, n_paired = int(shared[chosen].sum()), int(chosen.sum())
    n_points = int(real.sum()) + len(found_id) - n_shared
    return n_shared / n_points, n_paired / (len(true_ids) + len(found_ids) - n_paired)
