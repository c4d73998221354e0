"""Classes of tracks by a second channel, as the seed's holographic study has them.

A detection is co-located when the second channel has one within 400 nm. A track is of
class 1 when more than 95 % of its detections are, of class 0 when fewer than 5 % are,
and undecided between (Midtvedt et al. 2022, supplementary note 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from lodestar_live.analysis.register import Registration, register
from lodestar_live.data import FloatArray, Rows
from lodestar_live.errors import InputError
from lodestar_live.recording import Recording
from lodestar_live.recording.trajectories import (
    Trajectories,
    counts_time_points,
    read_trajectories,
)

CO_LOCATED, NOT_CO_LOCATED, UNDECIDED = 1, 0, -1
WITHIN_UM = 0.4
MAX_MISSES = 3

_DTYPE = np.dtype(
    [("track_id", "i8"), ("class", "i8"), ("share", "f8"), ("n_frames", "i8")]
)
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TrackClasses:
    """What a second channel says of each track of a first.

    Parameters
    ----------
    rows
        One per track: ``track_id``, ``class`` (`CO_LOCATED`, `NOT_CO_LOCATED` or
        `UNDECIDED`), ``share`` of its detections that are co-located, ``n_frames``
        that counted.
    registration
        Of the second channel on the first.
    unit
        Of lengths, ``um`` or ``px``.
    """

    rows: Rows
    registration: Registration
    unit: str = "um"

    def as_mapping(self) -> dict[int, int]:
        """Return the class by track."""
        return dict(
            zip(
                self.rows["track_id"].tolist(), self.rows["class"].tolist(), strict=True
            )
        )


def classify_tracks(
    track_ids: npt.ArrayLike,
    frames: npt.ArrayLike,
    positions: npt.ArrayLike,
    others: Mapping[int, FloatArray],
    *,
    within: float = WITHIN_UM,
    registration: Registration | None = None,
    max_misses: int = MAX_MISSES,
    low: float = 0.05,
    high: float = 0.95,
) -> Rows:
    """Tell each track's class by what a second channel detected near it.

    Parameters
    ----------
    track_ids, frames
        Of each detection, (n,).
    positions
        (n, 2), (y, x).
    others
        The second channel: frame -> positions (m, 2), unit as `positions`. Frames
        that are not in it were not looked at, and do not count.
    within
        Distance up to which two detections are co-located, unit as `positions`.
    registration
        Of the second channel; None: it lies on the first.
    max_misses
        Frames in a row in which the second channel may miss a particle that it saw
        before or after: it is taken as seen.
    low, high
        Shares under and over which a track is of class 0 and 1.

    Returns
    -------
    Rows of `TrackClasses`, by track; tracks without a frame that counts are undecided.
    """
    ids, frame = np.asarray(track_ids, np.int64), np.asarray(frames, np.int64)
    places = np.asarray(positions, dtype=float).reshape(-1, 2)
    order = np.lexsort((frame, ids))
    ids, frame, places = ids[order], frame[order], places[order]
    is_near, counts = _near(frame, places, others, registration, within)
    known, starts, lengths = np.unique(ids, return_index=True, return_counts=True)
    rows = np.zeros(len(known), _DTYPE)
    rows["track_id"] = known
    for row, first, n in zip(rows, starts.tolist(), lengths.tolist(), strict=True):
        part = slice(first, first + n)
        seen = _bridged(
            frame[part][counts[part]], is_near[part][counts[part]], max_misses
        )
        row["n_frames"], row["share"] = len(seen), seen.mean() if len(seen) else np.nan
    share = rows["share"]
    rows["class"] = np.select(
        [share > high, share < low], [CO_LOCATED, NOT_CO_LOCATED], UNDECIDED
    )
    return rows


def classify_runs(
    first: Recording,
    second: Recording,
    *,
    channel: str | None = None,
    second_channel: str | None = None,
    within: float | None = None,
    align: bool = True,
    min_frames: int = 10,
) -> TrackClasses:
    """Tell the classes of one run's tracks by another run, or by another channel of it.

    Parameters
    ----------
    first, second
        May be the same recording, with two channels.
    channel, second_channel
        Names, where a recording holds several.
    within
        In µm of the sample; left out: 0.4. Of runs without a pixel size in px, and
        needed.
    align
        Measure how the second channel lies on the first.
    min_frames
        Leave out tracks measured in fewer frames.

    Raises
    ------
    InputError
        The runs are in different units, hold no such channel, or have too little in
        common to be registered.
    """
    ours = read_trajectories(first, min_frames=min_frames)
    theirs = read_trajectories(second)
    if ours.length_unit != theirs.length_unit:
        raise InputError(
            f"{first.path} is in {ours.length_unit}, {second.path} in "
            f"{theirs.length_unit}: expected the pixel size of both "
            "(`replay --pixel-size`)."
        )
    if within is None and ours.length_unit == "px":
        raise InputError(
            f"{first.path} has no pixel size: give the distance in px (`--within 4`), "
            "or replay with `--pixel-size`."
        )
    reach = WITHIN_UM if within is None else within
    if not (np.isfinite(reach) and reach > 0):
        raise InputError(
            f"within = {within}: expected a distance above 0 {ours.length_unit}."
        )
    rows, frames, places = _of_channel(ours, channel, first)
    _, other_frames, other_places = _of_channel(theirs, second_channel, second)
    others = _by_frame(other_frames, other_places)
    registration = None
    if align:
        mine = _by_frame(frames, places)
        both = sorted(mine.keys() & others.keys())
        registration = register(
            [mine[k] for k in both], [others[k] for k in both], within=reach
        )
    for index in _looked_at(second, second_channel).tolist():
        others.setdefault(index, np.empty((0, 2)))
    classes = classify_tracks(
        rows["track_id"],
        frames,
        places,
        others,
        within=reach,
        registration=registration,
    )
    return TrackClasses(
        classes, registration or Registration.identity(), ours.length_unit
    )


def _near(
    frame: Integers,
    places: FloatArray,
    others: Mapping[int, FloatArray],
    registration: Registration | None,
    within: float,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which detections are co-located, and which lie in frames that count."""
    is_near, counts = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    by_frame = np.argsort(frame, kind="stable")
    known, starts = np.unique(frame[by_frame], return_index=True)
    for index, chosen in zip(
        known.tolist(), np.split(by_frame, starts[1:]), strict=True
    ):
        there = others.get(index)
        if there is None:
            continue
        counts[chosen] = True
        if len(there):
            moved = (
                np.asarray(there, float)
                if registration is None
                else registration(there)
            )
            gap, _ = cKDTree(moved).query(places[chosen], distance_upper_bound=within)
            is_near[chosen] = np.isfinite(gap)
    return is_near, counts


def _bridged(
    frame: Integers, is_near: npt.NDArray[np.bool_], max_misses: int
) -> npt.NDArray[np.bool_]:
    """Take short gaps of what was seen as seen, also at a track's ends."""
    seen = np.flatnonzero(is_near)
    if not len(seen):
        return is_near
    last = np.searchsorted(seen, np.arange(len(frame)), side="right") - 1
    before = frame - frame[seen[np.maximum(last, 0)]]
    after = frame[seen[np.minimum(last + 1, len(seen) - 1)]] - frame
    has_before, has_after = last >= 0, last + 1 < len(seen)
    gap = np.where(
        has_before & has_after, before + after - 1, np.where(has_before, before, after)
    )
    return np.asarray(is_near | (gap <= max_misses))


def _of_channel(
    runs: Trajectories, channel: str | None, recording: Recording
) -> tuple[Rows, Integers, FloatArray]:
    rows, frames, places = runs.rows, runs.frame_numbers, runs.positions
    if channel is None:
        return rows, frames, places
    is_chosen = rows["channel"] == channel
    if not is_chosen.any():
        names = ", ".join(sorted({repr(str(name)) for name in rows["channel"]}))
        raise InputError(
            f"{recording.path}: no track in channel {channel!r}; it holds {names}."
        )
    return rows[is_chosen], frames[is_chosen], places[is_chosen]


def _by_frame(frames: Integers, places: FloatArray) -> dict[int, FloatArray]:
    order = np.argsort(frames, kind="stable")
    known, starts = np.unique(frames[order], return_index=True)
    pieces = np.split(places[order], starts[1:])
    return dict(zip(known.tolist(), pieces, strict=True))


def _looked_at(recording: Recording, channel: str | None) -> Integers:
    """Return the numbers of all frames, also of those in which nothing was found."""
    frames = recording.frames()
    if channel is not None:
        frames = frames[frames["channel"] == channel]
    if counts_time_points(recording.info) and np.isfinite(frames["time_index"]).all():
        return np.asarray(frames["time_index"], dtype=np.int64)
    return np.asarray(frames["frame"], dtype=np.int64)
