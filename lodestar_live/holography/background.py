"""Bring the background of a field to exactly 1 + 0j, frame by frame.

Between two frames an interferometer drifts: the phase by a constant (piston) and a
plane (tilt), the light by a gain. All three are slow in space, particles are small and
few, so a plane fitted to the pixels without particles removes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray
from lodestar_live.errors import InputError
from lodestar_live.holography.propagation import ComplexImage

_SAMPLES_PER_SIDE = 40
_MOST_ROUNDS = 5
_CLOSE = 3e-4  # a step this small, across the frame, ends the fit
_OUTLIER = 2.5  # in standard deviations of the background's own noise
_DARK = 1e-3  # of the mean level: no light to divide by


class Background:
    """What every wave is divided by to become a field.

    Parameters
    ----------
    correct_drift
        Remove piston, tilt and gain of every frame.
    running_rate
        Share of each new frame that is worked into the background, e.g. 0.02 for a
        memory of 50 frames; 0: fixed. Pixels with a particle are left out.
    """

    def __init__(
        self, *, correct_drift: bool = True, running_rate: float = 0.0
    ) -> None:
        if not 0 <= running_rate < 1:
            raise InputError(f"running_rate = {running_rate}: expected 0 <= rate < 1.")
        self.correct_drift, self.running_rate = correct_drift, running_rate
        self._inverse: ComplexImage | None = None

    def __call__(self, wave: ComplexImage) -> ComplexImage:
        """Return the field of one wave, complex64, background 1 + 0j."""
        field = wave if self._inverse is None else wave * self._inverse
        if self.correct_drift:
            field = flatten(field)
        elif self._inverse is None:
            field = field / np.mean(field)
        if self.running_rate:
            self._follow(field)
        return field.astype(np.complex64, copy=False)

    def learn(self, waves: Iterable[ComplexImage]) -> None:
        """Average several waves; the piston between them is removed first.

        Particles that move average out; an empty region is better.
        """
        total: ComplexImage | None = None
        for wave in waves:
            if total is None:
                total = wave.astype(np.complex128)
                continue
            piston = complex(np.vdot(wave, total))
            total += wave * (piston / max(abs(piston), 1e-300))
        if total is None:
            raise InputError("background: no hologram given; expected at least one.")
        level = np.abs(total)
        floor = _DARK * float(level.mean())
        if floor == 0:
            raise InputError("background: the holograms are all black.")
        safe = np.where(level > floor, total, floor)
        self._inverse = (level.mean() / safe).astype(np.complex64)

    def conjugate(self) -> None:
        """Change to the other sideband: what was learnt is conjugated."""
        if self._inverse is not None:
            self._inverse = self._inverse.conj()

    def _follow(self, field: ComplexImage) -> None:
        change = field - 1
        change[np.abs(change) > 4 * background_noise(field)] = 0
        factor = 1 / (1 + self.running_rate * change)
        self._inverse = factor if self._inverse is None else self._inverse * factor


def flatten(field: ComplexImage) -> ComplexImage:
    """Divide a field by its own piston, tilt and gain.

    Parameters
    ----------
    field
        Shape (y, x), complex; at least half of it background.

    Returns
    -------
    Same shape, complex64, background 1 + 0j. Without any light it is all 1.
    """
    if not np.any(np.abs(field[::4, ::4]) > 0):
        return np.ones(field.shape, np.complex64)
    piston, slope_y, slope_x = fit_background(field)
    y, x = (np.arange(side) - (side - 1) / 2 for side in field.shape)
    # exp of a plane is an outer product: two short exponentials, one pass.
    rows = np.exp(-piston - slope_y * y).astype(np.complex64)
    columns = np.exp(-slope_x * x).astype(np.complex64)
    result: ComplexImage = field * rows[:, None]
    result *= columns
    return result.astype(np.complex64, copy=False)


def fit_background(field: ComplexImage) -> npt.NDArray[np.complex128]:
    """Fit log(background) = p + a y + b x, with y and x from the centre in pixels.

    Real parts are gain, imaginary parts phase. Pixels that leave the fitted plane by
    more than their neighbours' noise (particles) are left out, in a few rounds.
    """
    strides = [max(1, side // _SAMPLES_PER_SIDE) for side in field.shape]
    y, x = (
        np.arange(0, side, stride) - (side - 1) / 2
        for side, stride in zip(field.shape, strides, strict=True)
    )
    samples = field[:: strides[0], :: strides[1]]
    tilts = [_mean_step(samples, axis) / strides[axis] for axis in (0, 1)]
    coefficients = np.array([0, 1j * tilts[0], 1j * tilts[1]])
    level = np.mean(samples * _plane_wave(-coefficients, y, x))
    coefficients[0] = np.log(level) if level != 0 else 0  # the piston of all pixels
    extent = np.array([1.0, y[-1], x[-1]])
    for _ in range(_MOST_ROUNDS):
        step = _fit_plane(samples * _plane_wave(-coefficients, y, x) - 1, y, x)
        coefficients += step
        if np.abs(step * extent).max() < _CLOSE:
            break
    return coefficients


def _plane_wave(
    coefficients: npt.NDArray[np.complex128], y: FloatArray, x: FloatArray
) -> ComplexImage:
    piston, slope_y, slope_x = coefficients
    rows = np.exp(piston + slope_y * y)
    wave: ComplexImage = rows[:, None] * np.exp(slope_x * x)
    return wave


def _mean_step(samples: ComplexImage, axis: int) -> float:
    """Return the mean phase step between neighbouring samples."""
    before, after = (
        (samples[:-1], samples[1:]) if axis == 0 else (samples[:, :-1], samples[:, 1:])
    )
    return float(np.angle(np.sum(before.conj() * after)))


def _fit_plane(
    residual: ComplexImage, y: FloatArray, x: FloatArray
) -> npt.NDArray[np.complex128]:
    """Fit a complex plane to the pixels that show background (normal equations)."""
    distance = np.abs(residual)
    # Rayleigh: median = 1.177 sigma per component.
    limit = max(_OUTLIER * _median(distance) / 1.177, 1e-12)
    kept = (distance <= limit).astype(np.float64)
    rows, columns = kept.sum(axis=1), kept.sum(axis=0)
    sum_y, sum_x, sum_yx = rows @ y, columns @ x, y @ kept @ x
    matrix = np.array(
        [
            [rows.sum(), sum_y, sum_x],
            [sum_y, rows @ y**2, sum_yx],
            [sum_x, sum_yx, columns @ x**2],
        ]
    )
    values = residual * kept
    by_row = values.sum(axis=1)
    right = np.array([by_row.sum(), by_row @ y, values.sum(axis=0) @ x])
    plane: npt.NDArray[np.complex128] = np.linalg.solve(matrix, right)
    return plane


def _median(values: FloatArray) -> float:
    """Return the upper median: a partition, seven times faster than `np.median`."""
    return float(np.partition(values, values.size // 2, axis=None)[values.size // 2])


def background_noise(field: ComplexImage) -> float:
    """Return the noise of a flat field: standard deviation of Re and of Im per pixel.

    A median, so that particles on up to a third of the pixels hardly matter.
    """
    strides: Any = tuple(max(1, side // 128) for side in field.shape)
    distance = np.abs(field[:: strides[0], :: strides[1]] - 1)
    return _median(distance) / 1.177
