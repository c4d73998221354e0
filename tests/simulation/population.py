"""Frames of particles that do not look alike: ellipses or rings of varying form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from tests.simulation.fields import place_apart
from tests.simulation.shapes import (
    BACKGROUND,
    PSF_SIGMA_PX,
    draw,
    photons_per_unit,
)

FloatArray = npt.NDArray[np.float64]
Family = Literal["ellipse", "annulus"]

#: What `form` means, and its range: aspect at the area of a disc of radius 8 px; outer
#: radius, px, of a ring 4 px wide.
FORMS: dict[Family, tuple[float, float]] = {
    "ellipse": (1.0, 2.2),
    "annulus": (6.0, 12.0),
}
_FINE = 4  # samples per pixel, before the blur
_HALF_PX = 22
_DISC_PX, _WALL_PX = 8.0, 4.0


@dataclass(frozen=True, slots=True)
class Population:
    """What a frame of varying particles holds.

    Parameters
    ----------
    family, forms
        Forms are uniform within; None: ``FORMS[family]``.
    n_particles, n_strangers
        How many of the family, and of other objects: points and crescents in turn.
    spacing_px, size_px
        Least distance between any two, and the frame (height, width).
    snr
        Peak over noise of a particle of peak 1.
    peaks
        Peaks are log-uniform within: three times as bright as the faintest.
    """

    family: Family = "ellipse"
    forms: tuple[float, float] | None = None
    n_particles: int = 60
    n_strangers: int = 0
    spacing_px: float = 44.0
    size_px: tuple[int, int] = (512, 512)
    snr: float = 8.0
    peaks: tuple[float, float] = (3**-0.5, 3**0.5)


@dataclass(frozen=True, slots=True, eq=False)
class VariedField:
    """One frame (y, x), background about 0.1, and the members of the family in it.

    `positions_px` (n, 2): centres (y, x). `forms`, `peaks` (n,): see `Population`.
    """

    pixels: FloatArray
    positions_px: FloatArray
    forms: FloatArray
    peaks: FloatArray


def simulate_population(population: Population, *, seed: int) -> VariedField:
    """Draw a frame; `seed` fixes places, forms, peaks and noise."""
    rng = np.random.default_rng([seed, 31])
    n = population.n_particles
    places = place_apart(
        n + population.n_strangers,
        population.size_px,
        spacing_px=population.spacing_px,
        rng=rng,
    )
    members, strangers = places[:n], places[n:]
    limits = population.forms or FORMS[population.family]
    forms = rng.uniform(*limits, len(members))
    low, high = population.peaks
    peaks = low * (high / low) ** rng.uniform(0, 1, len(members))
    signal = np.zeros(np.add(population.size_px, 2 * _HALF_PX + 2))
    for place, form, peak in zip(members, forms, peaks, strict=True):
        angle = rng.uniform(0, 2 * np.pi)
        _add(signal, place, peak, _body(population.family, form, angle, place % 1))
    for index, place in enumerate(strangers):
        angle, (dy, dx) = rng.uniform(0, 2 * np.pi), place % 1 + _HALF_PX
        shape, side = ("point", "crescent")[index % 2], 2 * _HALF_PX + 1
        _add(signal, place, 1.0, draw(shape, dy, dx, angle_rad=angle, size=(side,) * 2))
    clean = BACKGROUND + signal[_HALF_PX : -_HALF_PX - 2, _HALF_PX : -_HALF_PX - 2]
    photons = photons_per_unit(population.snr)
    pixels: FloatArray = rng.poisson(photons * clean) / photons
    return VariedField(pixels, members, forms, peaks)


def _body(
    family: Family, form: float, angle_rad: float, offset: FloatArray
) -> FloatArray:
    """Draw one blurred particle of peak 1, `offset` (y, x) from the patch's middle."""
    axis = np.arange(-_HALF_PX * _FINE, _HALF_PX * _FINE + 1) / _FINE
    dy, dx = axis[:, None] - offset[0], axis[None] - offset[1]
    u = np.cos(angle_rad) * dx + np.sin(angle_rad) * dy
    v = -np.sin(angle_rad) * dx + np.cos(angle_rad) * dy
    if family == "ellipse":
        long_px, short_px = _DISC_PX * form**0.5, _DISC_PX / form**0.5
        q = np.hypot(u / long_px, v / short_px)
        slope = np.hypot(u / long_px**2, v / short_px**2) / np.maximum(q, 1e-9)
        body = _coverage((1 - q) / np.maximum(slope, 1e-9))
    else:
        rho = np.hypot(u, v)
        body = _coverage(form - rho) * _coverage(rho - (form - _WALL_PX))
    blurred = gaussian_filter(body, PSF_SIGMA_PX * _FINE)
    patch: FloatArray = blurred[::_FINE, ::_FINE] / blurred.max()
    return patch


def _coverage(distance_px: FloatArray) -> FloatArray:
    """Antialiased indicator of a signed distance (positive inside)."""
    covered: FloatArray = np.clip(_FINE * distance_px + 0.5, 0, 1)
    return covered


def _add(signal: FloatArray, place: FloatArray, peak: float, patch: FloatArray) -> None:
    """Add a patch whose middle lies at the pixel below `place`, to the padded frame."""
    top, left = np.floor(place).astype(int)
    side = len(patch)
    signal[top : top + side, left : left + side] += peak * patch
