"""How particles move: mean squared displacement and the diffusion fitted to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lodestar_live.data import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Diffusion:
    """Fit of ``MSD(t) = 4 D t + offset`` to the first lags.

    Lengths are in the caller's unit (µm or px), times in seconds.

    Parameters
    ----------
    coefficient
        D, length²/s, from the mean over all tracks.
    error
        1-sigma of `coefficient`, from the spread between tracks; NaN below 3 tracks.
    offset
        4 times the variance of the localisation, less motion blur; length².
    exponent
        Slope of log MSD over log lag, all lags: 1 diffusion, 2 straight lines.
    n_lags
        Number of lags fitted.
    """

    coefficient: float
    error: float
    offset: float
    exponent: float
    n_lags: int


def mean_squared_displacement(
    frame: FloatArray, position: FloatArray, max_lag: int
) -> tuple[FloatArray, FloatArray]:
    """Return the time-averaged MSD of one track and how many pairs each lag has.

    Parameters
    ----------
    frame
        Frame numbers, shape (n,), ascending, gaps allowed.
    position
        Shape (n, d).
    max_lag
        Largest lag in frames.

    Returns
    -------
    MSD and number of pairs, shape (max_lag,), for lags 1 to `max_lag`; NaN and 0
    where no two frames lie that far apart.
    """
    index = (frame - frame[0]).astype(int)
    dense = np.full((index[-1] + 1, position.shape[1]), np.nan)
    dense[index] = position
    msd, n_pairs = np.full(max_lag, np.nan), np.zeros(max_lag)
    for lag in range(1, min(max_lag, len(dense) - 1) + 1):
        squared = np.sum((dense[lag:] - dense[:-lag]) ** 2, axis=1)
        squared = squared[np.isfinite(squared)]
        n_pairs[lag - 1] = len(squared)
        if len(squared):
            msd[lag - 1] = squared.mean()
    return msd, n_pairs


def ensemble_msd(msds: FloatArray, n_pairs: FloatArray) -> FloatArray:
    """Return the mean over tracks, each weighted by its number of pairs, (max_lag,)."""
    weight = np.where(np.isfinite(msds), n_pairs, 0.0)
    total = weight.sum(axis=0)
    summed = np.where(weight > 0, msds, 0.0) * weight
    mean = np.full(msds.shape[1], np.nan)
    np.divide(summed.sum(axis=0), total, out=mean, where=total > 0)
    return mean


def fit_diffusion(
    msds: FloatArray, n_pairs: FloatArray, lag_s: FloatArray, *, n_lags: int = 4
) -> Diffusion | None:
    """Fit ``MSD = 4 D t + offset`` (two dimensions) to the first `n_lags` lags.

    Short lags carry the least correlated noise (Michalet, PRE 82, 041914, 2010).

    Parameters
    ----------
    msds, n_pairs
        Shape (tracks, lags), from `mean_squared_displacement`.
    lag_s
        Shape (lags,).
    """
    mean = ensemble_msd(msds, n_pairs)
    fit = _line(lag_s[:n_lags], mean[:n_lags])
    if fit is None:
        return None
    slopes = [_line(lag_s[:n_lags], row[:n_lags]) for row in msds]
    each = np.array([line[0] / 4 for line in slopes if line is not None])
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 2 else np.nan
    good = np.isfinite(mean) & (mean > 0)
    power = _line(np.log(lag_s[good]), np.log(mean[good]))
    exponent = power[0] if power else float("nan")
    return Diffusion(fit[0] / 4, error, fit[1], exponent, n_lags)


def _line(x: FloatArray, y: FloatArray) -> Sequence[float] | None:
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < 2:
        return None
    slope, offset = np.polyfit(x[good], y[good], 1)
    return float(slope), float(offset)


@dataclass(frozen=True, slots=True)
class Covariance:
    """Diffusion of one track by the covariance estimator.

    Parameters
    ----------
    coefficient, error
        D and its standard error, length²/time.
    variance
        Of the localisation per axis, length².
    velocity, velocity_error
        Mean velocity per axis, taken out before, and its standard error.
    n_steps
        Steps between successive frames that were used.
    """

    coefficient: float
    error: float
    variance: float
    velocity: tuple[float, ...]
    velocity_error: float
    n_steps: int


def covariance_diffusion(
    frame: FloatArray, position: FloatArray, interval: float, *, blur: float = 0.0
) -> Covariance | None:
    """Estimate diffusion from the covariance of successive steps.

    ``D = <dx²> / 2 dt + <dx_n dx_n+1> / dt`` is unbiased and nearly optimal
    for short tracks (Vestergaard, Blainey & Flyvbjerg, PRE 89, 022726, 2014).

    Parameters
    ----------
    frame
        Frame numbers, shape (n,), ascending; steps over gaps are left out.
    position
        Shape (n, axes).
    interval
        Time between frames.
    blur
        R of the paper: a sixth of the exposure's share of the interval.

    Returns
    -------
    None with fewer than three steps that have a successor.
    """
    step = np.diff(position, axis=0)
    is_single = np.diff(frame) == 1
    pairs = is_single[1:] & is_single[:-1]
    n_steps = int(is_single.sum())
    if pairs.sum() < 3:
        return None
    span = float((frame[-1] - frame[0]) * interval)
    velocity = (position[-1] - position[0]) / span
    step = step - velocity * interval
    squared = float((step[is_single] ** 2).mean())
    product = float((step[1:] * step[:-1])[pairs].mean())
    coefficient, variance = _solve(squared, product, interval, blur)
    for _ in range(3):  # what the mean, taken from the same steps, took along
        own = 2 * coefficient * interval / n_steps
        noise = 2 * variance / n_steps**2
        coefficient, variance = _solve(
            squared + own + noise, product + own - noise, interval, blur
        )
    ratio = variance / (coefficient * interval) - 2 * blur if coefficient > 0 else 0.0
    n_axes = position.shape[1]
    relative = (6 + 4 * ratio + 2 * ratio**2) / n_steps + 4 * (1 + ratio) ** 2 / (
        n_steps**2
    )
    error = abs(coefficient) * float(np.sqrt(max(relative, 0.0) / n_axes))
    return Covariance(
        coefficient,
        error,
        variance,
        tuple(velocity.tolist()),
        float(np.sqrt(max(2 * coefficient * span + 2 * variance, 0.0)) / span),
        n_steps,
    )


def _solve(
    squared: float, product: float, interval: float, blur: float
) -> tuple[float, float]:
    """Return D and the variance of the localisation from the two averages."""
    coefficient = squared / (2 * interval) + product / interval
    return coefficient, blur * squared + (2 * blur - 1) * product
