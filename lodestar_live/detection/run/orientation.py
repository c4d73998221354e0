"""The angle of every particle, by comparison with the training particle turned.

The best of a bank of turned particles comes first. Around it the image is, to first
order, a sum of the particle, its derivatives by angle, y and x, and a background:
a weighted linear fit gives the angle beside the rest, and its uncertainty. That is the
estimator of least variance where the particle's picture is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from lodestar_live.data import Pixels
from lodestar_live.detection.run.template import patches, shown_in_disk
from lodestar_live.model_card import OrientationFacts

_N_TURNS = 72
_COARSE = 3  # every third is compared with first
_STEPS = 4
_KEPT = 0.99  # of what tells turns apart
_MOST_STEP = 1.2 * _COARSE * np.pi / _N_TURNS  # the fit is linear: it must not run
_BATCH = 256

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Orientation:
    """The training particles turned, and what else a fit needs.

    Parameters
    ----------
    disk
        Which pixels of a square around a place count, (side, side); p in all.
    shapes
        Some of them, mean 0 and length 1, as sums of a few pictures, (n turns, k).
    pictures
        (k, p).
    solvers
        Take an image to amplitude and angle times amplitude, (n, turns, 2, p).
    heights
        The particles, peak about 1, (n, turns, p).
    zeros_rad
        Angle of each training particle as it was clicked, (n,).
    facts
        Of the card.
    """

    disk: npt.NDArray[np.bool_]
    shapes: Float32Array
    pictures: Float32Array
    solvers: Float32Array
    heights: Float32Array
    zeros_rad: FloatArray
    facts: OrientationFacts

    @classmethod
    def of(cls, signals: Sequence[npt.ArrayLike], facts: OrientationFacts) -> Self:
        """Turn particles, each shown around the middle of a square, every way."""
        images, disk, offsets = shown_in_disk(signals)
        tangents = np.stack([_tangents(image, offsets) for image in images])
        heights = tangents[..., 0]
        # Bright pixels are noisier where light is counted.
        weight = 1 / (1 + facts.shot * np.clip(heights, 0, None))[..., None]
        normal = np.swapaxes(tangents * weight, -1, -2) @ tangents
        solvers = np.linalg.pinv(normal) @ np.swapaxes(tangents * weight, -1, -2)
        above = heights - heights.mean(axis=-1, keepdims=True)
        shapes = above / np.linalg.norm(above, axis=-1, keepdims=True)
        turned = shapes[:, ::_COARSE].reshape(-1, shapes.shape[-1])
        parts, strength, pictures = np.linalg.svd(turned, full_matrices=False)
        share = np.cumsum(strength**2) / (strength**2).sum()
        k = int(np.searchsorted(share, _KEPT)) + 1
        return cls(
            disk,
            (parts * strength)[:, :k].astype(np.float32),
            pictures[:k].astype(np.float32),
            solvers[..., :2, :].astype(np.float32),
            heights.astype(np.float32),
            np.radians(facts.axis_deg),
            facts,
        )

    def measure(
        self, image: Pixels, places_px: FloatArray, *, noise: float, gain: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return the angle of each particle and its uncertainty, degrees, (n,) each.

        Angles run from the x axis (right) to the y axis (down), from 0 up to 360
        degrees over the particle's fold.

        Parameters
        ----------
        image
            Shape (y, x), any real type.
        places_px
            Shape (n, 2), (y, x).
        noise, gain
            Of a pixel, and variance per count of signal; units as `image`.
        """
        angle, sigma = np.empty((2, len(places_px)))
        for first in range(0, len(places_px), _BATCH):
            part = slice(first, first + _BATCH)
            seen = patches(image, places_px[part], self.disk).astype(np.float32)
            angle[part], sigma[part] = self._fit(seen, noise, gain)
        period = 360 / self.facts.fold
        return np.degrees(angle) % period, np.degrees(sigma)

    def _fit(
        self, seen: Float32Array, noise: float, gain: float
    ) -> tuple[FloatArray, FloatArray]:
        n_turns = self.heights.shape[1]
        # Not by BLAS: its threads wait for each other longer than this takes.
        seen_in = np.einsum("np,kp->nk", seen, self.pictures)
        likeness = np.einsum("nk,tk->nt", seen_in, self.shapes)
        best = likeness.argmax(axis=1) * _COARSE
        kind, turn = np.divmod(best, n_turns)
        angle = turn * (2 * np.pi / n_turns)
        for _ in range(_STEPS):
            solver = self.solvers[kind, turn]
            amplitude, turned = np.einsum("ncp,np->cn", solver, seen)
            step = turned / np.where(amplitude == 0, 1, amplitude)
            angle = turn * (2 * np.pi / n_turns)
            angle = angle + np.clip(step, -_MOST_STEP, _MOST_STEP)
            turn = np.round(angle / (2 * np.pi / n_turns)).astype(int) % n_turns
        signal = amplitude[:, None] * self.heights[kind, turn]
        variance = noise**2 + gain * np.clip(signal, 0, None)
        spread = np.sqrt((solver[:, 1] ** 2 * variance).sum(axis=1))
        sigma = spread / np.maximum(np.abs(amplitude), 1e-12)
        return angle + self.zeros_rad[kind], sigma


def _tangents(image: FloatArray, offsets_px: npt.NDArray[np.int64]) -> FloatArray:
    """Return a particle turned every way, with its derivatives, (turns, p, 5).

    The last axis: the particle; by angle (rad), y and x; a constant.
    """
    y, x = offsets_px.T.astype(float)
    angles = 2 * np.pi * np.arange(_N_TURNS)[:, None] / _N_TURNS
    cos, sin = np.cos(angles), np.sin(angles)
    own_x, own_y = cos * x + sin * y, cos * y - sin * x
    where = [own_y + (len(image) - 1) / 2, own_x + (len(image) - 1) / 2]
    by_y, by_x = (
        map_coordinates(slope, where, order=3) for slope in np.gradient(image)
    )
    seen = map_coordinates(image, where, order=3)
    by_angle = by_x * own_y - by_y * own_x
    return np.stack(
        [
            seen,
            by_angle,
            -(by_x * sin + by_y * cos),
            -(by_x * cos - by_y * sin),
            np.ones_like(seen),
        ],
        axis=-1,
    )
