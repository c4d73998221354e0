"""Polarizability of each particle from the integrated phase, absolute.

The forward amplitude of a scatterer is the integral of E - 1 over a plane:
``alpha = (2 / k) Im ∫ (E - 1) dA`` in µm³, with no calibration. The integral is the
spectrum at k = 0; taking the low frequencies after refocusing, weighted with a
Gaussian, keeps the neighbours and the noise of the far pixels out.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.errors import InputError
from lodestar_live.holography.radial import ComplexRows, RadialWaves

LOW_WAVES_PER_UM = 2.0  # width of the Gaussian: features above about 1 µm count


def polarizability_um3(
    waves: RadialWaves,
    spectra: ComplexRows,
    z_um: FloatArray,
    *,
    noise: float = float("nan"),
) -> tuple[FloatArray, FloatArray]:
    """Return the real polarizability of each particle and its uncertainty [µm³].

    Parameters
    ----------
    waves, spectra
        From `RadialWaves.spectra`, shape (n, waves).
    z_um
        Where each particle is, shape (n,); to about 0.1 µm.
    noise
        Of the field, per Re and Im and pixel.
    """
    low = waves.weight * np.exp(-((waves.lateral_per_um / LOW_WAVES_PER_UM) ** 2) / 2)
    turn = np.exp(1j * np.asarray(z_um)[:, None] * waves.axial_per_um)
    functional = turn * (low / low.sum())
    scale = 2 / waves.optics.k_per_um * waves.optics.pixel_size_um**2
    alpha: FloatArray = scale * np.sum(functional * spectra, axis=1).imag
    sigma: FloatArray = scale * noise * waves.noise_gain(functional)
    return alpha, sigma


def clausius_mossotti_um3(
    radius_um: float, *, n_particle: float, n_medium: float
) -> float:
    """Return the polarizability of a small sphere, 3 V (n²-m²) / (n²+2m²).

    Examples
    --------
    >>> round(clausius_mossotti_um3(0.228, n_particle=1.58, n_medium=1.33), 4)
    0.018
    """
    volume = 4 / 3 * np.pi * radius_um**3
    n2, m2 = n_particle**2, n_medium**2
    return float(3 * volume * (n2 - m2) / (n2 + 2 * m2))


def radius_from_polarizability_um(
    alpha_um3: float, *, n_particle: float, n_medium: float
) -> float:
    """Return the radius of the sphere with this polarizability."""
    unit = clausius_mossotti_um3(1.0, n_particle=n_particle, n_medium=n_medium)
    if unit == 0 or alpha_um3 / unit < 0:
        raise InputError(
            f"polarizability {alpha_um3} µm³: no sphere of index {n_particle} in "
            f"{n_medium} has it."
        )
    return float((alpha_um3 / unit) ** (1 / 3))


def average_um3(alpha_um3: FloatArray, sigma_um3: FloatArray) -> tuple[float, float]:
    """Return the weighted mean along a trajectory and its uncertainty.

    The larger of the expected and the observed scatter counts: slow drift makes
    neighbouring frames agree less than their own noise says.
    """
    good = np.isfinite(alpha_um3) & np.isfinite(sigma_um3) & (sigma_um3 > 0)
    if not good.any():
        return float("nan"), float("nan")
    alpha, weight = alpha_um3[good], sigma_um3[good] ** -2.0
    mean = float(np.sum(weight * alpha) / weight.sum())
    expected = weight.sum() ** -0.5
    if len(alpha) < 2:
        return mean, float(expected)
    chi2 = float(np.sum(weight * (alpha - mean) ** 2) / (len(alpha) - 1))
    return mean, float(expected * max(1.0, chi2) ** 0.5)
