"""A focus measure that knows noise from signal, and its response to defocus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.errors import CalibrationError

LOWEST_RESPONSE = 0.02  # of the peak; below, the curve says nothing
SIGNAL_SIGMAS = 5.0  # contrast power must stand out of the noise's own scatter so far,
LEAST_SIGNAL = 0.2  # and be so large beside the noise power, which is only estimated
_SMOOTH = np.array([1.0, 4.0, 6.0, 4.0, 1.0], dtype=np.float32) / 16
_SLOPE = np.convolve(_SMOOTH, [1.0, 0.0, -1.0])
# White noise of variance 1 after smoothing both axes: its own power, and its slopes'.
_NOISE_LEFT = float(np.sum(_SMOOTH**2) ** 2)
_NOISE_SLOPE = float(2 * np.sum(_SMOOTH**2) * np.sum(_SLOPE**2))


def noise_sd(pixels: Pixels) -> float:
    """Return the noise of single pixels (1 sigma), whatever smooth lies below it.

    The second difference along both axes lets no plane, slope or curve through
    (Immerkaer, Comput. Vis. Image Underst. 64, 300, 1996); the median ignores sharp
    particles.
    """
    bent = np.diff(np.asarray(pixels, dtype=np.float32), n=2, axis=0)
    bent = np.diff(bent, n=2, axis=1)
    return float(np.median(np.abs(_some(bent))) / 0.6745 / 6.0)


def sharpness(pixels: Pixels) -> float:
    """Return a focus measure: gradient power over contrast power, both without noise.

    Independent of gain, offset, noise and the number of particles, and largest in
    focus: for a spot of width s it is about 1 / s^2. 0: there is nothing but noise.
    `pixels` has shape (y, x).
    """
    image = np.asarray(pixels, dtype=np.float32)
    noise_power = noise_sd(image) ** 2
    smooth = _smoothed(_smoothed(image, 0), 1)
    smooth -= np.median(_some(smooth))
    left = noise_power * _NOISE_LEFT
    total = float(np.mean(smooth**2)) - left
    scatter = left * np.sqrt(2 / (image.size * _NOISE_LEFT))
    if total <= max(SIGNAL_SIGMAS * scatter, LEAST_SIGNAL * left):
        return 0.0
    slope_y = smooth[2:, :] - smooth[:-2, :]
    slope_x = smooth[:, 2:] - smooth[:, :-2]
    power = float(np.mean(slope_y**2) + np.mean(slope_x**2))
    return max((power - _NOISE_SLOPE * noise_power) / total, 0.0)


def _some(image: FloatArray) -> FloatArray:
    """Every n-th pixel, some 60 000 of them: enough for a median."""
    every = max(1, int(np.sqrt(image.size) / 250))
    return image[::every, ::every]


def _smoothed(image: FloatArray, axis: int) -> FloatArray:
    """Binomial of five pixels along one axis; the outer two of each side are left."""
    moved = np.moveaxis(image, axis, 0)
    n = len(moved) - 4
    total = sum(w * moved[k : k + n] for k, w in enumerate(_SMOOTH))
    return np.moveaxis(np.asarray(total), 0, axis)


@dataclass(frozen=True, slots=True, eq=False)
class FocusCurve:
    """The measured response: focus measure against distance from focus.

    Parameters
    ----------
    distance_um
        Ascending from 0, shape (n,).
    response
        Share of the peak, falling from 1, shape (n,).
    peak
        The measure in focus.
    """

    distance_um: FloatArray
    response: FloatArray
    peak: float

    @classmethod
    def fit(cls, z_um: FloatArray, measures: FloatArray) -> FocusCurve:
        """Build the curve from a scan, (n,) heights and their focus measures.

        Raises
        ------
        CalibrationError
            The scan does not contain the focus, or nothing is in view.
        """
        z, m = np.asarray(z_um, dtype=float), np.asarray(measures, dtype=float)
        best = int(np.argmax(m))
        if not 0 < best < len(z) - 1 or m[best] <= 1.2 * m.min():
            raise CalibrationError(
                "focus scan: no maximum inside the scanned range; expected particles "
                "in view and a range that contains the focus."
            )
        centre = z[best] + _vertex(z[best - 1 : best + 2], m[best - 1 : best + 2])
        order = np.argsort(np.abs(z - centre))
        distance, share = np.abs(z - centre)[order], m[order] / m.max()
        falling = np.minimum.accumulate(np.minimum(share, 1.0))
        return cls(
            np.concatenate([[0.0], distance]),
            np.concatenate([[1.0], falling]),
            float(m.max()),
        )

    @property
    def range_um(self) -> float:
        """How far from focus the response was measured, to both sides."""
        return float(self.distance_um[-1])

    def is_beyond(self, measure: float) -> bool:
        """Return whether the image is less sharp than anything that was scanned."""
        return measure / self.peak < max(float(self.response[-1]), LOWEST_RESPONSE)

    def distance_at(self, measure: float) -> float:
        """Return the distance from focus (µm, not signed) that a measure implies."""
        share = np.clip(measure / self.peak, LOWEST_RESPONSE, 1.0)
        return float(np.interp(-share, -self.response, self.distance_um))


def _vertex(x: FloatArray, y: FloatArray) -> float:
    """Offset from the middle of three points to the vertex of their parabola."""
    left, right = x[0] - x[1], x[2] - x[1]
    a = (y[0] - y[1]) / left, (y[2] - y[1]) / right
    bend = (a[1] - a[0]) / (right - left)
    if bend >= 0:
        return 0.0
    slope = a[0] - bend * left
    return float(np.clip(-slope / (2 * bend), left, right))
