"""How good a linking is, against the truth of a simulated movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.linking.assignment import Pairs, assign
from tests.simulation.motion import MERGED

IntArray = npt.NDArray[np.int64]
LONGEST_GAP = 3  # missed frames within one link


@dataclass(frozen=True, slots=True)
class LinkScore:
    """Agreement of two linkings of the same detections.

    A link joins two successive appearances of one identity, at most `LONGEST_GAP`
    missed frames apart. `switches` counts true links whose ends have different track
    ids, per 1000. `jaccard_positions` and `jaccard_tracks` are JSC and JSC_theta of
    Chenouard et al. 2014, where only tracks that share a detection may be paired, and
    an identity seen once is no track.
    """

    f1: float
    precision: float
    recall: float
    gap_recall: float
    switches: float
    jaccard_positions: float
    jaccard_tracks: float


def score_links(truth: Sequence[IntArray], found: Sequence[IntArray]) -> LinkScore:
    """Compare identities given per frame and detection.

    In `truth`, -1 is clutter. A detection shared by two particles (`MERGED`) is no
    one's in particular and left out of both sides: what counts is that the identities
    after a merge are those before it.
    """
    frame = np.repeat(np.arange(len(truth)), [len(ids) for ids in truth])
    true_id, found_id = np.concatenate(truth), np.concatenate(found)
    known = true_id != MERGED
    frame, true_id, found_id = frame[known], true_id[known], found_id[known]
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
    """Return JSC and JSC_theta; an identity seen once is no track, on both sides."""
    n_true, true_row = _tracks(true_id)
    n_found, found_row = _tracks(found_id)
    both = (true_row >= 0) & (found_row >= 0)
    key, shared = np.unique(
        true_row[both] * n_found + found_row[both], return_counts=True
    )
    pairs = Pairs(key // n_found, key % n_found, shared.astype(float))
    partner = assign(pairs, n_true, n_found).detection
    chosen = partner[pairs.track] == pairs.detection
    n_shared, n_paired = int(shared[chosen].sum()), int(chosen.sum())
    n_points = np.count_nonzero(true_row >= 0) + np.count_nonzero(found_row >= 0)
    positions = n_shared / max(int(n_points) - n_shared, 1)
    return positions, n_paired / max(n_true + n_found - n_paired, 1)


def _tracks(identity: IntArray) -> tuple[int, IntArray]:
    """Return how many identities are tracks, and their numbers (-1: seen once)."""
    ids, row, counts = np.unique(identity, return_inverse=True, return_counts=True)
    is_track = (counts > 1) & (ids >= 0)
    number = np.where(is_track, np.cumsum(is_track) - 1, -1)
    return int(is_track.sum()), number[row]
