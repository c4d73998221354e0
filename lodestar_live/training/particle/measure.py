"""What the training crop says about its particle: shape, extent, contrast, noise.

The particle is modelled as ``pixels = background + signal + noise`` with a noise
variance ``v0 + g * signal``, and the signal is cleaned with a Wiener filter: an
optical image is band-limited, camera noise is not. Views are then drawn from the clean
signal with fresh noise, so that the network cannot learn the noise of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError, ModelError

FloatArray = npt.NDArray[np.float64]

MIN_SIDE_PX = 8
_EDGE_PX = 3
_REWEIGHTINGS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Particle:
    """One training particle, cut out and measured.

    Parameters
    ----------
    crop
        Shape (size, size), float64, as recorded.
    signal
        Same shape: denoised, background removed, faded to 0 outside the inscribed
        circle.
    centre_px
        First guess of the tracked point in the crop, (y, x): the particle's pivot.
    background, noise, gain
        Counts, noise standard deviation in the background, and variance per count of
        signal.
    contrast
        Height of the signal (mean magnitude of its nine strongest pixels), counts.
    radius_px
        Radius that holds 90 % of the signal's energy.
    """

    crop: FloatArray
    signal: FloatArray
    centre_px: tuple[float, float]
    background: float
    noise: float
    gain: float
    contrast: float
    radius_px: float

    @property
    def size_px(self) -> int:
        """Side of the crop."""
        return len(self.crop)

    @property
    def snr(self) -> float:
        """Contrast over the noise at the particle's brightest."""
        return self.contrast / math.sqrt(self.noise**2 + self.gain * self.contrast)


def cut_crop(image: Pixels, at_px: tuple[float, float], size_px: int) -> FloatArray:
    """Return the square crop around `at_px`, moved inwards at the image's edge.

    Raises
    ------
    InputError
        The image is not a finite 2-D array, or the crop does not fit.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise InputError(
            f"training image: shape {pixels.shape}; expected 2-D (y, x). "
            "Convert colour images to grey first."
        )
    if not np.isfinite(pixels).all():
        raise InputError("training image: contains NaN or infinity; mask them first.")
    if size_px < MIN_SIDE_PX or size_px > min(pixels.shape):
        raise InputError(
            f"crop size {size_px} px: expected {MIN_SIDE_PX} to "
            f"{min(pixels.shape)} px for an image of shape {pixels.shape}."
        )
    for coordinate, side in zip(at_px, pixels.shape, strict=True):
        if not -0.5 <= coordinate <= side - 0.5:
            raise InputError(
                f"crop position (y, x) = {at_px}: outside the image {pixels.shape}."
            )
    corner = [
        int(np.clip(round(c - (size_px - 1) / 2), 0, side - size_px))
        for c, side in zip(at_px, pixels.shape, strict=True)
    ]
    cut = pixels[corner[0] : corner[0] + size_px, corner[1] : corner[1] + size_px]
    crop: FloatArray = cut.astype(np.float64)
    return crop


def measure_particle(crop: FloatArray) -> Particle:
    """Measure background, noise, clean signal, centre and extent of one particle.

    Raises
    ------
    ModelError
        The crop is flat, or nothing in it stands out from the noise.
    """
    if np.ptp(crop) == 0:
        raise ModelError(
            f"crop: every pixel is {crop.flat[0]:g}; expected a particle. "
            "Choose another place with `at`."
        )
    background = float(np.median(_edge_pixels(crop)))
    raw = crop - background
    clean, left = _wiener(raw)
    noise, gain = _noise_model(raw - clean, clean, left=left)
    fade = _fade(len(crop))
    signal, _ = _wiener(raw * _surround(clean * fade))
    signal = signal * fade
    contrast = _height(signal)
    noise = max(noise, 1e-3 * contrast, 1e-12)
    if not contrast >= 1.2 * noise:  # also when it cannot be measured (NaN)
        raise ModelError(
            f"crop: the contrast is {contrast / noise:.1f} times the noise; expected "
            "at least 1.2. It holds no learnable particle: choose another with `at`."
        )
    centre = _pivot(signal, _centroid(signal, contrast), noise=noise, gain=gain)
    radius = _energy_radius(signal, centre)
    return Particle(crop, signal, centre, background, noise, gain, contrast, radius)


def _edge_pixels(crop: FloatArray) -> FloatArray:
    inner = np.zeros(crop.shape, dtype=bool)
    inner[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX] = True
    edge: FloatArray = crop[~inner]
    return edge


def _wiener(raw: FloatArray) -> tuple[FloatArray, float]:
    """Keep the frequencies whose power, averaged over rings, exceeds the noise.

    Returns what is kept, and the share of white noise's variance in what is left.
    """
    side = len(raw)
    padded = np.pad(raw, side // 2, mode="reflect")
    spectrum = np.fft.fft2(padded)
    frequency = np.fft.fftfreq(len(padded))
    radius = np.hypot(frequency[:, None], frequency[None, :])
    power = np.abs(spectrum) ** 2
    floor = np.median(power[radius > 0.35]) / np.log(2)  # median of an exponential
    ring = np.round(radius * len(padded)).astype(int)
    mean_power = np.bincount(ring.ravel(), power.ravel()) / np.maximum(
        np.bincount(ring.ravel()), 1
    )
    gain = np.clip(1 - floor / np.maximum(mean_power, 1e-300), 0, 1)
    # Beyond the optical cut-off only noise is left. What is weak below the strongest
    # frequency says nothing of it: bright and dark parts may cancel in the mean.
    strongest = int(np.argmax(gain))
    weak = np.flatnonzero(gain[strongest:] < 0.3)
    if len(weak):
        gain[strongest + weak[0] :] = 0
    start = side // 2
    filtered = np.fft.ifft2(spectrum * gain[ring]).real
    clean: FloatArray = filtered[start : start + side, start : start + side]
    return clean, float(np.mean((1 - gain[ring]) ** 2))


def _noise_model(
    residual: FloatArray, clean: FloatArray, *, left: float
) -> tuple[float, float]:
    """Return background noise (standard deviation) and variance per count.

    The squared residual is fitted by ``variance + slope * signal``, each pixel weighted
    by how well it tells its own variance (that of a squared normal variate is twice the
    square of its mean); unweighted, the few brightest pixels of a small particle decide
    alone. `left`: share of the noise's variance that is in the residual.
    """
    squared = residual**2 / left
    variance = float(np.mean(squared[np.abs(clean) <= np.median(np.abs(clean))]))
    lift = np.clip(clean, 0, None)
    excess = squared - variance
    weight = np.ones_like(lift)
    slope = 0.0
    for _ in range(_REWEIGHTINGS):
        moment = np.sum(weight * lift**2) + 1e-300
        slope = max(float(np.sum(weight * excess * lift) / moment), 0.0)
        weight = 1 / np.maximum(variance + slope * lift, 1e-300) ** 2
    return float(np.sqrt(variance)), slope


def _fade(side: int) -> FloatArray:
    """1 inside the inscribed circle, falling to 0 over its outer eighth."""
    axis = np.arange(side) - (side - 1) / 2
    distance = np.hypot(axis[:, None], axis[None, :])
    edge: FloatArray = np.clip((side / 2 - distance) / max(side / 16, 1.0), 0, 1)
    return edge


def _surround(rough: FloatArray) -> FloatArray:
    """Return a soft window around the particle: less background, less noise in it."""
    centre = _centroid(rough, _height(rough))
    inner = 2.0 * _energy_radius(rough, centre) + 3
    rows, columns = np.indices(rough.shape)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    window: FloatArray = np.clip((1.5 * inner - distance) / (0.5 * inner), 0, 1)
    return window


def _height(signal: FloatArray) -> float:
    return float(np.partition(np.abs(signal), -9, axis=None)[-9:].mean())


def _centroid(signal: FloatArray, contrast: float) -> tuple[float, float]:
    weight = np.clip(np.abs(signal) - 0.25 * contrast, 0, None)
    rows, columns = np.indices(signal.shape)
    total = weight.sum()
    return float((weight * rows).sum() / total), float((weight * columns).sum() / total)


def _energy_radius(signal: FloatArray, centre: tuple[float, float]) -> float:
    rows, columns = np.indices(signal.shape)
    distance = np.hypot(rows - centre[0], columns - centre[1]).ravel()
    order = np.argsort(distance)
    energy = np.cumsum(signal.ravel()[order] ** 2)
    return float(distance[order][np.searchsorted(energy, 0.9 * energy[-1])])


def _pivot(
    signal: FloatArray, centroid: tuple[float, float], *, noise: float, gain: float
) -> tuple[float, float]:
    """Return the point of a particle that an image tells best.

    An unknown orientation blurs every point but the one about which turning and
    shifting the particle look unlike each other: there the cross term of the Fisher
    information between shift and angle vanishes. That is the centre of a round
    particle, and near the centre of the uncut disk for a crescent, whose centroid is a
    third less certain. A thin arc's pivot may lie far off: it is kept within 3/4 of the
    particle's radius.
    """
    slopes = np.stack([slope.ravel() for slope in np.gradient(signal)])
    rows, columns = (axis.ravel() for axis in np.indices(signal.shape))
    turning = (columns - centroid[1]) * slopes[0] - (rows - centroid[0]) * slopes[1]
    weighted = slopes / (noise**2 + gain * np.clip(signal.ravel(), 0, None))
    shift, cross = weighted @ slopes.T, weighted @ turning
    # About centroid + o the cross term is cross + shift @ (-o[1], o[0]).
    first, second = np.linalg.lstsq(shift, -cross, rcond=1e-9)[0]
    offset = np.array([second, -first])
    limit = 0.75 * _energy_radius(signal, centroid)
    offset *= min(1.0, limit / max(float(np.hypot(*offset)), 1e-12))
    return float(centroid[0] + offset[0]), float(centroid[1] + offset[1])
