"""Practice frames: the training particles, many times, at known places and any noise.

They show what a trained detector does before it meets a real frame; `calibrate` reads
threshold and uncertainty from them. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lodestar_live.training.particle.measure import Particle

FloatArray = npt.NDArray[np.float64]
Stretch = tuple[float, float] | None
TOUCHING_RADII = 2.0  # between the centres of touching particles, of 90 % of the energy


@dataclass(frozen=True, slots=True, eq=False)
class PracticeFrame:
    """A frame (y, x), camera counts, and its copies.

    `positions_px` (n, 2): the tracked points. `turns` (n, 2, 2): how each copy is
    turned, mirrored and stretched, crop offset -> frame offset.
    """

    pixels: FloatArray
    positions_px: FloatArray
    turns: FloatArray


def practice_frame(
    particle: Particle,
    centre_px: tuple[float, float],
    *,
    n_side: int,
    noise_level: float,
    rng: np.random.Generator,
    stretch: Stretch = None,
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
    stretch
        Range of the copies' sizes along any axis; None: the particle's own.
    """
    pitch = int(np.ceil(particle.size_px * _largest(stretch))) + 4
    cells = np.argwhere(np.ones((n_side, n_side)))
    places = np.asarray(pitch * (cells + 0.5) - 0.5, dtype=np.float64)
    places += rng.uniform(-1.5, 1.5, places.shape)
    signal, *where = _draw(
        [particle], [centre_px], places, pitch * n_side, rng, stretch
    )
    return PracticeFrame(_add_noise(particle, signal, noise_level, rng), *where)


def crowded_frames(
    particles: Sequence[Particle],
    centres_px: Sequence[tuple[float, float]],
    *,
    side_px: int,
    noise_levels: Sequence[float],
    rng: np.random.Generator,
    stretch: Stretch = None,
) -> list[PracticeFrame]:
    """Draw copies of the particles in turn, from touching to alone; see above.

    One arrangement, for drawing it takes longest, at every noise level.
    """
    apart = TOUCHING_RADII * max(particle.radius_px for particle in particles)
    places = np.empty((0, 2))
    for _ in range(int(0.6 * (side_px / apart) ** 2)):
        trial = rng.uniform(0, side_px, 2)
        if not len(places) or np.hypot(*(places - trial).T).min() > apart:
            places = np.vstack([places, trial])
    signal, *where = _draw(particles, centres_px, places, side_px, rng, stretch)
    return [
        PracticeFrame(_add_noise(particles[0], signal, level, rng), *where)
        for level in noise_levels
    ]


def _draw(
    particles: Sequence[Particle],
    centres_px: Sequence[tuple[float, float]],
    places: FloatArray,
    side_px: int,
    rng: np.random.Generator,
    stretch: Stretch,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Put turned copies of the crops' centres, in turn, at `places`, (n, 2).

    Returns the signal (side, side), then what a `PracticeFrame` says of the copies.
    """
    size = particles[0].size_px
    patch = int(np.ceil(size * _largest(stretch))) + 4
    margin = patch  # copies may hang over the frame's edge
    signal = np.zeros((side_px + 2 * margin,) * 2)
    splines = [ndimage.spline_filter(np.pad(p.signal, 4)) for p in particles]
    middle = (size - 1) / 2
    pixels = np.indices((patch, patch)).reshape(2, -1)
    positions, turns = np.empty_like(places), np.empty((len(places), 2, 2))
    for index, place in enumerate(places):
        turn = turns[index] = _random_stretch(rng, stretch) @ _random_turn(rng)
        top, left = (int(np.floor(c)) + margin - patch // 2 for c in place)
        shift = place + margin - (top, left)
        where = np.linalg.inv(turn) @ (pixels - shift[:, None]) + (middle + 4)
        crop = index % len(particles)
        copy = ndimage.map_coordinates(splines[crop], where, order=3, prefilter=False)
        signal[top : top + patch, left : left + patch] += copy.reshape(patch, patch)
        positions[index] = turn @ np.subtract(centres_px[crop], middle) + place
    return signal[margin:-margin, margin:-margin], positions, turns


def _largest(stretch: Stretch) -> float:
    return 1.0 if stretch is None else max(1.0, stretch[1])


def _random_stretch(rng: np.random.Generator, stretch: Stretch) -> FloatArray:
    """Return a stretch along a random direction and across it, (2, 2)."""
    if stretch is None:
        return np.eye(2)
    factors = np.exp(rng.uniform(math.log(stretch[0]), math.log(stretch[1]), 2))
    angle = rng.uniform(0, np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    axes = np.array([[cos, -sin], [sin, cos]])
    return np.asarray((axes * factors) @ axes.T)


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
