"""The live tracks, one array per quantity, and how they are read as rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lodestar_live.data import (
    DETECTION_DTYPE,
    TRACK_DTYPE,
    Detections,
    FloatArray,
    Rows,
    blank_rows,
)
from lodestar_live.linking import visibility
from lodestar_live.linking.gate import BoolArray, IntArray
from lodestar_live.linking.learning import KINDS, LAGS
from lodestar_live.motion import Belief

# Image plane (px) and depth (µm) are filtered apart: units never mix.
AXES = {"px": ("y_px", "x_px"), "um": ("z_um",)}
N_LAWS = {"px": len(KINDS), "um": 1}
MOST_DETECTIONS = 100_000  # linked in one frame; more is a broken detector
# A track row begins with the fields of its detection, byte by byte.
N_MEASURED_BYTES = DETECTION_DTYPE.itemsize


@dataclass(slots=True, eq=False)
class Filtered:
    """One unit's positions: the belief now, and the latest displacements.

    `belief`: one for each law of motion, arrays (n, laws, ...); `weight`: probability
    that a track follows each law, (n, laws). `steps`: shape (LAGS, n, axes), newest
    first, 0 where there is none; `has_step`: shape (LAGS, n), 1.0 or 0.0. `sums`: over
    a track's whole life, as of `physics.covariances`, (n, 2 LAGS + axes).
    """

    belief: Belief
    weight: FloatArray
    steps: FloatArray
    has_step: FloatArray
    sums: FloatArray

    @classmethod
    def unknown(cls, n: int, unit: str) -> Filtered:
        """Return n tracks about which nothing is known."""
        n_axes, n_laws = len(AXES[unit]), N_LAWS[unit]
        nothing = Belief(
            *np.full((2, n, n_laws, n_axes), np.nan), *np.full((3, n, n_laws), np.nan)
        )
        return cls(
            nothing,
            np.full((n, n_laws), np.nan),
            np.zeros((LAGS, n, n_axes)),
            np.zeros((LAGS, n)),
            np.zeros((n, 2 * LAGS + n_axes)),
        )

    def take(self, index: IntArray) -> Filtered:
        """Return the chosen tracks."""
        return Filtered(
            self.belief.take(index),
            self.weight[index],
            self.steps[:, index],
            self.has_step[:, index],
            self.sums[index],
        )

    def join(self, other: Filtered) -> Filtered:
        """Return these tracks followed by the others."""
        return Filtered(
            self.belief.join(other.belief),
            np.concatenate([self.weight, other.weight]),
            np.concatenate([self.steps, other.steps], axis=1),
            np.concatenate([self.has_step, other.has_step], axis=1),
            np.concatenate([self.sums, other.sums]),
        )


@dataclass(slots=True, eq=False)
class States:
    """All live tracks, in order of their ids; every array has one entry per track."""

    track_id: IntArray
    born: IntArray  # frame of birth
    seen: IntArray  # frame last seen
    seen_at: FloatArray  # when last seen, in frame intervals
    n_seen: IntArray
    missed: IntArray  # frames looked at and not seen in, since last seen
    detection_index: IntArray  # -1: missed in the last frame
    visibility: FloatArray  # (n, 4), see `linking.visibility`
    is_confirmed: BoolArray
    law: IntArray  # the law of motion a track is known to follow; -1: not known
    measured: Rows  # the last detection
    filtered: dict[str, Filtered] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.track_id)

    @classmethod
    def begin(
        cls, rows: Rows, index: IntArray, *, frame: int, now: float, next_id: int
    ) -> States:
        """Return tracks that start at detections of this frame."""
        n = len(rows)
        filtered = {unit: Filtered.unknown(n, unit) for unit in AXES}
        return cls(
            track_id=next_id + np.arange(n),
            born=np.full(n, frame),
            seen=np.full(n, frame),
            seen_at=np.full(n, now),
            n_seen=np.ones(n, np.int64),
            missed=np.zeros(n, np.int64),
            detection_index=index,
            visibility=visibility.born(n, 0.5),
            is_confirmed=np.zeros(n, np.bool_),
            law=np.full(n, -1),
            measured=rows,
            filtered=filtered,
        )

    def see(
        self, hit: IntArray, rows: Rows, index: IntArray, *, frame: int, now: float
    ) -> None:
        """Note the detections of the tracks `hit`; the others were missed."""
        self.detection_index = np.full(len(self), -1)
        self.detection_index[hit] = index
        self.measured[hit] = rows
        self.seen[hit] = frame
        self.seen_at[hit] = now
        self.n_seen[hit] += 1
        self.missed += 1
        self.missed[hit] = 0

    def keep(self, index: IntArray) -> States:
        """Return the chosen tracks."""
        columns = {name: getattr(self, name)[index] for name in _COLUMNS}
        filtered = {unit: part.take(index) for unit, part in self.filtered.items()}
        return States(**columns, filtered=filtered)

    def join(self, other: States) -> States:
        """Return these tracks followed by the others."""
        if not len(other):
            return self
        columns = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in _COLUMNS
        }
        filtered = {
            u: part.join(other.filtered[u]) for u, part in self.filtered.items()
        }
        return States(**columns, filtered=filtered)


def overall(part: Filtered) -> Belief:
    """Return one Gaussian per track with the mean and variance of all its laws'."""
    belief, weight = part.belief, part.weight
    if weight.shape[1] == 1:
        return Belief(*(getattr(belief, name)[:, 0] for name in belief.__slots__))
    position = np.einsum("nk,nka->na", weight, belief.position)
    velocity = np.einsum("nk,nka->na", weight, belief.velocity)
    off, off_v = (
        belief.position - position[:, None],
        belief.velocity - velocity[:, None],
    )
    n_axes = position.shape[1]

    def spread(own: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        between = np.einsum("nka,nka->nk", a, b) / n_axes
        return np.asarray(np.einsum("nk,nk->n", weight, own + between))

    return Belief(
        position,
        velocity,
        spread(belief.variance, off, off),
        spread(belief.covariance, off, off_v),
        spread(belief.velocity_variance, off_v, off_v),
    )


def whereabouts(part: Filtered) -> tuple[FloatArray, FloatArray]:
    """Return the mean position (n, axes) and its variance (n,) over all laws."""
    belief, weight = part.belief, part.weight
    position = np.einsum("nk,nka->na", weight, belief.position)
    off = belief.position - position[:, None]
    between = np.einsum("nka,nka->nk", off, off) / position.shape[1]
    return position, np.einsum("nk,nk->n", weight, belief.variance + between)


_COLUMNS = tuple(name for name in States.__slots__ if name != "filtered")


def measured_position(rows: Rows, unit: str) -> FloatArray:
    """Return what detections say in the plane (n, 2) or along the light (n, 1)."""
    return np.column_stack([rows[name] for name in AXES[unit]])


def measured_variance(rows: Rows, unit: str) -> FloatArray:
    """Return the detector's own localisation variance, NaN where it gave none."""
    sigma: FloatArray = rows["sigma_px" if unit == "px" else "sigma_z_um"]
    return np.where(sigma > 0, sigma, np.nan) ** 2


def usable(detections: Detections) -> tuple[IntArray, Rows]:
    """Return the finite detections in an order that is theirs alone.

    Sorting makes the result of linking independent of the order they come in.

    Returns
    -------
    Index of each row in `detections`, and the rows.
    """
    rows = detections.rows
    finite = np.flatnonzero(np.isfinite(rows["y_px"]) & np.isfinite(rows["x_px"]))
    if len(finite) > MOST_DETECTIONS:
        best = np.argsort(-rows["score"][finite], kind="stable")
        finite = finite[best[:MOST_DETECTIONS]]
    y = rows["y_px"][finite]
    order = np.argsort(y, kind="stable")
    if (np.diff(y[order]) == 0).any():  # rare, and then every column decides
        keys = [rows[name][finite] for name in reversed(DETECTION_DTYPE.names or ())]
        order = np.lexsort(keys)
    return finite[order], rows.take(finite[order])


def track_rows(states: States, frame_index: int) -> Rows:
    """Return the tracks as the world sees them: measured when seen, else predicted."""
    n = len(states)
    out = blank_rows(TRACK_DTYPE, n)  # columns of later rooms: not measured
    as_bytes = out.view(np.uint8).reshape(n, TRACK_DTYPE.itemsize)
    measured = np.ascontiguousarray(states.measured).view(np.uint8)
    as_bytes[:, :N_MEASURED_BYTES] = measured.reshape(n, N_MEASURED_BYTES)
    now, depth = overall(states.filtered["px"]), overall(states.filtered["um"])
    missed = np.flatnonzero(states.detection_index < 0)
    out["y_filtered_px"], out["x_filtered_px"] = now.position.T
    out["z_filtered_um"] = depth.position[:, 0]
    out["sigma_filtered_px"] = np.sqrt(now.variance)
    out["sigma_z_filtered_um"] = np.sqrt(depth.variance)
    out["y_px"][missed] = now.position[missed, 0]
    out["x_px"][missed] = now.position[missed, 1]
    out["z_um"][missed] = depth.position[missed, 0]
    out["sigma_px"][missed] = np.sqrt(now.variance[missed])
    out["sigma_z_um"][missed] = np.sqrt(depth.variance[missed])
    out["track_id"] = states.track_id
    out["vy_px_per_frame"] = now.velocity[:, 0]
    out["vx_px_per_frame"] = now.velocity[:, 1]
    out["vz_um_per_frame"] = depth.velocity[:, 0]
    out["age_frames"] = frame_index - states.born + 1
    out["missed_frames"] = frame_index - states.seen
    out["detection_index"] = states.detection_index
    out["existence"] = 1 - states.visibility[:, visibility.GONE]
    out["model_version"] = 0
    return out
