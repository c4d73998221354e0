"""How many ways a particle can be turned and look the same, and where it points.

Noise alone makes a crop's two halves differ. So the question is asked of the crop and
of pictures that have the symmetry exactly, with the crop's own noise: what those show
by chance is no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates

from lodestar_live.data import FloatArray
from lodestar_live.errors import ModelError
from lodestar_live.model_card import OrientationFacts
from lodestar_live.training.particle.measure import Particle, measure_particle

_FOLDS = (6, 5, 4, 3, 2)
_N_ANGLES = 360
_N_CHANCE = 12
_SIGMAS = 5.0  # beyond what chance pictures show
_MINOR = 0.1  # of what turning changes at most: less is no difference between ends
_MAJOR = 0.5  # of it: so much is no chance


def orientation_of(particles: Sequence[Particle], *, seed: int = 0) -> OrientationFacts:
    """Return how angles of particles are told, from those that were clicked.

    The fold is what all have in common: rods (2) and crescents (1) together have 1,
    and what is round (0) has every other's.
    Angles run from the x axis (right) to the y axis (down). A particle of fold 1 points
    from its pivot to its centre of brightness; of fold 2 along its long axis; of higher
    fold along an arm.
    """
    rng = np.random.default_rng([seed, 41])
    fold = math.gcd(*(_fold(particle, rng) for particle in particles))
    first = particles[0]
    return OrientationFacts(
        fold=fold,
        axis_deg=tuple(_axis_deg(particle, fold) for particle in particles),
        shot=first.gain * first.contrast / first.noise**2,
    )


def _fold(particle: Particle, rng: np.random.Generator) -> int:
    """Return how many turns leave a particle as it is; 0 if all do."""
    changes = _changes(particle.signal, particle.centre_px, particle.radius_px)
    most = float(changes.max())
    if most <= _by_chance(particle, 0, rng):
        return 0
    for fold in _FOLDS:
        change = _change_of(changes, fold)
        if change > _MAJOR * most:
            continue
        if change <= _MINOR * most or change <= _by_chance(particle, fold, rng):
            return fold
    return 1


def _changes(
    signal: FloatArray, centre_px: tuple[float, float], radius_px: float
) -> FloatArray:
    """Return 1 - correlation of a picture with itself, turned by each angle, (360,)."""
    rings = _rings(signal, centre_px, radius_px)
    weight = np.arange(1, len(rings) + 1)[:, None]  # a ring's share of the area
    above = rings - (weight * rings).sum() / (weight.sum() * _N_ANGLES)
    spectrum = np.fft.rfft(above, axis=1)
    power = (weight * np.abs(spectrum) ** 2).sum(axis=0)
    same = np.fft.irfft(power, _N_ANGLES)
    return np.asarray(1 - same / same[0])


def _rings(
    signal: FloatArray, centre_px: tuple[float, float], radius_px: float
) -> FloatArray:
    """Return a picture on rings around its pivot, (radii, angles)."""
    radii = np.arange(1, int(np.ceil(1.3 * radius_px)) + 1)[:, None]
    angles = 2 * np.pi * np.arange(_N_ANGLES) / _N_ANGLES
    where = [
        centre_px[0] + radii * np.sin(angles),
        centre_px[1] + radii * np.cos(angles),
    ]
    return np.asarray(map_coordinates(signal, where, order=1))


def _change_of(changes: FloatArray, fold: int) -> float:
    """Return the most that any turn by 1/fold, 2/fold, ... changes."""
    if fold == 0:
        return float(changes.max())
    turns = np.round(_N_ANGLES / fold * np.arange(1, fold)).astype(int)
    return float(changes[turns].max())


def _by_chance(particle: Particle, fold: int, rng: np.random.Generator) -> float:
    """Return what pictures of exactly this symmetry hardly exceed."""
    symmetric = _symmetrised(particle, fold)
    variance = particle.noise**2 + particle.gain * np.clip(symmetric, 0, None)
    found = []
    for _ in range(_N_CHANCE):
        noisy = particle.background + symmetric
        noisy = noisy + rng.normal(0, np.sqrt(variance))
        try:
            seen = measure_particle(noisy)
        except ModelError:  # nearly lost in the noise: nothing can be told
            return float("inf")
        changes = _changes(seen.signal, seen.centre_px, seen.radius_px)
        found.append(_change_of(changes, fold))
    return float(np.mean(found) + _SIGMAS * np.std(found, ddof=1))


def _symmetrised(particle: Particle, fold: int) -> FloatArray:
    """Return the mean of a particle over the turns of a symmetry; 0: over all."""
    n = fold or 72
    y, x = np.indices(particle.signal.shape).astype(float)
    y, x = y - particle.centre_px[0], x - particle.centre_px[1]
    total = np.zeros(particle.signal.shape)
    for angle in 2 * np.pi * np.arange(n) / n:
        cos, sin = np.cos(angle), np.sin(angle)
        where = [
            cos * y - sin * x + particle.centre_px[0],
            sin * y + cos * x + particle.centre_px[1],
        ]
        total += map_coordinates(particle.signal, where, order=1)
    return total / n


def _axis_deg(particle: Particle, fold: int) -> float:
    """Return where a particle points, by the moment that its symmetry leaves."""
    rings = np.abs(_rings(particle.signal, particle.centre_px, particle.radius_px))
    radii = np.arange(1, len(rings) + 1)[:, None] / len(rings)
    n = max(fold, 1)
    angles = 2 * np.pi * np.arange(_N_ANGLES) / _N_ANGLES
    moment = (rings * radii ** (n + 1) * np.exp(1j * n * angles)).sum()
    return float(np.degrees(np.angle(moment)) / n % (360 / n))
