"""The radial spectrum of each particle: all that z and polarizability need.

Propagation multiplies the spectrum by exp(i z (kz - k)), which depends on the lateral
wave number only. Averaged over the azimuth about the particle's position, 64 x 64
pixels therefore become about 100 complex numbers F(kz), and refocusing the particle
becomes 100 phases: thousands of planes cost less than one inverse transform.
The average is taken in real space, at the exact sub-pixel position, followed by a
Hankel transform (a small matrix): F(k) = sum over pixels of (E - 1) J0(k r).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import j0

from lodestar_live.data import FloatArray
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import ComplexImage

ComplexRows = npt.NDArray[np.complex128]
"""Shape (n particles, n waves)."""

_BINS_PER_PX = 8
_PHASE_STEP_RAD = 0.6  # between neighbouring waves at the end of the z range
_FEWEST_WAVES = 96
_TAPER = 0.15  # of the radius, at the rim


class RadialWaves:
    """Measures radial spectra of particles in fields.

    Parameters
    ----------
    optics
        Of the field.
    z_range_um
        Planes that will be asked for; a wide range needs more waves.
    radius_px
        Of the window around a particle.

    Attributes
    ----------
    axial_per_um
        kz - k of each wave, shape (n,), from steepest (most negative) to straight.
    lateral_per_um
        Lateral wave number of each wave.
    weight
        Share of each wave in an integral over the pupil: k dk = kz dkz.
    """

    def __init__(
        self, optics: Optics, z_range_um: tuple[float, float], *, radius_px: int = 32
    ) -> None:
        self.optics, self.radius_px = optics, radius_px
        k = optics.k_per_um
        steepest = np.sqrt(
            max(k**2 - min(optics.cutoff_per_um, optics.k_nyquist_per_um) ** 2, 0.0)
        )
        farthest_um = max(abs(z) for z in z_range_um)
        n = int(np.ceil((k - steepest) * farthest_um / _PHASE_STEP_RAD))
        n = max(n, _FEWEST_WAVES)
        step = (k - steepest) / n
        kz = steepest + (np.arange(n) + 0.5) * step
        self.axial_per_um: FloatArray = kz - k
        self.lateral_per_um: FloatArray = np.sqrt(k**2 - kz**2)
        self.weight: FloatArray = kz * step
        n_bins = radius_px * _BINS_PER_PX + 2
        self._bin_radius_px = np.arange(n_bins) / _BINS_PER_PX
        rim = 1 - self._bin_radius_px / radius_px
        self._taper = np.sin(np.pi / 2 * np.clip(rim / _TAPER, 0, 1)) ** 2
        angle = np.outer(
            self._bin_radius_px, self.lateral_per_um * optics.pixel_size_um
        )
        self._hankel = j0(angle) * self._taper[:, None]
        self._dy, self._dx = _disc(radius_px)
        radius = np.hypot(self._dy, self._dx)[None]
        self._pixels_per_bin = self._bin(radius, np.ones(radius.shape))[0].real

    def spectra(self, field: ComplexImage, positions_px: npt.ArrayLike) -> ComplexRows:
        """Return F of each particle, shape (n, waves), in units of pixels.

        Parameters
        ----------
        field
            Shape (y, x), background 1.
        positions_px
            Shape (n, 2), (y, x). Pixels beyond the frame count as background.
        """
        positions = np.asarray(positions_px, dtype=float).reshape(-1, 2)
        nearest = np.rint(positions).astype(int)
        offset_y, offset_x = (positions - nearest).T
        y = nearest[:, :1] + self._dy
        x = nearest[:, 1:] + self._dx
        height, width = field.shape
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        values = field[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] - 1
        values[~inside] = 0
        radius = np.hypot(self._dy - offset_y[:, None], self._dx - offset_x[:, None])
        spectra: ComplexRows = self._bin(radius, values) @ self._hankel
        return spectra

    def noise_gain(self, functional: npt.NDArray[Any]) -> FloatArray:
        """Return how white pixel noise passes a linear functional of the spectra.

        Parameters
        ----------
        functional
            Shape (n, waves): the estimate is Re sum(functional * F).

        Returns
        -------
        Standard deviation of the estimate per standard deviation of Re and Im.
        """
        in_pixels = functional @ self._hankel.T
        energy: FloatArray = (np.abs(in_pixels) ** 2) @ self._pixels_per_bin
        # The field's noise fills the pupil only, and is denser there.
        optics = self.optics
        filled = np.pi / 4 * (optics.cutoff_per_um / optics.k_nyquist_per_um) ** 2
        gain: FloatArray = np.sqrt(energy / min(filled, 1.0))
        return gain

    def noise_power(self) -> float:
        """Return sum(weight |F|²) of unit white noise (per Re and Im) in a window."""
        each = np.eye(len(self.weight))
        return float(2 * np.sum(self.weight * self.noise_gain(each) ** 2))

    def _bin(self, radius: FloatArray, values: npt.NDArray[Any]) -> ComplexRows:
        """Share each pixel between the two nearest of the fine radial bins."""
        n, n_bins = len(radius), len(self._bin_radius_px)
        place = np.minimum(radius * _BINS_PER_PX, n_bins - 1.001)
        low = place.astype(np.intp)
        upper_share = place - low
        low += (np.arange(n) * n_bins)[:, None]
        total = np.zeros(n * n_bins, complex)
        for index, share in ((low, 1 - upper_share), (low + 1, upper_share)):
            for part, factor in ((values.real, 1), (values.imag, 1j)):
                weights = (part * share).ravel()
                total += factor * np.bincount(
                    index.ravel(), weights, minlength=n * n_bins
                )
        return total.reshape(n, n_bins)


def _disc(radius_px: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    y, x = np.mgrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
    inside = np.hypot(y, x) <= radius_px
    return y[inside], x[inside]
