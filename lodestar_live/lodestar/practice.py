"""Practice frames: the training particle, many times, at known places and any noise.

They show what a trained detector does before it meets a real frame; `calibrate` reads
threshold and uncertainty from them. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lodestar_live.lodestar.particle import Particle

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PracticeFrame:
    """A frame (y, x), camera counts, and the tracked points (n, 2) in it."""

    pixels: FloatArray
    positions_px: FloatArray


def practice_frame(
    particle: Particle,
    centre_px: tuple[float, float],
    *,
    n_side: int,
    noise_level: float,
    rng: np.random.Generator,
) -> PracticeFrame:
    """Draw `n_side`² rotated, mirrored and shifted copies of a particle, well apart.

    Parameters
    ----------
    particle
        The measured training crop; its clean signal is drawn.
    centre_px
        The tracked point in the crop, (y, x).
    noise_level
        Noise in units of the crop's own.
    """
    pitch = particle.size_px + 4
    cells = np.argwhere(np.ones((n_side, n_side)))
    places = np.asarray(pitch * (cells + 0.5) - 0.5, dtype=np.float64)
    places += rng.uniform(-1.5, 1.5, places.shape)
    return _draw(particle, centre_px, places, pitch * n_side, noise_level, rng)


def crowded_frame(
    particle: Particle,
    centre_px: tuple[float, float],
    *,
    side_px: int,
    noise_level: float,
    rng: np.random.Generator,
) -> PracticeFrame:
    """Draw copies at random places, from nearly touching to alone; see above."""
    apart = 2.2 * particle.radius_px
    places = np.empty((0, 2))
    for _ in range(int(0.6 * (side_px / apart) ** 2)):
        trial = rng.uniform(0, side_px, 2)
        if not len(places) or np.hypot(*(places - trial).T).min() > apart:
            places = np.vstack([places, trial])
    return _draw(particle, centre_px, places, side_px, noise_level, rng)


def _draw(
    particle: Particle,
    centre_px: tuple[float, float],
    places: FloatArray,
    side_px: int,
    noise_level: float,
    rng: np.random.Generator,
) -> PracticeFrame:
    """Put turned copies of the crop's centre at `places`, (n, 2), and add noise."""
    size = particle.size_px
    margin = size  # copies may hang over the frame's edge
    signal = np.zeros((side_px + 2 * margin,) * 2)
    spline = ndimage.spline_filter(np.pad(particle.signal, 4))
    middle = (size - 1) / 2
    patch = size + 4
    positions = np.empty_like(places)
    for index, place in enumerate(places):
        turn = _random_turn(rng)
        top, left = (int(np.floor(c)) + margin - patch // 2 for c in place)
        shift = place + margin - (top, left)
        grid = np.moveaxis(np.indices((patch, patch)), 0, -1) - shift
        where = np.moveaxis(grid @ turn + middle + 4, -1, 0)
        copy = ndimage.map_coordinates(spline, where, order=3, prefilter=False)
        signal[top : top + patch, left : left + patch] += copy
        positions[index] = turn @ np.subtract(centre_px, middle) + place
    inner = signal[margin:-margin, margin:-margin]
    return PracticeFrame(_add_noise(particle, inner, noise_level, rng), positions)


def blank_frame(
    particle: Particle, side_px: int, *, noise_level: float, rng: np.random.Generator
) -> FloatArray:
    """Draw the particle's background alone, (side, side), camera counts."""
    return _add_noise(particle, np.zeros((side_px, side_px)), noise_level, rng)


def _random_turn(rng: np.random.Generator) -> FloatArray:
    """Return a rotation, half of the time with a reflection: crop to frame, (2, 2)."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    return np.asarray(turn @ mirror)


def _add_noise(
    particle: Particle, signal: FloatArray, level: float, rng: np.random.Generator
) -> FloatArray:
    variance = particle.noise**2 + particle.gain * np.clip(signal, 0, None)
    white = rng.normal(size=signal.shape)
    noisy: FloatArray = particle.background + signal + level * np.sqrt(variance) * white
    return noisy
