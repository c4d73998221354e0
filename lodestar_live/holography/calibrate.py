"""z calibration from a focus sweep of a particle that sticks to the glass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.errors import CalibrationError

_FEWEST_STEPS = 5
_LEAST_SPAN_UM = 1.0
_LARGEST_ERROR = 0.05  # of the slope


@dataclass(frozen=True, slots=True)
class ZCalibration:
    """How refocused distances relate to the focus drive.

    Parameters
    ----------
    z_scale
        µm the focus drive must travel per µm refocused, with its sign. With it,
        ``z_um = z_scale * distance`` is the move that brings a particle into focus.
        Its size is about n_immersion / n_medium seen from the drive; 1 / z_scale is
        what the drive's µm are worth in the medium.
    z_offset_um
        Makes z_um = 0 where the sweep said the particle is sharp; 0 unless a focus
        position was given.
    error
        1-sigma of `z_scale`.
    rms_um
        Scatter about the line, drive µm.
    n
        Steps that took part.
    """

    z_scale: float
    z_offset_um: float
    error: float
    rms_um: float
    n: int


def calibrate_z(
    drive_um: npt.ArrayLike,
    distance_um: npt.ArrayLike,
    *,
    focus_um: float | None = None,
) -> ZCalibration:
    """Fit the line between focus drive and refocused distance, outliers left out.

    Parameters
    ----------
    drive_um
        Readings of the focus drive, shape (n,).
    distance_um
        Refocusing distance of the stuck particle at each (`autofocus`), NaN where it
        failed, shape (n,).
    focus_um
        Drive reading at which the particle looks sharp by eye, if known.

    Raises
    ------
    CalibrationError
        Too few or too close steps, no linear relation, or the particle moved.

    Examples
    --------
    >>> result = calibrate_z([0, 1, 2, 3, 4, 5], [2.5, 1.5, 0.5, -0.5, -1.5, -2.5])
    >>> result.z_scale
    1.0
    """
    drive, distance = _usable(drive_um, distance_um)
    kept = _on_the_line(drive, distance)
    slope, offset = (float(v) for v in np.polyfit(drive[kept], distance[kept], 1))
    residual = distance[kept] - (slope * drive[kept] + offset)
    n = int(kept.sum())
    rms = float(np.sqrt(np.sum(residual**2) / max(n - 2, 1)))
    error = rms / (float(np.std(drive[kept])) * np.sqrt(n)) / abs(slope)
    if error > _LARGEST_ERROR or n < max(_FEWEST_STEPS, len(drive) // 2):
        raise CalibrationError(
            f"z calibration: slope {slope:.3f} ± {100 * error:.0f} % from {n} of "
            f"{len(drive)} steps; expected below {100 * _LARGEST_ERROR:.0f} %. The "
            "particle moved, or another one came near: choose a stuck, lone one."
        )
    z_scale = -1 / slope
    in_focus_um = 0.0 if focus_um is None else slope * focus_um + offset
    return ZCalibration(
        z_scale=z_scale,
        z_offset_um=-z_scale * in_focus_um,
        error=abs(z_scale) * error,
        rms_um=abs(z_scale) * rms,
        n=n,
    )


Values = npt.NDArray[np.float64]


def _usable(
    drive_um: npt.ArrayLike, distance_um: npt.ArrayLike
) -> tuple[Values, Values]:
    """Return the steps at which both are known, refuse too few or too close ones."""
    drive = np.asarray(drive_um, dtype=float)
    distance = np.asarray(distance_um, dtype=float)
    good = np.isfinite(drive) & np.isfinite(distance)
    drive, distance = drive[good], distance[good]
    if len(drive) < _FEWEST_STEPS or np.ptp(drive) < _LEAST_SPAN_UM:
        raise CalibrationError(
            f"z calibration: {len(drive)} usable steps over "
            f"{np.ptp(drive) if len(drive) else 0:.2f} µm; expected at least "
            f"{_FEWEST_STEPS} over {_LEAST_SPAN_UM} µm. Sweep farther."
        )
    return drive, distance


def _on_the_line(drive: Values, distance: Values) -> npt.NDArray[np.bool_]:
    """Return which steps lie on the line that most of them agree on."""
    slope = _median_slope(drive, distance)
    if slope == 0:
        raise CalibrationError(
            "z calibration: the refocused distance does not change with the drive. "
            "Is the particle stuck to the glass, and does the drive move?"
        )
    offset = float(np.median(distance - slope * drive))
    residual = np.abs(distance - (slope * drive + offset))
    limit = max(5 * 1.4826 * float(np.median(residual)), 1e-6)
    return np.asarray(residual <= limit)


def _median_slope(x: Values, y: Values) -> float:
    """Theil and Sen: the median slope of all pairs; a third may be outliers."""
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] != x[first]
    rise, run = (y[second] - y[first])[apart], (x[second] - x[first])[apart]
    return float(np.median(rise / run))
