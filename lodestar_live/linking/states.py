"""The live tracks as one structured array, and how it is read as rows."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import (
    DETECTION_DTYPE,
    TRACK_DTYPE,
    Detections,
    FloatArray,
    Rows,
    blank_rows,
)
from lodestar_live.linking.gate import IntArray
from lodestar_live.linking.learning import LAGS
from lodestar_live.motion import Belief

# Image plane (px) and depth (µm) have beliefs of their own: units never mix.
STATE_DTYPE = np.dtype(
    [
        ("track_id", "i8"),
        ("born", "i8"),  # frame of birth
        ("seen", "i8"),  # frame last seen
        ("n_seen", "i8"),
        ("detection_index", "i8"),
        ("existence", "f8"),
        ("is_confirmed", "?"),
        ("measured", DETECTION_DTYPE),  # the last detection
        ("position_px", "f8", 2),
        ("velocity_px", "f8", 2),
        ("variance_px", "f8", 3),  # position, position with velocity, velocity
        ("displacements_px", "f8", (LAGS, 2)),  # newest first, NaN where missed
        ("position_um", "f8", 1),
        ("velocity_um", "f8", 1),
        ("variance_um", "f8", 3),
        ("displacements_um", "f8", (LAGS, 1)),
    ]
)
MOST_DETECTIONS = 100_000  # linked in one frame; more is a broken detector
AXES = {"px": ("y_px", "x_px"), "um": ("z_um",)}


def measured_position(rows: Rows, unit: str) -> FloatArray:
    """Return what detections say in the plane (n, 2) or along the light (n, 1)."""
    return np.column_stack([rows[name] for name in AXES[unit]])


def measured_variance(rows: Rows, unit: str) -> FloatArray:
    """Return the detector's own localisation variance, NaN where it gave none."""
    sigma: FloatArray = rows["sigma_px" if unit == "px" else "sigma_z_um"]
    return np.where(sigma > 0, sigma, np.nan) ** 2


def belief(states: Rows, unit: str) -> Belief:
    """Return the belief stored in `states` for one unit."""
    variance = states[f"variance_{unit}"]
    return Belief(
        states[f"position_{unit}"],
        states[f"velocity_{unit}"],
        variance[:, 0],
        variance[:, 1],
        variance[:, 2],
    )


def store(
    states: Rows, unit: str, new: Belief, where: IntArray | slice = slice(None)
) -> None:
    """Write a belief into `states[where]`."""
    states[f"position_{unit}"][where] = new.position
    states[f"velocity_{unit}"][where] = new.velocity
    variance = states[f"variance_{unit}"]
    variance[where, 0] = new.variance
    variance[where, 1] = new.covariance
    variance[where, 2] = new.velocity_variance


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
    y, x = rows["y_px"][finite], rows["x_px"][finite]
    order = finite[np.lexsort((x, y))]
    same = (np.diff(rows["y_px"][order]) == 0) & (np.diff(rows["x_px"][order]) == 0)
    if same.any():  # rare, and then every column decides
        keys = [rows[name][finite] for name in reversed(DETECTION_DTYPE.names or ())]
        order = finite[np.lexsort(keys)]
    return order, rows[order]


def track_rows(states: Rows, frame_index: int) -> Rows:
    """Return the tracks as the world sees them: measured when seen, else predicted."""
    out = blank_rows(TRACK_DTYPE, len(states))
    for name in DETECTION_DTYPE.names or ():
        out[name] = states["measured"][name]
    missed = np.flatnonzero(states["detection_index"] < 0)
    out["y_px"][missed] = states["position_px"][missed, 0]
    out["x_px"][missed] = states["position_px"][missed, 1]
    out["z_um"][missed] = states["position_um"][missed, 0]
    out["sigma_px"][missed] = np.sqrt(states["variance_px"][missed, 0])
    out["sigma_z_um"][missed] = np.sqrt(states["variance_um"][missed, 0])
    out["track_id"] = states["track_id"]
    out["vy_px_per_frame"] = states["velocity_px"][:, 0]
    out["vx_px_per_frame"] = states["velocity_px"][:, 1]
    out["vz_um_per_frame"] = states["velocity_um"][:, 0]
    out["age_frames"] = frame_index - states["born"] + 1
    out["missed_frames"] = frame_index - states["seen"]
    out["detection_index"] = states["detection_index"]
    out["existence"] = states["existence"]
    return out
