"""What each track's displacements say of its motion, while it is watched.

From the covariances C_l of displacements l frames apart, per axis, without the drift::

    D = C_0 / 2 + C_1,   localisation variance = -C_1        (per frame, no motion blur)
    MSD(m) = m C_0 + 2 sum_l (m - l) C_l

The first line is the covariance estimator of Vestergaard, Blainey, Flyvbjerg, Physical
Review E 89, 022726 (2014), unbiased and near the Cramér-Rao bound for free diffusion;
the exponent is the slope of log MSD, less the localisation, over log lag.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import MOTION_STATES, FloatArray, Rows
from lodestar_live.linking.learning import LAGS

LEAST_STEPS = 5  # fewer displacements say nothing
STATES = MOTION_STATES


def covariances(steps: FloatArray, max_lag: int = LAGS - 1) -> FloatArray:
    """Return the columns `estimate` needs, from the displacements of one track.

    Parameters
    ----------
    steps
        Shape (n, axes), between successive frames; NaN where a frame is missing.
    max_lag
        Largest lag between two displacements.

    Returns
    -------
    Shape (1, 2 * (max_lag + 1) + axes): sums and counts of products at each lag (mean
    over the axes), and the sum of displacements.
    """
    known = np.asarray(np.isfinite(steps).all(axis=1))
    filled = np.where(known[:, None], steps, 0.0)
    products, counts = np.zeros(max_lag + 1), np.zeros(max_lag + 1)
    for lag in range(min(max_lag + 1, len(steps))):
        products[lag] = (filled[lag:] * filled[: len(steps) - lag]).mean(axis=1).sum()
        counts[lag] = (known[lag:] & known[: len(steps) - lag]).sum()
    return np.concatenate([products, counts, filled.sum(axis=0)])[None]


def estimate(
    sums: FloatArray, n_axes: int, noise_variance: FloatArray | float = np.nan
) -> dict[str, FloatArray]:
    """Return what follows from the sums of `covariances`, one row per track.

    Parameters
    ----------
    sums, n_axes
        From `covariances`, and how many axes they are of.
    noise_variance
        Of a measured position, where the detector knows it: only then is confinement
        told apart from noise in the exponent.

    Returns
    -------
    `n_steps`, `d` and `sigma_d` (length² per frame and axis), `localisation` (1-sigma,
    length), `alpha`, `sigma_alpha`, `drift` (n, axes) and `sigma_drift` (length per
    frame); NaN below `LEAST_STEPS` displacements.
    """
    n_lags = (sums.shape[1] - n_axes) // 2
    products, counts = sums[:, :n_lags], sums[:, n_lags : 2 * n_lags]
    n = counts[:, 0]
    n = np.where(n >= LEAST_STEPS, n, np.nan)
    drift = sums[:, 2 * n_lags :] / n[:, None]
    square = np.square(drift).mean(axis=1)
    c = products / np.where(counts > 0, counts, np.nan) - square[:, None]
    # The squared mean is too large by its own variance, (C_0 + 2 C_1) / n.
    c += (np.maximum(c[:, 0] + 2 * c[:, 1], 0.0) / (n - 3))[:, None]
    d = c[:, 0] / 2 + c[:, 1]
    noise = np.maximum(-c[:, 1], 0.0)
    # The variance of d, written so that it holds for d = 0 as well.
    plain = np.maximum(d, 0.0)
    total = n * n_axes
    variance = (6 * plain**2 + 4 * plain * noise + 2 * noise**2) / total
    variance += 4 * (plain + noise) ** 2 / total**2
    alpha, sigma_alpha = _exponent(
        c, np.where(np.isfinite(noise_variance), noise_variance, noise), n, n_axes
    )
    return {
        "n_steps": np.nan_to_num(n),
        "d": d,
        "sigma_d": np.sqrt(variance),
        "localisation": np.sqrt(noise),
        "alpha": alpha,
        "sigma_alpha": sigma_alpha,
        "drift": drift,
        # Noise at both ends of the whole path, diffusion along it.
        "sigma_drift": np.sqrt(2 * plain / n + 2 * noise / n**2),
    }


def _exponent(
    c: FloatArray, noise: FloatArray, n: FloatArray, n_axes: int
) -> tuple[FloatArray, FloatArray]:
    lag = np.arange(1.0, c.shape[1] + 1)
    weight = np.clip(lag[:, None] - np.arange(c.shape[1]), 0, None)
    weight[:, 1:] *= 2
    msd = np.einsum("ml,nl->nm", weight, c) - 2 * noise[:, None]
    # A track of n steps has n - lag + 1 displacements over a lag, perhaps none.
    n_pairs = n[:, None] - lag + 1
    n_pairs = np.where(n_pairs > 0, n_pairs, np.nan)
    good = (msd > 1e-3 * np.abs(msd[:, :1])) & (n_pairs > 0)
    log_lag, log_msd = np.log(lag), np.log(np.where(good, msd, 1.0))
    # Relative variance of a time-averaged MSD (Qian, Biophys. J. 60, 910, 1991).
    spread = 2 / n_axes * (2 * lag**2 + 1) / (3 * lag * n_pairs)
    trust = np.where(good, 1 / spread, 0.0)
    total = trust.sum(axis=1)
    ok = good.sum(axis=1) >= 3
    total = np.where(ok, total, np.nan)
    centre = np.einsum("nm,m->n", trust, log_lag) / total
    off = log_lag - centre[:, None]
    wide = np.einsum("nm,nm->n", trust, off**2)
    slope = np.einsum("nm,nm->n", trust, off * log_msd) / wide
    # Lags share displacements: about as much is known as from the longest one alone.
    longest = np.where(good, spread, 0.0).max(axis=1)
    longest = np.where(ok, longest, np.nan)
    return slope, np.sqrt(longest) / (log_lag[-1] - log_lag[0])


def fill(rows: Rows, px: dict[str, FloatArray], um: dict[str, FloatArray]) -> None:
    """Write both units' estimates into rows of `SUMMARY_DTYPE`."""
    rows["n_steps"] = px["n_steps"]
    rows["d_px2_per_frame"], rows["sigma_d_px2_per_frame"] = px["d"], px["sigma_d"]
    rows["localisation_px"] = px["localisation"]
    rows["alpha"], rows["sigma_alpha"] = px["alpha"], px["sigma_alpha"]
    rows["drift_y_px_per_frame"] = px["drift"][:, 0]
    rows["drift_x_px_per_frame"] = px["drift"][:, 1]
    rows["sigma_drift_px_per_frame"] = px["sigma_drift"]
    rows["d_um2_per_frame"], rows["sigma_d_um2_per_frame"] = um["d"], um["sigma_d"]
