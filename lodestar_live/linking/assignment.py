"""Exact optimal assignment on a sparse graph of candidate pairs.

Maximise the summed gain of the chosen pairs; a track or detection may stay alone
(gain 0). That is `scipy.optimize.linear_sum_assignment` with an unmatched cost, solved
where it is cheap: pairs that dominate their neighbourhood are settled for the whole
frame at once, and only what is entangled reaches a matching algorithm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import (
    connected_components,
    min_weight_full_bipartite_matching,
)

from lodestar_live.data import FloatArray
from lodestar_live.linking.gate import BoolArray, IntArray

WORTHWHILE = 0.97  # a round that leaves more of the pairs than this is the last
TINY = 8  # pairs; 2**TINY subsets are tried
BATCH_ROWS = 400
DENSE = 2**17  # entries: up to some 360 tracks no sparse method is faster
# Median seconds of scipy's sparse matching on percolating random graphs is below
# this times rows * edges, so the estimate errs on the safe side.
SECONDS_PER_ROW_EDGE = 2.5e-9


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Candidate pairs, sorted by (track, detection), without repetition.

    `track`, `detection`: int64, shape (n,). `gain`: float, shape (n,), > 0. `number`:
    what the maker of the pairs calls each, where that is of use.
    """

    track: IntArray
    detection: IntArray
    gain: FloatArray
    number: IntArray | None = None

    def __len__(self) -> int:
        return len(self.gain)

    @classmethod
    def none(cls) -> Pairs:
        """Return no pairs."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def take(self, selected: IntArray | BoolArray) -> Pairs:
        """Return the selected pairs; the selection must keep their order."""
        number = self.number
        return Pairs(
            self.track[selected],
            self.detection[selected],
            self.gain[selected],
            None if number is None else number[selected],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Chosen partner of every track, -1 for none.

    `detection`: int64, shape (n_tracks,). `n_fallbacks`: components too big for the
    time left, which were matched greedily instead.
    """

    detection: IntArray
    n_fallbacks: int = 0


def assign(
    pairs: Pairs, n_tracks: int, n_detections: int, *, budget_s: float = np.inf
) -> Assignment:
    """Choose the pairs of largest summed gain.

    Parameters
    ----------
    pairs
        Candidate pairs; anything not listed cannot be chosen.
    n_tracks, n_detections
        Sizes of both sides.
    budget_s
        A component expected to take longer than what is left of this time is matched
        greedily (best pair first) instead of exactly.

    Returns
    -------
    Assignment of largest total gain, unless `n_fallbacks` > 0.
    """
    chosen = np.full(n_tracks, -1, np.int64)
    rest = _settle_isolated(pairs, chosen, n_detections)
    if _match_densely(rest, chosen, n_detections):
        return Assignment(chosen)
    rest = _settle(rest, chosen, n_detections)
    if _match_densely(rest, chosen, n_detections):
        return Assignment(chosen)
    n_fallbacks = 0
    for batch in _batches(*_solve_tiny(rest, _components(rest), chosen)):
        budget_s -= _expected_seconds(batch)
        if budget_s >= 0:
            _match_exactly(batch, chosen)
        else:
            _settle(_without_ties(batch), chosen, n_detections, greedy=True)
            n_fallbacks += 1
    return Assignment(chosen, n_fallbacks)


def _settle_isolated(pairs: Pairs, chosen: IntArray, n_detections: int) -> Pairs:
    """Choose the pairs that share neither end with another; return the others."""
    of_track = np.bincount(pairs.track, minlength=1)
    of_detection = np.bincount(pairs.detection, minlength=n_detections)
    rivals = of_track[pairs.track] * of_detection[pairs.detection]
    alone = rivals == 1
    if alone.all():
        chosen[pairs.track] = pairs.detection
        return Pairs.none()
    chosen[pairs.track[alone]] = pairs.detection[alone]
    return pairs.take((~alone).nonzero()[0])


def _match_densely(pairs: Pairs, chosen: IntArray, n_detections: int) -> bool:
    """Match few tracks and detections at once; say whether they were few."""
    if not len(pairs):
        return True
    track, of_track = _compact(pairs.track, len(chosen))
    detection, of_detection = _compact(pairs.detection, n_detections)
    if len(track) * len(detection) > DENSE:
        return False
    gain = np.zeros((len(track), len(detection)))
    gain[of_track, of_detection] = pairs.gain
    row, column = linear_sum_assignment(gain, maximize=True)
    real = (gain[row, column] > 0).nonzero()[0]
    chosen[track[row[real]]] = detection[column[real]]
    return True


def _compact(values: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """Return which of 0 ... n - 1 occur, and the place of each value among these."""
    occurs = np.zeros(n, np.bool_)
    occurs[values] = True
    present = occurs.nonzero()[0]
    place = np.empty(n, np.int64)
    place[present] = np.arange(len(present))
    return present, place[values]


def _settle(
    pairs: Pairs, chosen: IntArray, n_detections: int, *, greedy: bool = False
) -> Pairs:
    """Choose dominant pairs until none is left; return the undecided ones.

    A pair whose gain is at least the sum of the next best gains of its two ends belongs
    to an optimal assignment: any other choice for both ends gains no more. Isolated
    pairs and stars are the simplest cases. `greedy` drops the condition: mutual best
    pairs first, which is the greedy matching.
    """
    track_taken = np.zeros(len(chosen), np.bool_)
    detection_taken = np.zeros(n_detections, np.bool_)
    while len(pairs):
        dominant = _dominant(pairs, greedy=greedy)
        if not len(dominant):
            break
        n_before = len(pairs)
        track, detection = pairs.track[dominant], pairs.detection[dominant]
        chosen[track] = detection
        track_taken[track] = True
        detection_taken[detection] = True
        free = track_taken[pairs.track] | detection_taken[pairs.detection]
        pairs = pairs.take(np.flatnonzero(~free))
        if not greedy and len(pairs) > WORTHWHILE * n_before:
            break
    return pairs


def _without_ties(pairs: Pairs) -> Pairs:
    """Return the pairs with gains that differ; equal ones would go one at a time."""
    noise = np.random.default_rng(0).random(len(pairs))
    return Pairs(pairs.track, pairs.detection, pairs.gain * (1 + 1e-9 * noise))


def _dominant(pairs: Pairs, *, greedy: bool) -> IntArray:
    n = len(pairs)
    by_detection = np.argsort(pairs.detection, kind="stable")
    best, next_gain = _best_of_groups(pairs.track, pairs.gain)
    best_d, next_gain_d = _best_of_groups(
        pairs.detection[by_detection], pairs.gain[by_detection]
    )
    threshold = np.full(n, np.inf)
    threshold[best] = next_gain
    best_d = by_detection[best_d]
    is_enough = pairs.gain[best_d] >= threshold[best_d] + next_gain_d
    if greedy:
        is_enough = np.isfinite(threshold[best_d])
    return np.sort(best_d[is_enough])


def _best_of_groups(group: IntArray, gain: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return, per run of equal `group`, where the best gain is, and the second best."""
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    best_gain = np.maximum.reduceat(gain, starts)
    sizes = np.diff(starts, append=len(gain))
    is_best = np.flatnonzero(gain == np.repeat(best_gain, sizes))
    first = np.concatenate([[True], group[is_best[1:]] != group[is_best[:-1]]])
    best = is_best[first]
    others = gain.copy()
    others[best] = 0.0  # staying alone
    return best, np.maximum.reduceat(others, starts)


def _components(pairs: Pairs) -> IntArray:
    """Return the number, from 0, of the connected component of every pair."""
    if not len(pairs):
        return np.zeros(0, np.int64)
    track = _renumber(pairs.track)
    detection = _renumber(pairs.detection) + track[-1] + 1
    size = int(detection.max()) + 1
    graph = coo_array((np.ones(len(pairs), np.int8), (track, detection)), (size, size))
    label: IntArray = connected_components(graph, directed=False)[1]
    return label[track]


def _solve_tiny(
    pairs: Pairs, component: IntArray, chosen: IntArray
) -> tuple[Pairs, IntArray]:
    """Settle components of few pairs by trying every subset; return the others."""
    n_pairs = np.bincount(component)[component]
    order = np.argsort(component, kind="stable")
    for size in range(1, TINY + 1):
        rows = order[n_pairs[order] == size].reshape(-1, size)
        if len(rows):
            best = rows[_best_subsets(pairs, rows)]
            chosen[pairs.track[best]] = pairs.detection[best]
    rest = np.flatnonzero(n_pairs > TINY)
    return pairs.take(rest), component[rest]


def _best_subsets(pairs: Pairs, rows: IntArray) -> BoolArray:
    """Return which pairs of each component to choose; `rows`: shape (m, size)."""
    size = rows.shape[1]
    track, detection = pairs.track[rows], pairs.detection[rows]
    clash = (track[:, :, None] == track[:, None]) | (
        detection[:, :, None] == detection[:, None]
    )
    clash &= ~np.eye(size, dtype=np.bool_)
    clashing = clash @ (1 << np.arange(size))  # as bits, shape (m, size)
    subset = np.arange(2**size)
    member = (subset[:, None] >> np.arange(size)) & 1 > 0
    total = pairs.gain[rows] @ member.T
    for k in range(size):
        total[(clashing[:, k, None] & subset > 0) & member[:, k]] = -1.0
    return np.asarray(member[total.argmax(axis=1)])


def _batches(pairs: Pairs, component: IntArray) -> Iterator[Pairs]:
    """Split into whole components, small ones together, about `BATCH_ROWS` tracks each.

    One matching of many small blocks costs far less than a Python loop over them.
    """
    if not len(pairs):
        return
    is_first = np.diff(pairs.track, prepend=-1) > 0
    n_tracks = np.bincount(component[is_first])
    by_size = np.argsort(n_tracks, kind="stable")
    batch_of = np.empty(len(n_tracks), np.int64)
    batch_of[by_size] = np.cumsum(n_tracks[by_size]) // BATCH_ROWS
    batch = batch_of[component]
    for number in np.unique(batch):
        yield pairs.take(np.flatnonzero(batch == number))


def _expected_seconds(batch: Pairs) -> float:
    return SECONDS_PER_ROW_EDGE * len(np.unique(batch.track)) * len(batch)


def _match_exactly(pairs: Pairs, chosen: IntArray) -> None:
    """Match one batch; every track also gets a partner of its own that means "none"."""
    track = _renumber(pairs.track)
    detection_ids, detection = np.unique(pairs.detection, return_inverse=True)
    track_ids = np.unique(pairs.track)
    n, m = len(track_ids), len(detection_ids)
    # Costs must not be zero (a zero is no edge) and every track is matched exactly
    # once, so one constant for all of a batch changes nothing.
    offset = float(pairs.gain.max()) + 1.0
    cost = np.concatenate([offset - pairs.gain, np.full(n, offset)])
    rows = np.concatenate([track, np.arange(n)])
    columns = np.concatenate([detection, m + np.arange(n)])
    graph: Any = csr_array((cost, (rows, columns)), (n, m + n))
    row, column = min_weight_full_bipartite_matching(graph)
    real = column < m
    chosen[track_ids[row[real]]] = detection_ids[column[real]]


def _renumber(values: IntArray) -> IntArray:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
