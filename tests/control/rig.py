"""A controller on a simulated stage in virtual time; frames are given by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from lodestar_live.control import Calibration, Controller, StageResponse
from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Frame,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import ControlSettings, TravelLimits
from tests.simulation.stage import SimulatedStage, StagePhysics, VirtualClock

LIMITS = TravelLimits(y_um=(-200, 200), x_um=(-200, 200), z_um=(-100, 100))
FAST = StagePhysics(tau_s=0.0, quantum_um=0.0, busy_s=0.0, speed_um_per_s=1e9)
PERIOD_S = 0.02


class Rig:
    """Frames come 20 ms apart, 1 µm per px, and are decided on 5 ms later."""

    def __init__(
        self, *, stage=None, curve=None, z_sign=1, backlash_um=0.0, optics=None, **set_
    ) -> None:
        self.clock, self.events = VirtualClock(), []
        self.stage = SimulatedStage(self.clock, FAST) if stage is None else stage
        if stage is not None:
            stage._clock = self.clock
        self.calibration = Calibration(
            PixelToStage(np.eye(2)),
            residual_px=0.01,
            measured=datetime.now(UTC),
            response=StageResponse(),
            backlash_um=(backlash_um, backlash_um),
            z_sign=z_sign,
            focus=curve,
            optics=optics or {},
        )
        usual = {"follow": True, "armed": True, "limits": LIMITS, "deadband_um": 0.2}
        self.controller = Controller(
            ControlSettings(**(usual | set_)),
            self.stage,
            clock=self.clock,
            tell=self.events.append,
            calibration=self.calibration,
        )
        self.index = 0

    def frame(
        self,
        targets,
        *,
        z_um=0.0,
        pixels=None,
        shape=(100, 100),
        sigma_px=0.05,
        **facts,
    ):
        """Show tracks {id: (y_um, x_um) in the sample}; then the controller acts."""
        self.clock.now_s = PERIOD_S * (self.index + 1)
        t_s, place = self.clock.now_s, self.stage.true_position_um()[1:]
        rows = blank_rows(TRACK_DTYPE, len(targets))
        for row, (track_id, sample_um) in zip(rows, targets.items(), strict=True):
            offset = np.array(sample_um, dtype=float) - place
            row["y_px"], row["x_px"] = offset + (np.array(shape) - 1) / 2
            row["track_id"], row["sigma_px"] = track_id, sigma_px
            row["age_frames"], row["intensity"], row["z_um"] = 1000, 1.0, z_um
            row["vx_px_per_frame"] = row["vy_px_per_frame"] = 0.0
        image = np.zeros(shape) if pixels is None else pixels
        frame = Frame(self.index, image, t_s, t_s, **facts)
        self.clock.now_s += 0.005
        self.controller.process(Update(frame, Detections.empty(), Tracks(rows)))
        self.controller.idle()
        self.index += 1

    @property
    def halted(self):
        return self.controller.gate.halted

    @property
    def z_um(self) -> float:
        return float(self.stage.true_position_um()[0])

    def kinds(self, kind):
        return [event for event in self.events if event.kind == kind]


def circle(k: int) -> tuple[float, float]:
    """A target that goes round with 8 µm/s."""
    return 10 * np.sin(k / 60), 10 * np.cos(k / 60) - 10
