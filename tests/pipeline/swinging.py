"""Spots that diffuse on a stage that swings, before a background 30 times as strong."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from lodestar_live.data import StagePosition
from lodestar_live.geometry import PixelToStage

PIXEL_UM = 0.1
SIDE, PEAK, NOISE = 192, 100.0, 8.0
MAP = PixelToStage.from_pixel_size(PIXEL_UM)


@dataclass
class SwingingScene:
    """Render particles where the stage stands, before what does not move with it.

    Particles of `networks.spots` diffuse by D = 1 µm²/s within the view; the camera's
    noise is the same with and without the background.
    """

    n_particles: int = 8
    frame_s: float = 0.03
    seed: int = 0
    ratio: float = 30.0
    truth_px: list[np.ndarray] = field(default_factory=list)
    truth_um: list[np.ndarray] = field(default_factory=list)
    plain: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        half_um = PIXEL_UM * (SIDE / 2 - 24)
        self.half_um = half_um
        self.where_um = np.empty((0, 2))
        while len(self.where_um) < self.n_particles:
            new = self.rng.uniform(-half_um, half_um, (1, 2))
            if np.all(np.linalg.norm(self.where_um - new, axis=1) > 24 * PIXEL_UM):
                self.where_um = np.concatenate([self.where_um, new])
        speckle = gaussian_filter(self.rng.normal(size=(SIDE, SIDE)), 3.0)
        self.still = self.ratio * PEAK * speckle / np.abs(speckle).max() + 4000.0

    def render(self, stage_um: StagePosition) -> np.ndarray:
        self._move()
        at_px = MAP.pixel_px(self.where_um, np.array(stage_um[1:]), (SIDE, SIDE))
        self.truth_px.append(at_px)
        self.truth_um.append(self.where_um.copy())
        noise = self.rng.normal(0, NOISE, (SIDE, SIDE))
        seen = _spots(at_px) + noise
        self.plain.append(seen)
        return np.rint(self.still + seen).clip(0, 65535).astype(np.uint16)

    def _move(self) -> None:
        """Diffuse; who comes near another or the edge steps back."""
        spread = np.sqrt(2 * 1.0 * self.frame_s)
        for k in range(self.n_particles):
            new = self.where_um[k] + self.rng.normal(0, spread, 2)
            others = np.delete(self.where_um, k, axis=0)
            is_apart = np.linalg.norm(others - new, axis=1).min() > 20 * PIXEL_UM
            if is_apart and np.abs(new).max() < self.half_um:
                self.where_um[k] = new


def _spots(at_px: np.ndarray) -> np.ndarray:
    y, x = np.indices((SIDE, SIDE))
    image = np.zeros((SIDE, SIDE))
    for cy, cx in at_px:
        image += PEAK * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.5**2))
    return image


def match(found: np.ndarray, truth: np.ndarray, gate: float = 3.0) -> np.ndarray:
    """Return the error (2,) of each truth that was found, and NaN of the others."""
    errors = np.full((len(truth), 2), np.nan)
    if len(found):
        distance = cdist(truth, found)
        nearest = distance.argmin(axis=1)
        hit = distance.min(axis=1) < gate
        errors[hit] = found[nearest[hit]] - truth[hit]
    return errors


def recall_and_rms(errors: list[np.ndarray]) -> tuple[float, float]:
    """Return the share found, and the rms error per axis of those."""
    every = np.concatenate(errors)
    known = np.isfinite(every).all(axis=1)
    rms = float(np.sqrt(np.mean(every[known] ** 2))) if known.any() else np.nan
    return float(known.mean()), rms
