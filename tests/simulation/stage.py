"""A closed loop with known truth: stage, camera, target; real control code inside.

Time is virtual, so 15 s of a 50 fps run take about a tenth of that, and every run is
the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Event,
    FloatArray,
    Frame,
    Pixels,
    StagePosition,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.geometry import PixelToStage


class VirtualClock:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the present."""
        return self.now_s


@dataclass(frozen=True, slots=True)
class StagePhysics:
    """What a real stage does to a command.

    Parameters
    ----------
    dead_s, tau_s, speed_um_per_s
        Nothing moves for `dead_s`; then exponential approach, limited in speed.
    busy_s
        How long the stage calls itself busy after a command.
    quantum_um, backlash_um
        Smallest step; play after a change of direction.
    """

    dead_s: float = 0.0
    tau_s: float = 0.010
    speed_um_per_s: float = 1000.0
    busy_s: float = 0.010
    quantum_um: float = 0.1
    backlash_um: float = 0.0


class SimulatedStage:
    """A `StageDriver` (and `PropertyDriver`) in virtual time."""

    def __init__(
        self, clock: VirtualClock, physics: StagePhysics = StagePhysics()
    ) -> None:
        self.physics, self._clock = physics, clock
        self.n_moves = self.n_stops = 0
        self.properties: dict[tuple[str, str], str] = {}
        self._motor: FloatArray = np.zeros(3)  # (z, y, x)
        self._sample: FloatArray = np.zeros(3)  # behind the backlash
        self._goal: FloatArray = np.zeros(3)
        self._waiting: list[tuple[float, FloatArray]] = []
        self._t_s = 0.0
        self._t_command_s = -np.inf

    def position_um(self) -> StagePosition:
        """Return the encoder's reading (the motor side of the backlash)."""
        self._advance(self._clock())
        return StagePosition(*(float(v) for v in self._motor))

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Start a move in the plane."""
        goal = self._newest_goal()
        goal[1:] = y_um, x_um
        self._command(goal)

    def move_z_to_um(self, z_um: float) -> None:
        """Start a move of the focus drive."""
        goal = self._newest_goal()
        goal[0] = z_um
        self._command(goal)

    def is_busy(self) -> bool:
        """Return whether the last command is younger than `busy_s`."""
        return self._clock() - self._t_command_s < self.physics.busy_s - 1e-9

    def stop(self) -> None:
        """Stand still where the stage is."""
        self._advance(self._clock())
        self._waiting.clear()
        self._goal = self._motor.copy()
        self.n_stops += 1

    def set_property(self, device: str, name: str, value: str) -> None:
        """Remember the value."""
        self.properties[device, name] = value

    def push(self, displacement_um: FloatArray) -> None:
        """Displace the stage from outside, at once; (z, y, x)."""
        self._advance(self._clock())
        for place in (self._motor, self._sample, self._goal):
            place += displacement_um
        self._waiting = [(t, goal + displacement_um) for t, goal in self._waiting]

    def true_position_um(self) -> FloatArray:
        """Return where the sample stands now, (z, y, x): the truth."""
        self._advance(self._clock())
        return self._sample.copy()

    def _newest_goal(self) -> FloatArray:
        newest = self._waiting[-1][1] if self._waiting else self._goal
        return np.array(newest)

    def _command(self, goal: FloatArray) -> None:
        now_s, quantum_um = self._clock(), self.physics.quantum_um
        self._advance(now_s)
        if quantum_um:
            goal = np.round(goal / quantum_um) * quantum_um
        self._waiting.append((now_s + self.physics.dead_s, goal))
        self._t_command_s, self.n_moves = now_s, self.n_moves + 1

    def _advance(self, t_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= t_s:
            t_goal_s, goal = self._waiting.pop(0)
            self._approach(t_goal_s)
            self._goal = goal
        self._approach(t_s)

    def _approach(self, t_s: float) -> None:
        """Let the motor run until `t_s` towards the present goal, exactly."""
        physics, time_s = self.physics, max(t_s - self._t_s, 0.0)
        self._t_s = max(t_s, self._t_s)
        way = self._goal - self._motor
        left = np.abs(way)
        ramp_s = np.maximum(left / physics.speed_um_per_s - physics.tau_s, 0.0)
        left = left - physics.speed_um_per_s * np.minimum(time_s, ramp_s)
        rest_s = np.maximum(time_s - ramp_s, 0.0)
        decay = np.exp(-rest_s / physics.tau_s) if physics.tau_s else rest_s <= 0
        self._motor = self._goal - np.sign(way) * left * decay
        play = physics.backlash_um / 2
        self._sample = np.clip(self._sample, self._motor - play, self._motor + play)


@dataclass(frozen=True, slots=True)
class Camera:
    """What lies between the target and the controller.

    Parameters
    ----------
    fps, delay_frames
        Frame rate; frames between exposure and the command made from it.
    shape, um_per_px
        View.
    sigma_um
        Localisation noise per axis.
    miss_rate, outlier_rate, outlier_um
        Share of frames without detection; with one that is up to so far off.
    """

    fps: float = 50.0
    delay_frames: int = 2
    shape: tuple[int, int] = (400, 400)
    um_per_px: float = 0.2
    sigma_um: float = 0.05
    miss_rate: float = 0.0
    outlier_rate: float = 0.0
    outlier_um: float = 10.0


class _Processes(Protocol):
    def process(self, update: Update) -> None: ...

    def idle(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class LoopResult:
    """What a closed-loop run gave.

    `error_um`, (n, 2): target minus view centre at each exposure; `lost_at` is the
    first frame in which the target was outside the view, or None.
    """

    error_um: FloatArray
    stage_um: FloatArray
    n_moves: int
    lost_at: int | None

    def rms_um(self, first: int = 0) -> float:
        """Root mean square per axis from frame `first` on."""
        return float(np.sqrt(np.mean(self.error_um[first:] ** 2)))


@dataclass(slots=True, eq=False)
class ClosedLoop:
    """One target, one camera, one stage and the controller under test.

    Parameters
    ----------
    path_um
        (n, 2): the target's true place at each exposure.
    make_controller
        (stage, clock, tell) -> something with ``process(update)``.
    camera, physics
        The simulated hardware.
    mapping
        The true map from pixels to stage; None: aligned.
    seed
        Of noise, misses and outliers.
    """

    path_um: FloatArray
    make_controller: Callable[
        [SimulatedStage, VirtualClock, Callable[[Event], None]], _Processes
    ]
    camera: Camera = Camera()
    physics: StagePhysics = StagePhysics()
    mapping: PixelToStage | None = None
    seed: int = 0
    disturb: Callable[[SimulatedStage, int], None] | None = None
    events: list[Event] = field(default_factory=list)

    def run(self) -> LoopResult:
        """Run to the end of the path, or until the target leaves the view."""
        camera, rng = self.camera, np.random.default_rng(self.seed)
        clock = VirtualClock()
        stage = SimulatedStage(clock, self.physics)
        controller = self.make_controller(stage, clock, self.events.append)
        errors, places, lost_at = [], [], None
        queue: list[Update] = []
        blank = np.zeros(camera.shape, np.uint8)
        half_um = (np.array(camera.shape) - 1) / 2 * camera.um_per_px
        for k, target_um in enumerate(self.path_um):
            clock.now_s = k / camera.fps
            if self.disturb is not None:
                self.disturb(stage, k)
            place = stage.true_position_um()[1:]
            errors.append(target_um - place)
            places.append(place)
            if np.any(np.abs(target_um - place) > half_um):
                lost_at = k
                break
            queue.append(self._expose(k, target_um, place, blank, rng))
            if len(queue) > camera.delay_frames:
                clock.now_s += 1e-6  # after this exposure: too late for it
                controller.process(queue.pop(0))
        return LoopResult(np.array(errors), np.array(places), stage.n_moves, lost_at)

    def _expose(
        self,
        k: int,
        target_um: FloatArray,
        place_um: FloatArray,
        pixels: Pixels,
        rng: np.random.Generator,
    ) -> Update:
        camera = self.camera
        mapping = self.mapping or PixelToStage.from_pixel_size(camera.um_per_px)
        seen_um = target_um + rng.normal(0, camera.sigma_um, 2)
        if rng.random() < camera.outlier_rate:
            seen_um = seen_um + rng.uniform(-1, 1, 2) * camera.outlier_um
        rows = blank_rows(TRACK_DTYPE, 1)
        rows["y_px"], rows["x_px"] = mapping.pixel_px(seen_um, place_um, camera.shape)
        rows["track_id"], rows["age_frames"] = 1, k + 1
        rows["sigma_px"] = camera.sigma_um / camera.um_per_px
        rows["missed_frames"] = rng.random() < camera.miss_rate
        rows["score"] = rows["intensity"] = rows["existence"] = 1.0
        frame = Frame(k, pixels, k / camera.fps, pixel_size_um=camera.um_per_px)
        return Update(frame, Detections.empty(), Tracks(rows))


def brownian(
    n: int, dt: float, rng: np.random.Generator, *, diffusion_um2_per_s: float
) -> FloatArray:
    """Return a Brownian path in the plane, (n, 2) µm, starting at 0."""
    steps = rng.normal(0, np.sqrt(2 * diffusion_um2_per_s * dt), (n, 2))
    steps[0] = 0
    return np.asarray(np.cumsum(steps, axis=0))


def drift(
    n: int, dt: float, rng: np.random.Generator, *, speed_um_per_s: float
) -> FloatArray:
    """Return a straight path, (n, 2) µm: `speed_um_per_s` along both axes."""
    signs = rng.choice([-1.0, 1.0], 2)
    return np.asarray(np.arange(n)[:, None] * dt * speed_um_per_s * signs)


def swimmer(
    n: int,
    dt: float,
    rng: np.random.Generator,
    *,
    speed_um_per_s: float,
    persistence_s: float,
) -> FloatArray:
    """Return a path of Ornstein-Uhlenbeck velocity, (n, 2) µm, starting at 0.

    `speed_um_per_s` is the rms per axis; position is integrated exactly.
    """
    decay = np.exp(-dt / persistence_s)
    covariance = _swim_noise(dt, persistence_s) * speed_um_per_s**2
    kicks = rng.multivariate_normal(np.zeros(2), covariance, (n, 2))
    velocity = rng.normal(0, speed_um_per_s, 2)
    place, path = np.zeros(2), np.zeros((n, 2))
    for k in range(1, n):
        place = place + persistence_s * (1 - decay) * velocity + kicks[k, :, 0]
        velocity = decay * velocity + kicks[k, :, 1]
        path[k] = place
    return np.asarray(path)


def _swim_noise(dt: float, tau: float) -> FloatArray:
    a = float(np.exp(-dt / tau))
    xx = tau**2 * (2 * dt / tau - 3 + 4 * a - a**2)
    xv = tau * (1 - a) ** 2
    covariance: FloatArray = np.array([[xx, xv], [xv, 1 - a**2]])
    return covariance
