"""The live tracks, one array per quantity, and how they are read as rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

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

# Image plane (px) and depth (µm) are filtered apart: units never mix.
AXES = {"px": ("y_px", "x_px"), "um": ("z_um",)}
N_LAWS = {"px": len(KINDS), "um": 1}
MOST_DETECTIONS = 100_000  # linked in one frame; more is a broken detector
# A track row begins with the fields of its detection, byte by byte.
N_MEASURED_BYTES = DETECTION_DTYPE.itemsize


@dataclass(slots=True, eq=False)
class Found:
    """The usable detections of one frame, in an order that is theirs alone.

    `index`: of each row in the frame's detections. `position`: (axes, m), px and, where
    any detection has one, µm along the light. `variance`: what the detector says of the
    positions' variance, (m,), NaN where it says nothing, None if it never does.
    """

    rows: Rows
    index: IntArray
    position: dict[str, FloatArray]
    variance: dict[str, FloatArray | None]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, rows: Rows, index: IntArray) -> Found:
        """Read the rows' columns once for everybody."""
        position = {"px": measured_position(rows, "px")}
        z_um = rows["z_um"]
        if np.isfinite(z_um).any():
            position["um"] = z_um[None]
        variance = {unit: measured_variance(rows, unit) for unit in position}
        return cls(rows, index, position, variance)

    def take(self, chosen: IntArray) -> Found:
        """Return the chosen detections."""
        return Found(
            self.rows.take(chosen),
            self.index[chosen],
            {unit: points[:, chosen] for unit, points in self.position.items()},
            {u: v if v is None else v[chosen] for u, v in self.variance.items()},
        )


@dataclass(slots=True, eq=False)
class Filtered:
    """One unit's positions: the belief now, and the latest displacements.

    `belief`: shape (laws, 2 axes + 4, n), what is known under each law of motion; its
    columns are named by the properties. `last`: the last measured position, (axes, n).
    `history`: shape (LAGS, axes + 1, n), displacements, newest first, and 1.0; both 0
    where there is none. `sums`: over a track's whole life, as of `physics.covariances`,
    (2 LAGS + axes, n).
    """

    belief: FloatArray
    last: FloatArray
    history: FloatArray
    sums: FloatArray

    @classmethod
    def unknown(cls, position: FloatArray, unit: str) -> Filtered:
        """Return tracks seen once at `position`, (axes, n), and nothing else known."""
        n_axes, n = position.shape
        new = cls(
            np.full((N_LAWS[unit], 2 * n_axes + 4, n), np.nan),
            position,
            np.zeros((LAGS, n_axes + 1, n)),
            np.zeros((2 * LAGS + n_axes, n)),
        )
        new.position[:] = position
        new.weight[:] = 1 / N_LAWS[unit]
        return new

    @property
    def n_axes(self) -> int:
        """Number of axes."""
        return len(self.last)

    @property
    def position(self) -> FloatArray:
        """Mean position, (laws, axes, n)."""
        return self.belief[:, : len(self.last)]

    @property
    def variance(self) -> FloatArray:
        """Variance of the position per axis, (laws, n)."""
        return self.belief[:, len(self.last)]

    @property
    def weight(self) -> FloatArray:
        """Probability that a track follows each law, (laws, n)."""
        return self.belief[:, len(self.last) + 1]

    @property
    def velocity(self) -> FloatArray:
        """Mean velocity, (laws, axes, n)."""
        return self.belief[:, len(self.last) + 2 : -2]

    @property
    def covariance(self) -> FloatArray:
        """Covariance of position and velocity per axis, (laws, n)."""
        return self.belief[:, -2]

    @property
    def velocity_variance(self) -> FloatArray:
        """Variance of the velocity per axis, (laws, n)."""
        return self.belief[:, -1]

    def take(self, index: IntArray) -> Filtered:
        """Return the chosen tracks."""
        return Filtered(
            *(getattr(self, name).take(index, axis=-1) for name in self.__slots__)
        )

    def join(self, other: Filtered) -> Filtered:
        """Return these tracks followed by the others."""
        both = ((getattr(self, n), getattr(other, n)) for n in self.__slots__)
        return Filtered(*(np.concatenate(two, axis=-1) for two in both))


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
    visibility: FloatArray  # (4, n), see `linking.visibility`
    is_confirmed: BoolArray
    law: IntArray  # the law of motion a track is known to follow; -1: not known
    measured: Rows  # the last detection
    filtered: dict[str, Filtered] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.track_id)

    @classmethod
    def begin(
        cls,
        found: Found,
        units: Iterable[str] = ("px",),
        *,
        frame: int,
        now: float,
        next_id: int,
    ) -> States:
        """Return tracks that start at detections of this frame."""
        n, rows = len(found), found.rows
        filtered = {
            unit: Filtered.unknown(measured_position(rows, unit), unit)
            for unit in units
        }
        return cls(
            track_id=next_id + np.arange(n),
            born=np.full(n, frame),
            seen=np.full(n, frame),
            seen_at=np.full(n, now),
            n_seen=np.ones(n, np.int64),
            missed=np.zeros(n, np.int64),
            detection_index=found.index,
            visibility=visibility.born(n, 0.5),
            is_confirmed=np.zeros(n, np.bool_),
            law=np.full(n, -1),
            measured=rows,
            filtered=filtered,
        )

    def know_depth(self) -> None:
        """Begin to filter positions along the light as well."""
        if "um" not in self.filtered:
            z_um = measured_position(self.measured, "um")
            self.filtered["um"] = Filtered.unknown(z_um, "um")

    def see(self, hit: IntArray, found: Found, *, frame: int, now: float) -> None:
        """Note the detections of the tracks `hit`; the others were missed."""
        if len(hit) == len(self):
            self.detection_index = found.index
            self.measured = found.rows
            self.seen[:], self.seen_at[:] = frame, now
            self.n_seen += 1
            self.missed[:] = 0
            return
        self.detection_index = np.full(len(self), -1)
        self.detection_index[hit] = found.index
        self.measured[hit] = found.rows
        self.seen[hit] = frame
        self.seen_at[hit] = now
        self.n_seen[hit] += 1
        self.missed += 1
        self.missed[hit] = 0

    def keep(self, index: IntArray) -> States:
        """Return the chosen tracks."""
        columns = {n: getattr(self, n).take(index, axis=-1) for n in _COLUMNS}
        filtered = {unit: part.take(index) for unit, part in self.filtered.items()}
        return States(**columns, filtered=filtered)

    def join(self, other: States) -> States:
        """Return these tracks followed by the others."""
        if not len(other):
            return self
        columns = {
            name: np.concatenate([getattr(self, name), getattr(other, name)], axis=-1)
            for name in _COLUMNS
        }
        filtered = {
            u: part.join(other.filtered[u]) for u, part in self.filtered.items()
        }
        return States(**columns, filtered=filtered)


@dataclass(slots=True, eq=False)
class Overall:
    """One Gaussian per track with the mean and variance of all its laws'.

    `position`, `velocity`: (axes, n); `variance`: of the position per axis, (n,).
    """

    position: FloatArray
    velocity: FloatArray
    variance: FloatArray


def overall(belief: FloatArray, n_axes: int) -> Overall:
    """Return what all laws together say; `belief` as in `Filtered`."""
    mean = belief[0]
    variance = mean[n_axes]
    if len(belief) > 1:
        mean = np.add.reduce(belief[:, n_axes + 1, None] * belief, 0)
        variance = mean[n_axes] + between(belief, mean[:n_axes])
    return Overall(mean[:n_axes], mean[n_axes + 2 : 2 * n_axes + 2], variance)


def between(belief: FloatArray, centre: FloatArray) -> FloatArray:
    """Return the variance per axis of the laws' positions around `centre`, (n,)."""
    n_axes = len(centre)
    off = belief[:, :n_axes] - centre
    off *= off
    squared = np.add.reduce(off, 1)
    squared *= belief[:, n_axes + 1]
    return np.asarray(np.add.reduce(squared, 0) / n_axes)


def whereabouts(part: Filtered) -> tuple[FloatArray, FloatArray]:
    """Return the mean position (axes, n) and its variance (n,) over all laws."""
    n_axes, belief = len(part.last), part.belief
    mean = np.add.reduce(belief[:, n_axes + 1, None] * belief[:, : n_axes + 1], 0)
    centre = mean[:n_axes]
    return centre, mean[n_axes] + between(belief, centre)


NAN = float("nan")
_COLUMNS = tuple(name for name in States.__slots__ if name != "filtered")


def measured_position(rows: Rows, unit: str) -> FloatArray:
    """Return what detections say in the plane (2, n) or along the light (1, n)."""
    return np.array([rows[name] for name in AXES[unit]])


def measured_variance(rows: Rows, unit: str) -> FloatArray | None:
    """Return the detector's own localisation variance, NaN where it gave none.

    None: it gave none at all.
    """
    sigma: FloatArray = rows["sigma_px" if unit == "px" else "sigma_z_um"]
    is_known = sigma > 0
    if not is_known.any():
        return None
    return np.where(is_known, sigma, np.nan) ** 2


def usable(detections: Detections) -> Found:
    """Return the finite detections in an order that is theirs alone.

    Sorting makes the result of linking independent of the order they come in.
    """
    rows = detections.rows
    is_finite = np.isfinite(rows["y_px"]) & np.isfinite(rows["x_px"])
    finite = is_finite.nonzero()[0]
    if len(finite) < 2:
        return Found.of(rows.take(finite), finite)
    if len(finite) > MOST_DETECTIONS:
        best = np.argsort(-rows["score"][finite], kind="stable")
        finite = finite[best[:MOST_DETECTIONS]]
    y = rows["y_px"][finite]
    order = y.argsort(kind="stable")
    y = y[order]
    if (y[1:] == y[:-1]).any():  # rare, and then every column decides
        keys = [rows[name][finite] for name in reversed(DETECTION_DTYPE.names or ())]
        order = np.lexsort(keys)
    return Found.of(rows.take(finite[order]), finite[order])


_BLANK = (
    blank_rows(TRACK_DTYPE, 1).view(np.uint8).reshape(1, -1)
)  # columns of later rooms
# Neighbouring columns are written as one; `_LIFE` and `_KNOWN` name them in order.
_KNOWN = (
    "z_filtered_um",
    "y_filtered_px",
    "x_filtered_px",
    "sigma_z_filtered_um",
    "sigma_filtered_px",
    "vz_um_per_frame",
    "vy_px_per_frame",
    "vx_px_per_frame",
)
_LIFE = ("age_frames", "missed_frames", "detection_index")
_PLACES: Any = TRACK_DTYPE.fields
_BLOCKS: list[tuple[str, Any, int]] = [
    ("known", ("f8", len(_KNOWN)), int(_PLACES[_KNOWN[0]][1])),
    ("life", ("i8", len(_LIFE)), int(_PLACES[_LIFE[0]][1])),
]
_AS_BLOCKS: Any = {
    "names": [name for name, _, _ in _BLOCKS],
    "formats": [kind for _, kind, _ in _BLOCKS],
    "offsets": [place for _, _, place in _BLOCKS],
    "itemsize": TRACK_DTYPE.itemsize,
}
_BLOCKS_DTYPE = np.dtype(_AS_BLOCKS)


def track_rows(states: States, frame_index: int) -> Rows:
    """Return the tracks as the world sees them: measured when seen, else predicted."""
    n = len(states)
    as_bytes = np.empty((n, TRACK_DTYPE.itemsize), np.uint8)
    as_bytes[:, N_MEASURED_BYTES:] = _BLANK[0, N_MEASURED_BYTES:]
    measured = np.ascontiguousarray(states.measured).view(np.uint8)
    as_bytes[:, :N_MEASURED_BYTES] = measured.reshape(n, N_MEASURED_BYTES)
    out = as_bytes.reshape(-1).view(TRACK_DTYPE)
    blocks = out.view(_BLOCKS_DTYPE)
    now = overall(states.filtered["px"].belief, 2)
    known = blocks["known"].T
    known[1:3], known[4], known[6:] = now.position, np.sqrt(now.variance), now.velocity
    if "um" in states.filtered:
        depth = overall(states.filtered["um"].belief, 1)
        known[0], known[3] = depth.position[0], np.sqrt(depth.variance)
        known[5] = depth.velocity[0]
    missed = (states.detection_index < 0).nonzero()[0]
    if len(missed):
        out["y_px"][missed] = known[1, missed]
        out["x_px"][missed] = known[2, missed]
        out["z_um"][missed] = known[0, missed]
        out["sigma_px"][missed] = known[4, missed]
        out["sigma_z_um"][missed] = known[3, missed]
    out["track_id"] = states.track_id
    life = blocks["life"].T
    life[0] = frame_index + 1 - states.born
    life[1] = frame_index - states.seen
    life[2] = states.detection_index
    out["existence"] = 1 - states.visibility[visibility.GONE]
    return out


_BLANK_BYTES = _BLANK.tobytes()
_AT = {name: int(place[1]) for name, place in _PLACES.items()}
_PACK_KNOWN, _PACK_LIFE = Struct(f"={len(_KNOWN)}d"), Struct(f"={len(_LIFE)}q")
_PACK_ID, _PACK_EXISTENCE = Struct("=q"), Struct("=d")


def steady_rows(
    measured: Rows,
    known: Sequence[Sequence[float]],
    life: Sequence[Sequence[int]],
    existence: Sequence[float],
) -> Rows:
    """Return what `track_rows` does for few tracks in the plane, all of them seen.

    Parameters
    ----------
    known
        Filtered y, x, sigma, vy, vx of each.
    life
        Id, age in frames and index of the detection of each.
    """
    size = TRACK_DTYPE.itemsize
    data, seen = bytearray(_BLANK_BYTES * len(known)), measured.tobytes()
    each = zip(known, life, existence, strict=True)
    for k, ((y, x, sigma, vy, vx), (track_id, age, index), exists) in enumerate(each):
        row, begin = k * size, k * N_MEASURED_BYTES
        data[row : row + N_MEASURED_BYTES] = seen[begin : begin + N_MEASURED_BYTES]
        _PACK_KNOWN.pack_into(
            data, row + _AT[_KNOWN[0]], NAN, y, x, NAN, sigma, NAN, vy, vx
        )
        _PACK_LIFE.pack_into(data, row + _AT[_LIFE[0]], age, 0, index)
        _PACK_ID.pack_into(data, row + _AT["track_id"], track_id)
        _PACK_EXISTENCE.pack_into(data, row + _AT["existence"], exists)
    return np.frombuffer(data, TRACK_DTYPE)
