"""What the demo's camera sees, and the truth about it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lodestar_live.control import Calibration
from lodestar_live.data import FloatArray, Rows, StagePosition
from lodestar_live.live.clock import RunClock
from lodestar_live.microscope import CoreStage
from lodestar_live.simulation.beads import BeadField
from lodestar_live.simulation.scene import SwimmerScene
from lodestar_live.simulation.score import TRUTH_DTYPE

_UNRESOLVED_PX = 5.8  # Rayleigh: 0.61 wavelength/NA is 2.9 sigma; beads are 2 px
_CIRCLE_UM, _STEPS_PER_TURN = 20.0, 120


class CirclingBeads:
    """The camera's own beads; between two frames the stage goes round a circle."""

    def __init__(self, stage: CoreStage, wait: Callable[[], object]) -> None:
        self._stage, self._wait, self._n = stage, wait, 0
        self.visited: list[StagePosition] = []

    def render(self, stage_um: StagePosition) -> None:
        """Note where the frame was taken, then move on while the camera is idle."""
        self.visited.append(stage_um)
        self._n += 1
        angle = 2 * np.pi * self._n / _STEPS_PER_TURN
        y_um, x_um = _CIRCLE_UM * np.sin(angle), _CIRCLE_UM * (np.cos(angle) - 1)
        self._stage.move_to_um(float(y_um), float(x_um))
        self._wait()

    def forget(self) -> None:
        """Start the list of frames anew."""
        self.visited.clear()

    def truth(self, shape: tuple[int, int]) -> Rows:
        """Return the beads of every frame; unresolved pairs are marked -1."""
        beads = BeadField()
        frames = []
        names: dict[tuple[float, float], int] = {}
        for frame, stage in enumerate(self.visited):
            yx = beads.positions_px(stage, shape)
            yx = yx[np.all((yx > -20) & (yx < np.array(shape) + 20), axis=1)]
            world = np.round(yx + np.array(stage[1:]), 3)
            ids = [names.setdefault((y, x), len(names)) for y, x in world.tolist()]
            gap = np.hypot(*(yx[:, None] - yx[None]).transpose(2, 0, 1))
            np.fill_diagonal(gap, np.inf)
            particle = np.where(gap.min(axis=1) < _UNRESOLVED_PX, -1, ids)
            frames.append(_truth_rows(frame, particle, yx))
        return np.concatenate(frames)


class MovingSwimmers:
    """Moving particles, rendered where the live stage stands."""

    def __init__(self, shape: tuple[int, int], calibration: Calibration, seed: int):
        self._scene = SwimmerScene(
            shape, pixel_to_stage=calibration.map, seed=seed, clock=RunClock()
        )
        self.render = self._scene.render

    def forget(self) -> None:
        """Start the list of frames anew."""
        self._scene.truth.clear()

    def truth(self, shape: tuple[int, int]) -> Rows:
        """Return the particles of every frame."""
        return np.concatenate(
            [
                _truth_rows(frame, truth.particle_ids, truth.positions_px)
                for frame, truth in enumerate(self._scene.truth)
            ]
        )


def _truth_rows(frame: int, particles: npt.NDArray[np.int64], yx: FloatArray) -> Rows:
    rows = np.zeros(len(yx), TRUTH_DTYPE)
    rows["frame"], rows["particle"] = frame, particles
    rows["y_px"], rows["x_px"] = yx[:, 0], yx[:, 1]
    return rows
