"""One row per track: how long, how fast, how diffusive, how polarizable."""

from __future__ import annotations

from typing import Any

import numpy as np

from lodestar_live.data import FloatArray, Rows, blank_rows
from lodestar_live.diffusion import (
    covariance_diffusion,
    fit_diffusion,
    mean_squared_displacement,
)
from lodestar_live.recording.classes import read_classes
from lodestar_live.recording.recording import Recording
from lodestar_live.recording.trajectories import Trajectories, read_trajectories

_MSD_LAGS = 12
_LEAST_FRAMES = 5

SUMMARY_COLUMNS = {
    "track_id": ("1", "identity"),
    "position": ("", "stage position"),
    "channel": ("", "channel"),
    "n_frames": ("frames", "frames in which it was measured"),
    "first_frame": ("frames", "first of them"),
    "length": ("{time}", "time from first to last measurement"),
    "diffusion": ("{length}^2/{time}", "D by the covariance estimator"),
    "diffusion_error": ("{length}^2/{time}", "its standard error"),
    "localisation": ("{length}", "localisation error per axis that goes with it"),
    "diffusion_msd": (
        "{length}^2/{time}",
        "D by a line through 4 lags of the MSD, the drift of all tracks taken out",
    ),
    "diffusion_msd_error": ("{length}^2/{time}", "its standard error, about"),
    "alpha": ("1", "slope of log MSD over log lag: 1 diffusion, 2 straight"),
    "velocity_y": ("{length}/{time}", "mean velocity"),
    "velocity_x": ("{length}/{time}", "mean velocity"),
    "velocity_error": ("{length}/{time}", "its standard error per axis"),
    "angular_velocity": ("deg/{time}", "mean, of the unwrapped angle; from x to y"),
    "rotational_diffusion": (
        "rad^2/{time}",
        "D of the unwrapped angle by the covariance estimator",
    ),
    "rotational_diffusion_error": ("rad^2/{time}", "its standard error"),
    "polarizability_um3": ("um^3", "mean over the track"),
    "polarizability_error_um3": ("um^3", "its standard error"),
    "class": (
        "1",
        "by a second channel: 1 co-located, 0 not, -1 undecided; NaN not classified",
    ),
    "z_min_um": ("um", "lowest z measured"),
    "z_max_um": ("um", "highest z measured"),
}
"""Column -> unit (in the run's units of length and time) and meaning."""

_INTEGERS = {"track_id", "n_frames", "first_frame"}


def track_summary(recording: Recording, *, min_frames: int = _LEAST_FRAMES) -> Rows:
    """Return one row per track, columns as in `SUMMARY_COLUMNS`.

    Lengths are in µm of the sample and times in s where the run knows them, else in px
    and frames (`units_of`); NaN where a track is too short or was not measured.

    Parameters
    ----------
    min_frames
        Leave out tracks measured in fewer frames.
    """
    table = summarise(read_trajectories(recording, min_frames=min_frames))
    classes = read_classes(recording.path.parent)
    table["class"] = [
        classes.get(track, np.nan) for track in table["track_id"].tolist()
    ]
    return table


def summarise(runs: Trajectories) -> Rows:
    """Return one row per track of trajectories; see `track_summary`."""
    rows = runs.rows
    ids, starts, lengths = np.unique(
        rows["track_id"], return_index=True, return_counts=True
    )
    table = blank_rows(_dtype(rows), len(ids))
    frames, places = runs.frame_numbers, runs.positions
    interval = runs.interval_s if runs.time_unit == "s" else 1.0
    period_deg = _period_deg(runs)
    still = places - frames[:, None] * _drift_per_frame(rows, frames, places)
    for row, first, n in zip(table, starts.tolist(), lengths.tolist(), strict=True):
        part = slice(first, first + n)
        _describe(row, rows[part])
        row["first_frame"] = frames[first]
        row["length"] = (frames[part][-1] - frames[first]) * interval
        _move(row, frames[part], places[part], interval, _blur(rows[part], runs))
        _spread(row, frames[part], places[part], still[part], interval)
        if period_deg:
            _turn(row, frames[part], rows["angle_deg"][part], interval, period_deg)
    return table


def unwrapped_deg(angle_deg: FloatArray, period_deg: float) -> FloatArray:
    """Return angles that are known modulo a period as one path, shape (n,)."""
    return np.asarray(np.unwrap(angle_deg, period=period_deg))


def _period_deg(runs: Trajectories) -> float:
    """Return after which turn the run's particles look the same; 0 if round."""
    facts = runs.info.model.get("orientation") or {}
    fold = int(facts.get("fold", 0))
    return 360 / fold if fold else 0.0


def _turn(
    row: Any, frame: Any, angle_deg: FloatArray, interval: float, period_deg: float
) -> None:
    """Write how a particle turns; jumps by half a period between frames are lost."""
    is_known = np.isfinite(angle_deg)
    if is_known.sum() < _LEAST_FRAMES:
        return
    path = np.radians(unwrapped_deg(angle_deg[is_known], period_deg))
    found = covariance_diffusion(frame[is_known], path[:, None], interval)
    if found is None:
        return
    row["rotational_diffusion"] = found.coefficient
    row["rotational_diffusion_error"] = found.error
    row["angular_velocity"] = np.degrees(found.velocity[0])


def _drift_per_frame(rows: Rows, frames: Any, places: FloatArray) -> FloatArray:
    """Return the mean motion of all particles from frame to frame, (y, x)."""
    same = np.diff(rows["track_id"]) == 0
    if not same.any():
        return np.zeros(2)
    steps = np.diff(places, axis=0)[same]
    return np.asarray(steps.sum(axis=0) / np.diff(frames)[same].sum())


def _dtype(rows: Rows) -> np.dtype[Any]:
    fields: list[Any] = []
    for name in SUMMARY_COLUMNS:
        if name in ("position", "channel"):
            fields.append((name, rows.dtype[name]))
        else:
            fields.append((name, "i8" if name in _INTEGERS else "f8"))
    return np.dtype(fields)


def _describe(row: Any, track: Rows) -> None:
    for name in ("track_id", "position", "channel"):
        row[name] = track[name][0]
    row["n_frames"] = len(track)
    polarizability = track["polarizability_um3"]
    polarizability = polarizability[np.isfinite(polarizability)]
    if len(polarizability):
        row["polarizability_um3"] = polarizability.mean()
    if len(polarizability) > 1:
        spread = polarizability.std(ddof=1)
        row["polarizability_error_um3"] = spread / np.sqrt(len(polarizability))
    z_um = track["z_um"][np.isfinite(track["z_um"])]
    if len(z_um):
        row["z_min_um"], row["z_max_um"] = z_um.min(), z_um.max()


def _blur(track: Rows, runs: Trajectories) -> float:
    """Return R: a sixth of the share of the interval in which light was collected."""
    exposure_s = float(np.nan_to_num(np.median(track["exposure_ms"]))) / 1e3
    if runs.time_unit != "s" or not exposure_s > 0:
        return 0.0
    return min(exposure_s / runs.interval_s, 1.0) / 6


def _move(row: Any, frame: Any, place: Any, interval: float, blur: float) -> None:
    found = covariance_diffusion(frame, place, interval, blur=blur)
    if found is None:
        return
    row["diffusion"], row["diffusion_error"] = found.coefficient, found.error
    row["localisation"] = np.sqrt(max(found.variance, 0.0))
    row["velocity_y"], row["velocity_x"] = found.velocity
    row["velocity_error"] = found.velocity_error


def _spread(
    row: Any, frame: Any, place: FloatArray, still: FloatArray, interval: float
) -> None:
    """Write what the mean squared displacement says, with and without the drift."""
    n_lags = min(_MSD_LAGS, max(4, int(frame[-1] - frame[0]) // 4))
    lag = np.arange(1, n_lags + 1) * interval
    fits = []
    for path in (place, still):
        msd, n_pairs = mean_squared_displacement(frame, path, n_lags)
        fits.append(fit_diffusion(msd[None], n_pairs[None], lag))
    as_seen, of_its_own = fits
    if as_seen is not None:
        row["alpha"] = as_seen.exponent
    if of_its_own is not None:
        coefficient = of_its_own.coefficient
        row["diffusion_msd"] = coefficient
        relative = _msd_error(of_its_own.n_lags, len(frame))
        row["diffusion_msd_error"] = abs(coefficient) * relative


def _msd_error(n_lags: int, n_frames: int) -> float:
    """Return the relative error of D from the first lags (Qian et al. 1991, free)."""
    return float(np.sqrt(2 * n_lags / (3 * max(n_frames - n_lags, 1))))
