"""What is worth telling about the tracks of one frame.

`track.birth` (a track is confirmed), `track.lost` (a confirmed track ended),
`track.reacquired` (seen again after missed frames): one event per kind and frame, with
parallel lists in its details, as `motion.changed` has. `track.suspected_swap`: one
event per pair of tracks.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import Event, FloatArray
from lodestar_live.events import MotionChanged, TrackNews
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray
from lodestar_live.linking.learning import LAW_NAMES
from lodestar_live.linking.states import States, overall

SWAP_ODDS = 3.0  # a swap is suspected when it is at most this many times less likely
SURE_OF_LAW = 0.99  # a track follows a law for which the odds are at least these
MOST_RIVALS = 100_000  # pairs looked at, however crowded it is
MOST_SWAPS = 20  # per frame; the likeliest


def news(
    kind: type[TrackNews], states: States, which: BoolArray, *, frame: int, t_s: float
) -> list[Event]:
    """Return one event about the tracks in question, or none if there are none."""
    index = np.flatnonzero(which)
    if not len(index):
        return []
    position = overall(states.filtered["px"].belief[:, :, index], 2).position
    details = kind(
        track_ids=states.track_id[index].tolist(),
        y_px=position[0].tolist(),
        x_px=position[1].tolist(),
        last_seen=states.seen[index].tolist(),
    )
    return [details.at(t_s, frame)]


def changes_of_motion(
    states: States, weight: FloatArray, *, frame: int, t_s: float
) -> list[Event]:
    """Note which law each track is sure to follow; tell where that is a new one.

    `weight`: probability of each of `LAW_NAMES`, (laws, n).
    """
    if not len(states):
        return []
    law = weight.argmax(axis=0)
    new = (law != states.law) & states.is_confirmed
    if not new.any():
        return []
    new = (new & (weight.max(axis=0) > SURE_OF_LAW)).nonzero()[0]
    changed = new[states.law[new] >= 0]
    was, now = states.law[changed].tolist(), law[changed].tolist()
    states.law[new] = law[new]
    if not len(changed):
        return []
    details = MotionChanged(
        track_ids=states.track_id[changed].tolist(),
        was=[LAW_NAMES[k] for k in was],
        now=[LAW_NAMES[k] for k in now],
        probability=weight[law[changed], changed].tolist(),
    )
    return [details.at(t_s, frame)]


def suspected_swaps(
    pairs: Pairs, chosen: IntArray, is_confirmed: BoolArray, n_detections: int
) -> tuple[IntArray, FloatArray]:
    """Return pairs of confirmed tracks whose detections may have been exchanged.

    Compared with the choice made, track t takes detection d of track k, and k takes
    what t had, or nothing if t had nothing.

    Returns
    -------
    Indices of both tracks, shape (n, 2), and how many times likelier the choice was.
    """
    if len(pairs) == np.count_nonzero(chosen >= 0):  # nobody had a choice
        return np.zeros((0, 2), np.int64), np.zeros(0)
    owner = np.full(n_detections, -1)
    matched = np.flatnonzero(chosen >= 0)
    owner[chosen[matched]] = matched
    rival = owner[pairs.detection]
    other = (rival >= 0) & (rival != pairs.track) & is_confirmed[pairs.track]
    other[other] = is_confirmed[rival[other]]
    rest = np.flatnonzero(other)[:MOST_RIVALS]
    t, k = pairs.track[rest], rival[rest]
    kept = np.zeros(len(chosen))
    is_chosen = chosen[pairs.track] == pairs.detection
    kept[pairs.track[is_chosen]] = pairs.gain[is_chosen]
    loss = kept[t] + kept[k] - pairs.gain[rest]
    near = np.flatnonzero(chosen[t] >= 0)
    loss[near] -= _gain(pairs, k[near], chosen[t[near]], n_detections)
    likely = np.flatnonzero(loss < np.log(SWAP_ODDS))
    if not len(likely):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    both = np.sort(np.column_stack([t, k])[likely], axis=1)
    order = np.lexsort((both[:, 1], both[:, 0], loss[likely]))
    both, first = np.unique(both[order], axis=0, return_index=True)
    best = np.argsort(first)[:MOST_SWAPS]
    return both[best], np.exp(np.maximum(loss[likely][order][first[best]], 0.0))


def _gain(
    pairs: Pairs, track: IntArray, detection: IntArray, n_detections: int
) -> FloatArray:
    """Return the gain of given pairs, -inf where the pair is no candidate."""
    keys = pairs.track * n_detections + pairs.detection
    wanted = track * n_detections + detection
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    if not len(keys):
        return np.full(len(track), -np.inf)
    return np.where(keys[place] == wanted, pairs.gain[place], -np.inf)
