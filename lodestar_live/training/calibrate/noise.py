"""The snapshot's noise as it is: how its pixels hang together.

Smoothed, resampled or median-filtered images have noise whose neighbours agree. Its
blobs look like faint particles, far more often than white noise does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.training.particle.measure import Particle
from lodestar_live.training.particle.suspects import Suspects, distance_from

_PATCH_PX, _LAG_PX = 24, 8
_CLEAR_RADII = 2.0  # a quiet patch is so far from all that may be particles
_LEAST_PATCHES = 4  # fewer say nothing: then noise counts as white
_QUIETEST = 0.25  # share of the patches that are surely noise alone
_EVEN = 1.6  # times their variance: so much have others, if noise is even
_WHITE = 0.08  # correlation of neighbours up to which noise counts as white


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTexture:
    """Gaussian noise with a measured autocovariance.

    Parameters
    ----------
    covariance
        (2 k + 1, 2 k + 1), camera counts squared, by lag (y, x) from -k to k.
    """

    covariance: FloatArray

    @classmethod
    def of(cls, image: Pixels, suspects: Suspects, particle: Particle) -> Self | None:
        """Measure the noise between the suspects of an image; None if it is white.

        What varies over more than a patch is background, not noise.
        """
        patches = _quiet_patches(
            np.asarray(image, float), suspects, _CLEAR_RADII * particle.radius_px
        )
        if not len(patches):
            return None
        measured = np.mean([_autocovariance(patch) for patch in patches], axis=0)
        covariance = _with_what_was_flattened(measured)
        middle = covariance[_LAG_PX, _LAG_PX]
        beside = covariance[_LAG_PX, _LAG_PX + 1] + covariance[_LAG_PX + 1, _LAG_PX]
        if middle <= 0 or beside / 2 <= _WHITE * middle:
            return None
        lag = np.arange(-_LAG_PX, _LAG_PX + 1) / (_LAG_PX + 1)
        taper = np.cos(np.pi / 2 * np.minimum(np.hypot(*np.meshgrid(lag, lag)), 1)) ** 2
        return cls(covariance * taper)

    def draw(self, side_px: int, rng: np.random.Generator) -> FloatArray:
        """Return noise of mean 0, (side, side), camera counts."""
        kernel = np.zeros((side_px, side_px))
        k = len(self.covariance) // 2
        kernel[: 2 * k + 1, : 2 * k + 1] = self.covariance
        power = np.fft.fft2(np.roll(kernel, (-k, -k), (0, 1))).real
        white = np.fft.fft2(rng.normal(size=kernel.shape))
        return np.asarray(np.fft.ifft2(white * np.sqrt(np.clip(power, 0, None))).real)


def _quiet_patches(
    image: FloatArray, suspects: Suspects, clear_px: float
) -> list[FloatArray]:
    """Return patches without particles, without the rough ones."""
    away = distance_from(suspects.positions_px[suspects.may_be], image.shape)
    patches = []
    for top in range(0, image.shape[0] - _PATCH_PX + 1, _PATCH_PX // 2):
        for left in range(0, image.shape[1] - _PATCH_PX + 1, _PATCH_PX // 2):
            window = slice(top, top + _PATCH_PX), slice(left, left + _PATCH_PX)
            if away[window].min() > clear_px:
                patches.append(_flat(image[window]))
    if len(patches) < _LEAST_PATCHES:
        return []
    power = np.array([patch.var() for patch in patches])
    most = _EVEN * np.quantile(power, _QUIETEST)  # walls and dirt are no noise
    return [patch for patch, p in zip(patches, power, strict=True) if p <= most]


def _flat(patch: FloatArray) -> FloatArray:
    """Return a patch without its mean and slopes."""
    y, x = np.indices(patch.shape) - (len(patch) - 1) / 2
    flat = patch - patch.mean()
    for slope in (y, x):
        flat = flat - slope * (flat * slope).sum() / (slope**2).sum()
    return np.asarray(flat)


def _with_what_was_flattened(measured: FloatArray) -> FloatArray:
    """Return a covariance with the share of it that `_flat` took out of a patch.

    That share is the same at every short lag, and follows from the covariance itself.
    """
    y, x = np.indices((_PATCH_PX, _PATCH_PX)) - (_PATCH_PX - 1) / 2
    planes = [plane / np.linalg.norm(plane) for plane in (np.ones_like(y), y, x)]
    overlap = _PATCH_PX - np.abs(np.arange(-_LAG_PX, _LAG_PX + 1))
    pairs = np.outer(overlap, overlap)  # of pixels, by lag
    taken = sum(_autocovariance(plane) * pairs for plane in planes)
    covariance = measured
    for _ in range(4):
        covariance = measured + (covariance * taken).sum() / _PATCH_PX**2
    return covariance


def _autocovariance(patch: FloatArray) -> FloatArray:
    """Return the mean product of pixels by lag, up to `_LAG_PX`."""
    side = 2 * len(patch)
    spectrum = np.abs(np.fft.fft2(patch, (side, side))) ** 2
    lags = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    k, middle = _LAG_PX, len(patch)
    near = lags[middle - k : middle + k + 1, middle - k : middle + k + 1]
    overlap = len(patch) - np.abs(np.arange(-k, k + 1))
    return np.asarray(near / np.outer(overlap, overlap))
