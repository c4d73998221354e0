"""Random lopsided particles: what the generic starting weights are trained on.

None has a mirror axis. Points, disks, rings, ellipses and crescents all have one, so
the shapes of the accuracy benchmark are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

from lodestar_live.data import FloatArray
from lodestar_live.training.particle.measure import Particle, measure_particle

#: Largest correlation of a blob with its own mirror image, about any axis. The shapes
#: of the accuracy benchmark reach 0.9998 and more.
MOST_ALIKE = 0.998
SNR = (20.0, 40.0)  # of the crops: clean enough for the measured signal to be smooth
_OVERSAMPLING = 2


def draw_blobs(
    n: int, *, radius_px: tuple[float, float], seed: int
) -> tuple[Particle, ...]:
    """Draw particles without a mirror axis, measured as a user's crop would be.

    Parameters
    ----------
    n
        How many.
    radius_px
        Range of the radius that holds 90 % of a particle's energy.
    seed
        Same seed, same particles.
    """
    rng = np.random.default_rng(seed)
    size_px = 4 * int(np.ceil(radius_px[1] + 2))
    blobs: list[Particle] = []
    while len(blobs) < n:
        wanted_px = np.exp(rng.uniform(*np.log(radius_px)))
        picture = _picture(rng, size_px, wanted_px)
        if mirror_likeness(picture) > MOST_ALIKE:
            continue
        noise = 1 / np.exp(rng.uniform(*np.log(SNR)))
        particle = measure_particle(picture + rng.normal(0, noise, picture.shape))
        if radius_px[0] <= particle.radius_px <= radius_px[1]:
            blobs.append(_in_units_of_noise(particle))
    return tuple(blobs)


def mirror_likeness(picture: FloatArray) -> float:
    """Return the largest correlation of a picture with its mirror images.

    About axes through its centre of energy: every five degrees, then every half degree
    around the best of these.
    """
    rows, columns = np.indices(picture.shape)
    energy = picture**2 / np.sum(picture**2)
    centre = float(np.sum(rows * energy)), float(np.sum(columns * energy))
    y, x = rows - centre[0], columns - centre[1]
    coefficients = spline_filter(picture, order=3)

    def likeness(angle_rad: float) -> float:
        cos, sin = np.cos(2 * angle_rad), np.sin(2 * angle_rad)
        where = [centre[0] + sin * x - cos * y, centre[1] + cos * x + sin * y]
        mirrored = map_coordinates(coefficients, where, order=3, prefilter=False)
        norm = np.sqrt(np.sum(mirrored**2) * np.sum(picture**2))
        return float(np.sum(mirrored * picture) / norm)

    best = max(np.deg2rad(np.arange(0, 180, 5)), key=likeness)
    return max(likeness(best + np.deg2rad(d)) for d in np.arange(-2.5, 3, 0.5))


def _in_units_of_noise(particle: Particle) -> Particle:
    """Scale to noise 1 and contrast 10, so that no blob outweighs another."""
    signal = particle.signal * (10 / particle.contrast)
    return replace(
        particle, signal=signal, noise=1.0, gain=0.0, background=0.0, contrast=10.0
    )


def _picture(rng: np.random.Generator, size_px: int, radius_px: float) -> FloatArray:
    """Draw one particle of about the given radius, peak 1, blurred as by optics."""
    side = size_px * _OVERSAMPLING
    axis = (np.arange(side) - (side - 1) / 2) / (_OVERSAMPLING * radius_px)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    kinds: tuple[Callable[..., FloatArray], ...] = (_lobes, _wavy, _shell)
    body = kinds[rng.integers(len(kinds))](rng, u, v)
    blur_px = min(rng.uniform(0.8, 2.2), 0.6 * radius_px)
    body = gaussian_filter(body, blur_px * _OVERSAMPLING)
    blocks = body.reshape(size_px, _OVERSAMPLING, size_px, _OVERSAMPLING)
    picture: FloatArray = blocks.mean(axis=(1, 3))
    picture /= np.abs(picture).max()
    return picture


def _lobes(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """Two to five bright spots of different sizes; now and then one is dark."""
    total = np.zeros_like(u)
    for k in range(rng.integers(2, 6)):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.75)
        width, squeeze = rng.uniform(0.15, 0.5), rng.uniform(0.6, 1.6)
        turn = rng.uniform(0, np.pi)
        du, dv = u - distance * np.cos(angle), v - distance * np.sin(angle)
        along = np.cos(turn) * du + np.sin(turn) * dv
        across = np.cos(turn) * dv - np.sin(turn) * du
        height = rng.uniform(0.4, 1.0) * (-1 if k and rng.random() < 0.2 else 1)
        q = (along * squeeze) ** 2 + (across / squeeze) ** 2
        total += height * np.exp(-q / (2 * width**2))
    return total


def _wavy(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """Fill a wavy outline, brighter towards one side."""
    edge, depth = _outline(rng), rng.uniform(0.2, 2.0)
    inside = np.clip((edge(u, v) - np.hypot(u, v)) * 8 + 0.5, 0, 1)
    tilt, direction = rng.uniform(0.0, 0.8), rng.uniform(0, 2 * np.pi)
    slope = 1 + tilt * (u * np.cos(direction) + v * np.sin(direction))
    dome = np.clip(1 - (np.hypot(u, v) / edge(u, v)) ** 2, 0, 1) ** (0.5 * depth)
    body: FloatArray = inside * slope
    return body * dome if rng.random() < 0.6 else body


def _shell(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """Draw a wavy outline only, of uneven thickness and brightness."""
    outer = _outline(rng)(u, v)
    thickness = rng.uniform(0.25, 0.6)
    angle = np.arctan2(v, u)
    uneven = 1 + rng.uniform(0.0, 0.6) * np.cos(angle - rng.uniform(0, 2 * np.pi))
    thick = 1 + rng.uniform(0.0, 0.4) * np.cos(angle - rng.uniform(0, 2 * np.pi))
    inner = outer * (1 - thickness * thick)
    distance = np.hypot(u, v)
    ring = np.clip((outer - distance) * 8 + 0.5, 0, 1)
    ring *= np.clip((distance - inner) * 8 + 0.5, 0, 1)
    filled = rng.uniform(-0.3, 0.5) * np.clip((inner - distance) * 8 + 0.5, 0, 1)
    body: FloatArray = (ring + filled) * uneven
    return body


def _outline(
    rng: np.random.Generator,
) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Return a wavy closed line about the origin: radius by direction."""
    orders = np.arange(1, 6)
    heights = rng.normal(0, 0.16, 5) / orders**0.5
    phases = rng.uniform(0, 2 * np.pi, 5)
    stretch, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)

    def radius(u: FloatArray, v: FloatArray) -> FloatArray:
        angle = np.arctan2(v, u)
        waves = sum(
            h * np.cos(k * angle - p)
            for k, h, p in zip(orders, heights, phases, strict=True)
        )
        long = np.hypot(np.cos(angle - turn), np.sin(angle - turn) / stretch)
        line: FloatArray = np.clip(1 + waves, 0.35, 1.7) / long
        return line

    return radius
