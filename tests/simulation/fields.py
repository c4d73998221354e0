"""Frames with many particles and known truth: crowds, distractors, bad light.

Every particle is one of the five benchmark shapes, drawn exactly (see `shapes`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from tests.simulation.shapes import (
    BACKGROUND,
    HALF_WIDTH_PX,
    draw,
    photons_per_unit,
)

FloatArray = npt.NDArray[np.float64]
Places = npt.NDArray[np.int_]

#: Extent of each shape: 4 sigma of the point, else the longest axis before the blur.
DIAMETER_PX = {
    "point": 8.0,
    "sphere": 20.0,
    "annulus": 24.0,
    "ellipse": 24.0,
    "crescent": 20.0,
}
_PATCH_PX = 2 * HALF_WIDTH_PX + 12


@dataclass(frozen=True, slots=True)
class Scene:
    """What a simulated frame holds. Intensities are in units of a particle's peak.

    Parameters
    ----------
    shape
        The particle to find, one of `shapes.SHAPES`.
    n_particles, spacing_px
        How many, at random places no closer than this to any other object; fewer
        where they do not fit.
    size_px
        (height, width).
    snr
        As in the single-particle benchmark: peak over noise at the peak is about this.
    distractors, n_distractors
        Other shapes mixed in, and how many in all.
    intensity_range
        Peaks are uniform within.
    defocus_px
        Every particle is blurred by a Gaussian of sigma uniform in 0 to this.
    light_falloff
        Illumination falls by this part from the middle to the corners.
    ramp
        Height of a linear background gradient across the frame.
    texture
        Standard deviation of a smooth random background (correlation 12 px).
    n_hot_pixels
        Pixels stuck at 3 times the peak.
    """

    shape: str = "sphere"
    n_particles: int = 40
    spacing_px: float = 34.0
    size_px: tuple[int, int] = (384, 384)
    snr: float = 10.0
    distractors: tuple[str, ...] = ()
    n_distractors: int = 0
    intensity_range: tuple[float, float] = (1.0, 1.0)
    defocus_px: float = 0.0
    light_falloff: float = 0.0
    ramp: float = 0.0
    texture: float = 0.0
    n_hot_pixels: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One simulated frame with its truth.

    Parameters
    ----------
    pixels
        Shape (y, x), float64; the background is about 0.1, a particle's peak 1.
    positions_px
        (n, 2) centres (y, x) of all objects.
    shapes, angles_rad, defocus_px
        (n,) per object.
    """

    pixels: FloatArray
    positions_px: FloatArray
    shapes: npt.NDArray[np.str_]
    angles_rad: FloatArray
    defocus_px: FloatArray = field(default_factory=lambda: np.empty(0))

    def of(self, shape: str) -> FloatArray:
        """Return the centres (n, 2) of all objects of one shape."""
        chosen: FloatArray = self.positions_px[self.shapes == shape]
        return chosen

    def counts(
        self, *, gain: float, offset: float, dtype: str
    ) -> npt.NDArray[np.generic]:
        """Return the frame as camera counts: scaled, rounded, clipped."""
        limits = np.iinfo(dtype)
        scaled = np.clip(np.round(gain * self.pixels + offset), limits.min, limits.max)
        return scaled.astype(dtype)


def simulate_field(scene: Scene, *, seed: int) -> Field:
    """Draw a scene.

    Parameters
    ----------
    scene
        What the frame holds.
    seed
        Fixes places, poses and noise.
    """
    rng = np.random.default_rng(seed)
    n = scene.n_particles + scene.n_distractors
    positions = place_apart(n, scene.size_px, spacing_px=scene.spacing_px, rng=rng)
    kinds = [scene.shape] * scene.n_particles
    kinds += [
        scene.distractors[i % len(scene.distractors)]
        for i in range(scene.n_distractors)
    ]
    shapes = rng.permutation(kinds)[: len(positions)]
    angles = rng.uniform(0, 2 * np.pi, len(positions))
    peaks = rng.uniform(*scene.intensity_range, len(positions))
    defocus = rng.uniform(0, 1, len(positions)) * scene.defocus_px
    signal = np.zeros(scene.size_px)
    for where, shape, angle, peak, blur in zip(
        positions, shapes, angles, peaks, defocus, strict=True
    ):
        _add_particle(signal, where, shape, angle_rad=angle, peak=peak, blur_px=blur)
    pixels = _photograph(scene, signal, rng)
    return Field(pixels, positions, np.asarray(shapes), angles, defocus)


def blank(scene: Scene, *, seed: int) -> Field:
    """Draw a scene's background without any object."""
    return simulate_field(replace(scene, n_particles=0, n_distractors=0), seed=seed)


def place_apart(
    n: int, size_px: tuple[int, int], *, spacing_px: float, rng: np.random.Generator
) -> FloatArray:
    """Return up to `n` random places (y, x), no two closer than `spacing_px`.

    Places are tried one after the other (random sequential addition) until 3000 in a
    row do not fit: the densest such packing covers about half the frame.
    """
    places: list[FloatArray] = []
    failures = 0
    while len(places) < n and failures < 3000:
        trial = rng.uniform(0, np.subtract(size_px, 1.0))
        near = places and np.hypot(*(np.array(places) - trial).T).min() < spacing_px
        failures = failures + 1 if near else 0
        if not near:
            places.append(trial)
    return np.array(places).reshape(-1, 2)


def match(
    found_px: npt.ArrayLike, truth_px: npt.ArrayLike, *, gate_px: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return index pairs (found, truth) of mutual nearest neighbours within a gate."""
    found, truth = np.asarray(found_px, float), np.asarray(truth_px, float)
    none = np.empty(0, dtype=np.intp)
    if len(found) == 0 or len(truth) == 0:
        return none, none
    distances = cdist(found, truth)
    nearest = np.argmin(distances, axis=1)
    back = np.argmin(distances, axis=0)
    index = np.arange(len(found))
    good = (back[nearest] == index) & (distances[index, nearest] <= gate_px)
    return index[good], nearest[good]


def _add_particle(
    signal: FloatArray,
    where: FloatArray,
    shape: str,
    *,
    angle_rad: float,
    peak: float,
    blur_px: float,
) -> None:
    """Add one particle to `signal`, in place; only the patch around it is drawn."""
    corner: Places = np.round(where - _PATCH_PX / 2).astype(np.int_)
    y, x = (float(c) for c in where - corner)
    patch = draw(shape, y, x, angle_rad=angle_rad, size=(_PATCH_PX, _PATCH_PX))
    if blur_px > 0:
        patch = gaussian_filter(patch, blur_px)
    low: Places = np.maximum(corner, 0)
    high: Places = np.minimum(corner + _PATCH_PX, signal.shape)
    (top, left), (bottom, right) = low, high
    shifted = patch[
        top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]
    ]
    signal[top:bottom, left:right] += peak * shifted


def _photograph(
    scene: Scene, signal: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Add background, light and noise (Poisson, as in the single-particle bench)."""
    height, width = scene.size_px
    y = np.linspace(-1, 1, height)[:, None]
    x = np.linspace(-1, 1, width)[None, :]
    background = BACKGROUND + scene.ramp * (x + 1) / 2
    if scene.texture > 0:
        smooth = gaussian_filter(rng.normal(size=scene.size_px), 12.0, mode="wrap")
        background = background + scene.texture * smooth / smooth.std()
    light = 1.0 - scene.light_falloff * (y**2 + x**2) / 2
    clean = np.clip(background + signal, 0.01, None) * light
    photons = photons_per_unit(scene.snr)
    pixels: FloatArray = rng.poisson(photons * clean) / photons
    pixels.ravel()[rng.integers(0, pixels.size, scene.n_hot_pixels)] = 3.0
    return pixels
