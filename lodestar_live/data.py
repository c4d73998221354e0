"""The four nouns every room shares: Frame, Detections, Tracks, Update.

Arrays are ordered (z, y, x), x last; the centre of pixel [0, 0] is (0.0, 0.0).
NaN means "not measured". Instants `t_s` are monotonic seconds since the run's start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lodestar_live import channels

Rows = npt.NDArray[np.void]
FloatArray = npt.NDArray[np.floating[Any]]
Pixels = npt.NDArray[Any]

_MEASURED = channels.columns()
_LINKED = [
    ("track_id", "i8"),
    # From all frames so far: more precise than the detection of this one.
    ("z_filtered_um", "f8"),
    ("y_filtered_px", "f8"),
    ("x_filtered_px", "f8"),
    ("sigma_z_filtered_um", "f8"),
    ("sigma_filtered_px", "f8"),
    ("vz_um_per_frame", "f8"),
    ("vy_px_per_frame", "f8"),
    ("vx_px_per_frame", "f8"),
    ("age_frames", "i8"),
    ("missed_frames", "i8"),
    ("detection_index", "i8"),
    ("existence", "f8"),  # probability that the particle is real and still there
    ("model_version", "i4"),  # counts the models swapped in during a run, from 0
    ("y_um", "f8"),  # in the sample: stage and calibration taken out, see geometry
    ("x_um", "f8"),
]
DETECTION_DTYPE = np.dtype(_MEASURED)
TRACK_DTYPE = np.dtype(_MEASURED + _LINKED)

MOTION_STATES = ("still", "brownian", "directed")
SUMMARY_DTYPE = np.dtype(
    [
        ("track_id", "i8"),
        ("first_frame", "i8"),
        ("last_frame", "i8"),  # last seen
        ("n_seen", "i8"),
        ("n_steps", "f8"),  # displacements between successive frames
        ("interval_s", "f8"),  # usual time between frames
        ("d_px2_per_frame", "f8"),
        ("sigma_d_px2_per_frame", "f8"),
        ("localisation_px", "f8"),  # 1-sigma per axis, as the motion itself shows it
        ("alpha", "f8"),
        ("sigma_alpha", "f8"),
        ("drift_y_px_per_frame", "f8"),
        ("drift_x_px_per_frame", "f8"),
        ("sigma_drift_px_per_frame", "f8"),
        ("d_um2_per_frame", "f8"),  # along the light
        ("sigma_d_um2_per_frame", "f8"),
        ("state", "i1"),  # index into `MOTION_STATES`; -1: not known
        ("p_state", "f8"),
    ]
)
"""What is known of each track's motion while it is watched, with 1-sigma."""
SUMMARY_UNITS: Mapping[str, str] = {
    "track_id": "1", "first_frame": "frames", "last_frame": "frames",
    "n_seen": "frames", "n_steps": "1", "interval_s": "s",
    "d_px2_per_frame": "px^2/frame", "sigma_d_px2_per_frame": "px^2/frame",
    "localisation_px": "px", "alpha": "1", "sigma_alpha": "1",
    "drift_y_px_per_frame": "px/frame", "drift_x_px_per_frame": "px/frame",
    "sigma_drift_px_per_frame": "px/frame",
    "d_um2_per_frame": "um^2/frame", "sigma_d_um2_per_frame": "um^2/frame",
    "state": "1", "p_state": "1",
}  # fmt: skip

UNITS: Mapping[str, str] = {
    **channels.units(),
    "z_filtered_um": "um", "y_filtered_px": "px", "x_filtered_px": "px",
    "sigma_z_filtered_um": "um", "sigma_filtered_px": "px",
    "track_id": "1", "vz_um_per_frame": "um/frame", "vy_px_per_frame": "px/frame",
    "vx_px_per_frame": "px/frame", "age_frames": "frames",
    "missed_frames": "frames", "detection_index": "1", "existence": "1",
    "model_version": "1", "y_um": "um", "x_um": "um",
}  # fmt: skip


class Flag(IntFlag):
    """What a reader should know about one detection (bits of `flags`)."""

    BORDER = 1  # so close to the frame's edge that the position may be biased
    SATURATED = 2  # camera counts clipped inside the particle
    Z_AT_EDGE = 4  # the z search ended at the end of its range
    UNLIKE = (
        16  # votes, or with the shape filter on looks, unlike the training particle
    )
    POLARIZABILITY_DISAGREES = 32  # scale channel and integrated phase differ


class StagePosition(NamedTuple):
    """Stage and focus drive position in µm; NaN where unknown."""

    z_um: float = float("nan")
    y_um: float = float("nan")
    x_um: float = float("nan")


UNKNOWN_POSITION = StagePosition()


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image with its index, times and stage position at exposure.

    Parameters
    ----------
    index
        Running number, from 0, of frames in this run; images that the source is known
        to have lost keep their numbers, so it may jump.
    pixels
        Shape (y, x): camera counts, or a complex64 field once retrieved.
    t_exposure_s, t_arrival_s
        Middle of the exposure and arrival in the hook, seconds since the run's start.
    stage_um
        Stage position at exposure.
    pixel_size_um
        In the sample plane; NaN if the microscope does not know it.
    origin_px
        (y, x) of pixel [0, 0] on the sensor (the camera's ROI offset).
    exposure_ms, bit_depth
        NaN / None when not reported.
    axes
        The source's own axes of this image, e.g. ``{"time": 3}``.
    position, time_index, z_index
        Where in a multi-dimensional acquisition the image belongs: name of the stage
        position ("" if there is one only), time point and slice (None: no such axis).
    binning
        Camera pixels per image pixel and side.
    source_number
        The number the source itself gave this image; None if it gives none.
    sigma_t_s
        1-sigma uncertainty of `t_exposure_s`; NaN where only the arrival is known.
    is_recorded
        `t_exposure_s` counts on a recording's own time axis, not on this run's clock;
        NaN: the recording has none.
    planned_axes
        Those of "XYZ" that the host itself sends to a place before this frame.
    """

    index: int
    pixels: Pixels
    t_exposure_s: float = 0.0
    t_arrival_s: float = 0.0
    stage_um: StagePosition = UNKNOWN_POSITION
    pixel_size_um: float = float("nan")
    origin_px: tuple[int, int] = (0, 0)
    exposure_ms: float = float("nan")
    bit_depth: int | None = None
    camera: str = ""
    channel: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    position: str = ""
    time_index: int | None = None
    z_index: int | None = None
    binning: int = 1
    source_number: int | None = None
    sigma_t_s: float = float("nan")
    planned_axes: str = ""
    is_recorded: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Particle candidates of one frame; `rows` has dtype `DETECTION_DTYPE`."""

    rows: Rows

    def __post_init__(self) -> None:
        self.rows.flags.writeable = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def positions_px(self) -> FloatArray:
        """Positions, shape (n, 2), (y, x)."""
        return np.column_stack([self.rows["y_px"], self.rows["x_px"]])

    @classmethod
    def empty(cls) -> Detections:
        """Return detections of a frame without particles."""
        return cls(blank_rows(DETECTION_DTYPE, 0))

    @classmethod
    def from_positions(
        cls,
        yx: npt.ArrayLike,
        sigma_px: npt.ArrayLike | None = None,
        score: npt.ArrayLike = 1.0,
    ) -> Detections:
        """Wrap positions found elsewhere.

        Parameters
        ----------
        yx
            Shape (n, 2), px.
        sigma_px
            1-sigma uncertainty per position, scalar or (n,); None: not measured.
        score
            Scalar or (n,).
        """
        positions = np.asarray(yx, dtype=float).reshape(-1, 2)
        rows = blank_rows(DETECTION_DTYPE, len(positions))
        rows["y_px"], rows["x_px"] = positions[:, 0], positions[:, 1]
        rows["score"] = score
        if sigma_px is not None:
            rows["sigma_px"] = sigma_px
        return cls(rows)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Live state of every identity in one frame; `rows` has dtype `TRACK_DTYPE`."""

    rows: Rows

    def __post_init__(self) -> None:
        self.rows.flags.writeable = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def positions_px(self) -> FloatArray:
        """Positions, shape (n, 2), (y, x)."""
        return np.column_stack([self.rows["y_px"], self.rows["x_px"]])

    @classmethod
    def empty(cls) -> Tracks:
        """Return the tracks of a frame in which none is alive."""
        return cls(blank_rows(TRACK_DTYPE, 0))


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth remembering that is not a position.

    `kind` is one word with dots (``track.birth``, ``stage.refused``, ``frame.failed``);
    `details` holds JSON-safe values only.
    """

    kind: str
    t_s: float
    frame: int = -1
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """Where every received frame went; see `is_balanced`."""

    received: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0  # arrived while the model was still in training
    in_flight: int = 0
    # Known from the source's own numbers. The first two are among the dropped ones;
    # lost frames never arrived, so they are in no balance.
    duplicated: int = 0
    disordered: int = 0
    lost: int = 0

    @property
    def is_balanced(self) -> bool:
        """True when no frame is unaccounted for."""
        return self.received == (
            self.processed + self.dropped + self.failed + self.waiting + self.in_flight
        )


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """The message per processed frame: frame facts, detections, tracks.

    `summary`: what is known of each track's motion, rows of `SUMMARY_DTYPE`; None in
    most frames, since it is made at most twice a second.
    """

    frame: Frame
    detections: Detections
    tracks: Tracks
    events: tuple[Event, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    counts: Counts = Counts()
    degraded: bool = False
    summary: Rows | None = None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run is made of; told to every sink before the first frame.

    All values are JSON-safe. `started` is the wall clock (ISO 8601, UTC), noted once.
    `source` says where the images came from: `path` of a recording, and `time_axis`
    (``camera``, ``metadata``, ``fps`` or ``none``).
    """

    run: str
    started: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    pixel_size_um: float = float("nan")
    source: Mapping[str, Any] = field(default_factory=dict)


def blank_rows(dtype: np.dtype[Any], n: int) -> Rows:
    """Return `n` rows in which every float is NaN and every integer 0."""
    return np.full(n, _blank(dtype), dtype)


@cache
def _blank(dtype: np.dtype[Any]) -> Rows:
    row = np.zeros((), dtype)
    for name in dtype.names or ():
        if dtype[name].kind == "f":
            row[name] = np.nan
    return row
