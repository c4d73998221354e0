"""The five benchmark shapes, their images, and the best accuracy physics allows.

Geometry and noise follow the LodeSTAR authors' own notebook of Fig. 1: a body-fixed
template, 8-fold oversampled, blurred with a Gaussian point-spread function, drawn at
an exact sub-pixel position and orientation, with Poisson noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

FloatArray = npt.NDArray[np.float64]

SHAPES = ("point", "sphere", "annulus", "ellipse", "crescent")
ORIENTED = ("ellipse", "crescent")
OVERSAMPLING = 8
HALF_WIDTH_PX = 26
PSF_SIGMA_PX = 2.0
BACKGROUND = 0.1
IMAGE_SIDE_PX = 64


def _coverage(distance_px: FloatArray) -> FloatArray:
    """Antialiased indicator of a signed distance (positive inside)."""
    covered: FloatArray = np.clip(OVERSAMPLING * distance_px + 0.5, 0, 1)
    return covered


def _ellipse(u: FloatArray, v: FloatArray) -> FloatArray:
    q = np.hypot(u / 12, v / 7)
    slope = np.hypot(u / 144, v / 49) / np.maximum(q, 1e-9)
    return _coverage((1 - q) / np.maximum(slope, 1e-9))


def _crescent(u: FloatArray, v: FloatArray) -> FloatArray:
    return _coverage(10 - np.hypot(u, v)) * (1 - _coverage(10 - np.hypot(u - 6, v)))


def _annulus(u: FloatArray, v: FloatArray) -> FloatArray:
    rho = np.hypot(u, v)
    return _coverage(12 - rho) * _coverage(rho - 8)


_BODIES: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "point": lambda u, v: np.exp(-(u**2 + v**2) / (2 * PSF_SIGMA_PX**2)),
    "sphere": lambda u, v: np.sqrt(np.maximum(0.0, 100 - u**2 - v**2)),
    "annulus": _annulus,
    "ellipse": _ellipse,
    "crescent": _crescent,
}


@lru_cache
def template(shape: str) -> FloatArray:
    """Return the cubic-spline coefficients of a shape's template (peak 1)."""
    axis = np.arange(-HALF_WIDTH_PX * OVERSAMPLING, HALF_WIDTH_PX * OVERSAMPLING + 1)
    v, u = np.meshgrid(axis / OVERSAMPLING, axis / OVERSAMPLING, indexing="ij")
    body = _BODIES[shape](u, v)
    if shape != "point":  # the point is the point-spread function itself
        body = gaussian_filter(body, PSF_SIGMA_PX * OVERSAMPLING, truncate=6)
    coefficients: FloatArray = spline_filter(body / body.max(), order=3)
    return coefficients


def draw(
    shape: str,
    y_px: float,
    x_px: float,
    *,
    angle_rad: float = 0.0,
    size: tuple[int, int] = (IMAGE_SIDE_PX, IMAGE_SIDE_PX),
) -> FloatArray:
    """Draw one noise-free particle, peak 1, on zero background.

    Parameters
    ----------
    shape
        One of `SHAPES`.
    y_px, x_px
        Centre; the crescent's is the centre of the uncut disk.
    angle_rad
        Direction of the body axis: (y, x) = (sin, cos).
    size
        Image shape (y, x).

    Returns
    -------
    Shape `size`, float64.
    """
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    dy, dx = rows - y_px, columns - x_px
    u = np.cos(angle_rad) * dx + np.sin(angle_rad) * dy
    v = -np.sin(angle_rad) * dx + np.cos(angle_rad) * dy
    where = [(c + HALF_WIDTH_PX) * OVERSAMPLING for c in (v, u)]
    drawn = map_coordinates(template(shape), where, order=3, prefilter=False)
    clipped: FloatArray = np.clip(drawn, 0, None)
    return clipped


def add_noise(
    signal: FloatArray, snr: float, rng: np.random.Generator, *, kind: str = "poisson"
) -> FloatArray:
    """Put a signal of peak 1 on the benchmark's background and add noise.

    Parameters
    ----------
    signal
        Noise-free, peak 1.
    snr
        Peak over noise.
    kind
        ``poisson`` (std 1.15 / snr at the peak, 0.35 / snr in the background) or
        ``gaussian`` (std 1 / snr everywhere).
    """
    clean = signal + BACKGROUND
    if kind == "gaussian":
        return clean + rng.normal(0, 1 / snr, clean.shape)
    photons = photons_per_unit(snr)
    noisy: FloatArray = rng.poisson(photons * clean) / photons
    return noisy


def photons_per_unit(snr: float) -> float:
    """Return the photon count of intensity 1: (snr / 1.1)²."""
    return snr**2 / (1 + BACKGROUND) ** 2


@dataclass(frozen=True, slots=True)
class Sample:
    """Benchmark images of one shape with their truth.

    `images` (n, 64, 64) float64, `centres_px` (n, 2) (y, x), `angles_rad` (n,).
    """

    images: FloatArray
    centres_px: FloatArray
    angles_rad: FloatArray

    @property
    def axes(self) -> FloatArray:
        """Unit vector (y, x) of the body axis, shape (n, 2)."""
        return np.column_stack([np.sin(self.angles_rad), np.cos(self.angles_rad)])


def sample(
    shape: str, n: int, *, snr: float, seed: int, kind: str = "poisson"
) -> Sample:
    """Draw `n` benchmark images: one particle each, within ±5 px of the centre."""
    rng = np.random.default_rng([seed, SHAPES.index(shape)])
    middle = (IMAGE_SIDE_PX - 1) / 2
    centres = middle + rng.uniform(-5, 5, (n, 2))
    angles = rng.uniform(0, 2 * np.pi, n)
    images = np.stack(
        [
            add_noise(draw(shape, y, x, angle_rad=a), snr, rng, kind=kind)
            for (y, x), a in zip(centres, angles, strict=True)
        ]
    )
    return Sample(images, centres, angles)


def cramer_rao_bound_px(
    shape: str, snr: float, *, n_poses: int = 40, seed: int = 0, kind: str = "poisson"
) -> float:
    """Return the smallest possible per-axis error of an unbiased estimator, px.

    Shape, amplitude and background are known; the orientation of `ORIENTED` shapes is
    an unknown nuisance parameter. For the crescent, any fixed point on the body axis
    counts: the best one is taken.
    """
    rng = np.random.default_rng(seed)
    poses = zip(
        rng.uniform(-5, 5, (n_poses, 2)) + (IMAGE_SIDE_PX - 1) / 2,
        rng.uniform(0, 2 * np.pi, n_poses),
        strict=True,
    )
    offsets = np.arange(-15, 15.01, 0.25) if shape == "crescent" else np.zeros(1)
    variances = np.zeros(len(offsets))
    for (y, x), angle in poses:
        fisher = _fisher_matrix(shape, (y, x, angle), snr, kind)
        if shape not in ORIENTED:
            fisher = fisher[:2, :2]
        covariance = np.linalg.inv(fisher)
        for i, offset in enumerate(offsets):
            # position = centre + offset * axis; axis turns with the angle.
            jacobian = np.eye(2, len(covariance))
            if len(covariance) == 3:
                jacobian[:, 2] = offset * np.array([np.cos(angle), -np.sin(angle)])
            variances[i] += np.trace(jacobian @ covariance @ jacobian.T) / 2
    return float(np.sqrt(variances.min() / n_poses))


def _fisher_matrix(
    shape: str, pose: tuple[float, float, float], snr: float, kind: str
) -> FloatArray:
    step = 1e-3
    gradients = []
    for axis in range(3):
        up, down = np.array(pose), np.array(pose)
        up[axis] += step
        down[axis] -= step
        difference = draw(shape, up[0], up[1], angle_rad=up[2]) - draw(
            shape, down[0], down[1], angle_rad=down[2]
        )
        gradients.append(difference.ravel() / (2 * step))
    signal = draw(shape, pose[0], pose[1], angle_rad=pose[2]).ravel() + BACKGROUND
    if kind == "gaussian":
        precision = np.full_like(signal, snr**2)
    else:
        precision = photons_per_unit(snr) / signal
    jacobian = np.stack(gradients)
    matrix: FloatArray = (jacobian * precision) @ jacobian.T
    return matrix


def position_errors_px(
    shape: str, estimates_px: npt.ArrayLike, truth: Sample
) -> FloatArray:
    """Return estimate minus truth, shape (n, 2), px.

    For the crescent the best constant offset along the body axis is removed first:
    any point of the symmetry axis is a valid centre if it is used consistently.
    """
    errors: FloatArray = np.asarray(estimates_px, dtype=float) - truth.centres_px
    if shape == "crescent":
        along = np.sum(errors * truth.axes, axis=1)
        errors = errors - np.median(along) * truth.axes
    return errors


def rmse_px(errors_px: FloatArray) -> float:
    """Return the per-axis root-mean-square of errors (n, 2), px."""
    return float(np.sqrt(np.mean(errors_px**2)))
