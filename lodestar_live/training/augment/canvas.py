"""The snapshot's own background for augmented views.

Copies of a particle on synthetic noise teach nothing about walls, tissue or dirt. Part
of the views show them on patches of the snapshot instead. Real particles lie there as
well: near them a cell counts neither as a particle's nor as background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.frame.prepare import estimate
from lodestar_live.training.particle.suspects import distance_from

_CLEAR_RADII = 2.2  # a free place is so far from every other particle
_TOUCHING_RADII = 1.2  # or so far, where the snapshot is crowded
_LEAST_PLACES = 50
_LEAST_SIDE_PX = 64
_FREE = 0.6  # share of the patches whose copy lies on a free place
_BAITED = 0.3  # and beside something that is no particle, if the user named any
_BESIDE = (1.8, 3.0)  # so far from it, in radii
_MOST_PLACES = 20_000  # of a kind that are remembered


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """The snapshot in one of its eight orientations, with a reflected margin."""

    image: Tensor
    away: Tensor
    inside: npt.NDArray[np.int64]
    free: npt.NDArray[np.int64]
    baited: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """Cuts patches of a snapshot, in units of its noise.

    Parameters
    ----------
    noise
        The snapshot's noise, camera counts.
    """

    noise: float
    _planes: tuple[_Plane, ...]
    _margin_px: int

    @classmethod
    def of(
        cls,
        image: Pixels,
        particles_px: FloatArray,
        radius_px: float,
        side_px: int,
        lures_px: FloatArray | None = None,
        wanted: npt.NDArray[np.bool_] | None = None,
    ) -> Self | None:
        """Lay out an image, (y, x), for views of `side_px`; None if it is too small.

        `particles_px` (n, 2): where particles lie, or may lie. `lures_px` (n, 2): where
        something lies that the user said is none; a third of the patches show one.
        `wanted` (y, x): where copies are laid. None: everywhere.
        """
        lures_px = np.empty((0, 2)) if lures_px is None else lures_px
        if min(image.shape) < max(_LEAST_SIDE_PX, 1.5 * side_px):
            return None
        levels = estimate(image)
        pixels = (image.astype(np.float32) - levels.background) / levels.scale
        away = distance_from(particles_px, image.shape).astype(np.float32)
        free = away > _CLEAR_RADII * radius_px
        if wanted is None:
            wanted = np.ones(image.shape, bool)
        if (free & wanted).sum() < _LEAST_PLACES:
            free = away > _TOUCHING_RADII * radius_px
        margin = side_px
        rows = np.pad(pixels, margin, mode="reflect")
        apart = np.pad(away, margin, mode="reflect")
        inside = np.pad(wanted, margin)
        marked = inside & np.pad(free, margin)
        beside = distance_from(lures_px, image.shape) if len(lures_px) else away * 0
        baited = (beside > _BESIDE[0] * radius_px) & (beside < _BESIDE[1] * radius_px)
        baited = inside & np.pad(baited, margin)
        masks = inside, marked, baited
        planes = tuple(
            _Plane(
                torch.from_numpy(_oriented(rows, k)),
                torch.from_numpy(_oriented(apart, k)),
                *(_some(_oriented(mask, k)) for mask in masks),
            )
            for k in range(8)
        )
        return cls(levels.scale, planes, margin)

    def cut(
        self, first_px: Tensor, side_px: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cut a patch for each view whose first copy lies at `first_px`, (n, 2).

        Returns the patches and, for each of their pixels, the distance to the next
        particle of the snapshot, px; both (n, side, side).
        """
        n = len(first_px)
        draws = torch.rand(n, 3, generator=generator, device=generator.device)
        corner = first_px.round().long().cpu().numpy()
        images, away = torch.empty(2, n, side_px, side_px)
        for index, (which, share, where) in enumerate(draws.cpu().numpy()):
            plane = self._planes[int(which * 8)]
            places = plane.inside
            if len(plane.baited) and share > 1 - _BAITED:
                places = plane.baited
            elif len(plane.free) >= _LEAST_PLACES and share < _FREE:
                places = plane.free
            corners = places[int(where * len(places))] - corner[index]
            top, left = (
                int(np.clip(c, 0, side - side_px))
                for c, side in zip(corners, plane.image.shape, strict=True)
            )
            window = slice(top, top + side_px), slice(left, left + side_px)
            images[index], away[index] = plane.image[window], plane.away[window]
        return images.to(first_px.device), away.to(first_px.device)


def _some(mask: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Return places where a mask is set, not more than can be drawn."""
    flat = np.flatnonzero(mask)
    flat = flat[:: max(1, len(flat) // _MOST_PLACES)]
    return np.stack(np.unravel_index(flat, mask.shape), axis=1)


def _oriented(plane: npt.NDArray[np.generic], k: int) -> npt.NDArray[np.generic]:
    """Return one of the eight orientations of a plane."""
    turned = np.rot90(plane, k % 4)
    return np.ascontiguousarray(turned[:, ::-1] if k >= 4 else turned)
