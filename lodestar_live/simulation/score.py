"""Compare what was tracked with what was there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lodestar_live.data import FloatArray, Rows

TRUTH_DTYPE = np.dtype(
    [("frame", "i8"), ("particle", "i8"), ("y_px", "f8"), ("x_px", "f8")]
)


@dataclass(frozen=True, slots=True)
class TrackingScore:
    """How good the tracks of a run were.

    Parameters
    ----------
    true_positive_rate
        Found / present.
    false_discovery_rate
        Wrong / found.
    rmse_px, bias_px
        2-D root mean square distance, and mean (y, x) error, of the matched.
    link_error_rate
        Share of steps from one sighting of a track to its next that join two
        different particles.
    n_truth, n_steps
        What the rates are shares of.
    """

    true_positive_rate: float
    false_discovery_rate: float
    rmse_px: float
    bias_px: tuple[float, float]
    link_error_rate: float
    n_truth: int
    n_steps: int


def score_tracks(
    tracks: Rows,
    truth: Rows,
    *,
    gate_px: float,
    shape: tuple[int, int],
    border_px: float,
) -> TrackingScore:
    """Score recorded track rows against the truth.

    Parameters
    ----------
    tracks
        Rows with ``frame, y_px, x_px, track_id, missed_frames``; only rows in which
        the track was seen (`missed_frames` 0) count.
    truth
        Dtype `TRUTH_DTYPE`; only its frames are scored. A negative `particle` counts
        neither as present nor, if found, as wrong.
    gate_px
        Pairs farther apart never match. Matching is optimal per frame, most pairs
        first.
    shape, border_px
        Particles and detections nearer than `border_px` to the frame's edge count
        neither as present nor as wrong.
    """
    seen = tracks[tracks["missed_frames"] == 0]
    seen = seen[np.isin(seen["frame"], truth["frame"])]
    pairs = _match(seen, truth, gate_px)
    inner_seen = _inside(seen, shape, border_px)
    inner_truth = _inside(truth, shape, border_px) & (truth["particle"] >= 0)
    hit = inner_truth[pairs[:, 1]]
    is_wrong = inner_seen.copy()
    is_wrong[pairs[:, 0]] = False
    n_hits, n_truth = int(hit.sum()), int(inner_truth.sum())
    found = n_hits + int(is_wrong.sum())
    error = _yx(seen)[pairs[hit, 0]] - _yx(truth)[pairs[hit, 1]]
    wrong_steps, n_steps = _link_errors(seen, truth, pairs)
    return TrackingScore(
        true_positive_rate=n_hits / n_truth if n_truth else float("nan"),
        false_discovery_rate=int(is_wrong.sum()) / found if found else 0.0,
        rmse_px=float(np.sqrt((error**2).sum(1).mean())) if n_hits else float("nan"),
        bias_px=_mean_yx(error),
        link_error_rate=wrong_steps / n_steps if n_steps else 0.0,
        n_truth=n_truth,
        n_steps=n_steps,
    )


def particle_of_track(
    tracks: Rows, truth: Rows, gate_px: float
) -> Mapping[tuple[int, int], int]:
    """Return (frame, track_id) -> true particle, for every matched sighting."""
    seen = tracks[tracks["missed_frames"] == 0]
    return {
        (int(seen["frame"][i]), int(seen["track_id"][i])): int(truth["particle"][j])
        for i, j in _match(seen, truth, gate_px)
    }


def _match(seen: Rows, truth: Rows, gate_px: float) -> npt.NDArray[np.int64]:
    """Return matched rows (index in seen, index in truth), shape (n, 2)."""
    by_frame = {
        f: np.flatnonzero(truth["frame"] == f) for f in np.unique(truth["frame"])
    }
    pairs = [np.empty((0, 2), np.int64)]
    for frame in np.unique(seen["frame"]):
        mine = np.flatnonzero(seen["frame"] == frame)
        theirs = by_frame.get(frame, np.empty(0, np.int64))
        distance = cdist(_yx(seen[mine]), _yx(truth[theirs]))
        # A pair inside the gate always beats leaving two unmatched.
        cost = np.where(distance <= gate_px, distance - 1e6, 0.0)
        i, j = linear_sum_assignment(cost)
        keep = distance[i, j] <= gate_px
        pairs.append(np.column_stack([mine[i[keep]], theirs[j[keep]]]))
    return np.concatenate(pairs)


def _link_errors(
    seen: Rows, truth: Rows, pairs: npt.NDArray[np.int64]
) -> tuple[int, int]:
    particle = np.full(len(seen), -1, np.int64)
    particle[pairs[:, 0]] = truth["particle"][pairs[:, 1]]
    order = np.lexsort((seen["frame"], seen["track_id"]))
    same_track = np.diff(seen["track_id"][order]) == 0
    first, second = particle[order][:-1], particle[order][1:]
    known = same_track & (first >= 0) & (second >= 0)
    return int((known & (first != second)).sum()), int(known.sum())


def _inside(
    rows: Rows, shape: tuple[int, int], border_px: float
) -> npt.NDArray[np.bool_]:
    last = np.array(shape) - 1 - border_px
    yx = _yx(rows)
    return np.asarray(np.all((yx >= border_px) & (yx <= last), axis=1))


def _yx(rows: Rows) -> FloatArray:
    return np.column_stack([rows["y_px"], rows["x_px"]])


def _mean_yx(error: FloatArray) -> tuple[float, float]:
    if not len(error):
        return float("nan"), float("nan")
    return float(error[:, 0].mean()), float(error[:, 1].mean())
