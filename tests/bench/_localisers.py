"""Other ways to locate one particle in an image: the accuracy bench's baselines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import uniform_filter

from tests.simulation.shapes import (
    BACKGROUND,
    ORIENTED,
    FloatArray,
    Sample,
    draw,
    photons_per_unit,
)

Localiser = Callable[[FloatArray], FloatArray]


def plain_centroid(image: FloatArray) -> FloatArray:
    """Centroid of the image minus the mean of its border."""
    return _centroid(image - _border_mean(image))


def thresholded_centroid(image: FloatArray) -> FloatArray:
    """Centroid of pixels whose 3x3-smoothed signal exceeds a quarter of its peak."""
    signal = image - _border_mean(image)
    smooth = uniform_filter(signal, 3)
    return _centroid(np.where(smooth > 0.25 * smooth.max(), signal.clip(0), 0))


def radial_symmetry(image: FloatArray) -> FloatArray:
    """Point nearest to all gradient lines (Parthasarathy, Nat. Methods 2012)."""
    rows, columns = (np.arange(n - 1) + 0.5 for n in image.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    # Differences along the two diagonals, taken at the corners between pixels.
    along = uniform_filter(image[1:, 1:] - image[:-1, :-1], 3)
    across = uniform_filter(image[1:, :-1] - image[:-1, 1:], 3)
    gy, gx = along + across, along - across
    power = gy**2 + gx**2
    total = power.sum() + 1e-300
    middle = (y * power).sum() / total, (x * power).sum() / total
    weight = power / np.maximum(np.hypot(y - middle[0], x - middle[1]), 1e-6)
    norm = np.sqrt(power) + 1e-300
    # A line through (y, x) along (gy, gx) has the normal (ny, nx) = (-gx, gy).
    ny, nx = -gx / norm, gy / norm
    offset = ny * y + nx * x
    matrix = np.array(
        [
            [(weight * ny * ny).sum(), (weight * ny * nx).sum()],
            [(weight * ny * nx).sum(), (weight * nx * nx).sum()],
        ]
    )
    right = np.array([(weight * ny * offset).sum(), (weight * nx * offset).sum()])
    solved: FloatArray = np.linalg.solve(matrix + 1e-12 * np.eye(2), right)
    return solved


def trackpy_refinement(image: FloatArray) -> FloatArray:
    """Trackpy's bandpass and centre-of-mass refinement from the brightest pixel."""
    import trackpy
    from trackpy.preprocessing import bandpass

    filtered = bandpass(image, 1.5, 27, threshold=0)
    start = np.array(np.unravel_index(np.argmax(filtered), filtered.shape))
    radius = 13
    start = np.clip(start, radius, np.array(image.shape) - radius - 1)
    found = trackpy.refine.refine_com(
        image, filtered, radius, start[None].astype(float), max_iterations=10
    )
    columns = found if isinstance(found, np.ndarray) else found[["y", "x"]].to_numpy()
    position: FloatArray = np.asarray(columns, dtype=float)[0, :2]
    return position


def maximum_likelihood(shape: str, snr: float, truth: Sample) -> FloatArray:
    """Locate every image of a sample with its true template, from its true pose.

    Shape, amplitude and background are known; the angle is fitted for oriented shapes
    (Fisher scoring, four iterations): the best any method can do.
    """
    free = 3 if shape in ORIENTED else 2
    found = np.empty_like(truth.centres_px)
    for i, image in enumerate(truth.images):
        pose = np.array([*truth.centres_px[i], truth.angles_rad[i]])
        for _ in range(4):
            clean = _drawn(shape, pose) + BACKGROUND
            weight = photons_per_unit(snr) / clean
            slopes = np.stack([_slope(shape, pose, axis) for axis in range(free)])
            score = (slopes * weight) @ (image.ravel() - clean)
            pose[:free] += np.linalg.solve((slopes * weight) @ slopes.T, score)
        found[i] = pose[:2]
    return found


def _drawn(shape: str, pose: FloatArray) -> FloatArray:
    y, x, angle = (float(v) for v in pose)
    return draw(shape, y, x, angle_rad=angle).ravel()


def _slope(shape: str, pose: FloatArray, axis: int) -> FloatArray:
    step = np.zeros(3)
    step[axis] = 5e-3
    difference = _drawn(shape, pose + step) - _drawn(shape, pose - step)
    slope: FloatArray = difference / 0.01
    return slope


def locate_all(localiser: Localiser, images: FloatArray) -> FloatArray:
    """Apply a localiser to images (n, y, x); a failure counts as the image's centre."""
    middle = (np.array(images.shape[1:]) - 1) / 2
    found = np.empty((len(images), 2))
    for i, image in enumerate(images):
        position = localiser(image)
        found[i] = position if np.isfinite(position).all() else middle
    return found


def _border_mean(image: FloatArray) -> float:
    inner = np.zeros(image.shape, dtype=bool)
    inner[1:-1, 1:-1] = True
    return float(image[~inner].mean())


def _centroid(signal: FloatArray) -> FloatArray:
    rows, columns = np.indices(signal.shape)
    total = signal.sum()
    if abs(total) < 1e-12:
        return np.full(2, np.nan)
    return np.array([(signal * rows).sum() / total, (signal * columns).sum() / total])
