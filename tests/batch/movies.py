"""Recordings of spots that walk, and the model that finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from tests.detection import networks

SIDE = 96


def write_model(folder: Path) -> Path:
    path = folder / "spots.onnx"
    path.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    return path


def walk(n_frames: int, n_particles: int, seed: int, side: int = SIDE) -> np.ndarray:
    """Return positions (frames, particles, 2) of a walk of 1 px a frame within."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1.0, (n_frames, n_particles, 2))
    path = rng.uniform(12, side - 12, (n_particles, 2)) + np.cumsum(steps, axis=0)
    path = np.abs(path - 8) % (2 * (side - 16))  # walls 8 px from the edge
    return 8 + np.minimum(path, 2 * (side - 16) - path)


def render(places: np.ndarray, seed: int, side: int = SIDE) -> np.ndarray:
    """Return noisy frames of spots, one of them left out now and then."""
    rng = np.random.default_rng(seed + 1000)
    frames = np.empty((len(places), side, side), np.uint16)
    for frame, yx in zip(frames, places, strict=True):
        seen = yx[rng.random(len(yx)) < 0.95]
        frame[:] = rng.poisson(networks.spots(seen, (side, side)))
    return frames


def write_movie(
    path: Path, *, n_frames: int = 60, n_particles: int = 6, seed: int = 0
) -> Path:
    """Write an ImageJ stack of 0.1 µm pixels at 20 frames per second."""
    frames = render(walk(n_frames, n_particles, seed), seed)
    tifffile.imwrite(
        path, frames, imagej=True, resolution=(10.0, 10.0),
        metadata={"axes": "TYX", "finterval": 0.05, "unit": "um"},
    )  # fmt: skip
    return path
