"""Scattering of a plane wave by a sphere (Mie), own code in numpy and scipy.

Bohren and Huffman's notation: amplitudes S1 (polarised across the scattering plane)
and S2 (in it), size parameter x = k a, relative index m. Time runs as exp(-iωt).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import spherical_jn, spherical_yn

ComplexArray = npt.NDArray[np.complex128]


def coefficients(x: float, m: float) -> tuple[ComplexArray, ComplexArray]:
    """Return the Mie coefficients a_n and b_n, n = 1, 2, … until they vanish."""
    n = np.arange(1, int(x + 4.05 * x ** (1 / 3) + 2) + 2)
    psi, psi_d = _riccati(n, x)
    chi, chi_d = _riccati_second(n, x)
    xi, xi_d = psi + 1j * chi, psi_d + 1j * chi_d
    inner, inner_d = _riccati(n, m * x)
    a = (m * inner * psi_d - psi * inner_d) / (m * inner * xi_d - xi * inner_d)
    b = (inner * psi_d - m * psi * inner_d) / (inner * xi_d - m * xi * inner_d)
    return a.astype(complex), b.astype(complex)


def amplitudes(
    cosines: npt.ArrayLike, x: float, m: float
) -> tuple[ComplexArray, ComplexArray]:
    """Return S1 and S2 at the cosines of the scattering angle.

    Parameters
    ----------
    cosines
        Shape (n,).
    x
        Size parameter, 2π n_medium radius / λ.
    m
        Index of the sphere over that of the medium.
    """
    a, b = coefficients(x, m)
    mu = np.asarray(cosines, dtype=float)
    previous, pi_n = np.zeros_like(mu), np.ones_like(mu)
    s1 = np.zeros(mu.shape, complex)
    s2 = np.zeros(mu.shape, complex)
    for n, (a_n, b_n) in enumerate(zip(a, b, strict=True), start=1):
        tau_n = n * mu * pi_n - (n + 1) * previous
        weight = (2 * n + 1) / (n * (n + 1))
        s1 += weight * (a_n * pi_n + b_n * tau_n)
        s2 += weight * (a_n * tau_n + b_n * pi_n)
        previous, pi_n = pi_n, ((2 * n + 1) * mu * pi_n - (n + 1) * previous) / n
    return s1, s2


def extinction_um2(
    radius_um: float, n_particle: float, *, k_per_um: float, n_medium: float
) -> float:
    """Return the extinction cross-section, 4π/k² Re S(0)."""
    s1, _ = amplitudes([1.0], k_per_um * radius_um, n_particle / n_medium)
    return float(4 * np.pi / k_per_um**2 * s1[0].real)


def polarizability_um3(
    radius_um: float, n_particle: float, *, k_per_um: float, n_medium: float
) -> complex:
    """Return the exact polarizability, 4π i S(0) / k³, real part positive if denser."""
    s1, _ = amplitudes([1.0], k_per_um * radius_um, n_particle / n_medium)
    return complex(4j * np.pi * s1[0] / k_per_um**3)


def _riccati(
    n: npt.NDArray[np.int_], x: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    value = spherical_jn(n, x)
    return x * value, value + x * spherical_jn(n, x, derivative=True)


def _riccati_second(
    n: npt.NDArray[np.int_], x: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    value = spherical_yn(n, x)
    return x * value, value + x * spherical_yn(n, x, derivative=True)
