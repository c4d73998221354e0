"""Particles that move, appear, vanish and merge, with the truth known.

What a linker is judged by: positions as a detector would report them (misses, false
positives, localisation noise, merged neighbours, random order), and which particle
each detection is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from lodestar_live.data import Detections, FloatArray

Motion = Literal["brownian", "drift", "directed", "flow", "switch", "burst"]
MOTIONS: tuple[Motion, ...] = get_args(Motion)

DIRECTED_SHARE = 0.95  # of the rms step; the rest is Brownian, added in quadrature
DRIFT_SHARE = 0.8
TURNING_RAD = 0.2  # per frame: a direction lasts for tens of frames
SWITCHING = 0.02  # probability per frame of changing between Brownian and directed
MERGED = -2
BURST_EVERY = 10  # every tenth frame lasts twice as long


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulated movie.

    Parameters
    ----------
    motion
        How particles move; all are scaled to about the same rms step.
    n
        Number of particles, Poisson-random over a square at `spacing_px`.
    ratio
        rms step per frame in units of the spacing: the difficulty.
    miss, clutter, turnover
        Probability that a particle is missed in a frame; false positives per particle;
        probability that a particle ends (and another is born elsewhere) in a frame.
    noise_px
        Localisation noise per axis.
    merge_px
        Particles closer than this give one detection between them.
    """

    motion: Motion
    n: int
    ratio: float
    n_frames: int = 36
    seed: int = 0
    spacing_px: float = 20.0
    miss: float = 0.05
    clutter: float = 0.05
    turnover: float = 0.005
    noise_px: float = 0.15
    merge_px: float = 2.0

    @property
    def step_px(self) -> float:
        """The rms step per frame."""
        return self.ratio * self.spacing_px

    @property
    def size_px(self) -> float:
        """Side of the square world."""
        return self.spacing_px * float(np.sqrt(self.n))


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedFrame:
    """Detections of one frame and the particle behind each.

    `particle`: shape (n,); -1 for a false positive, `MERGED` for a detection that two
    particles share, which is then either's.
    """

    detections: Detections
    particle: npt.NDArray[np.int64]


def simulate_motion(scenario: Scenario) -> Iterator[SimulatedFrame]:
    """Yield the frames of a scenario; the same scenario gives the same frames."""
    world = _World(scenario)
    for index in range(scenario.n_frames):
        if index:
            world.step(index)
        yield world.observe()


@dataclass(slots=True)
class _World:
    scenario: Scenario
    rng: np.random.Generator = field(init=False)
    position: FloatArray = field(init=False)
    angle: FloatArray = field(init=False)
    is_directed: npt.NDArray[np.bool_] = field(init=False)
    particle: npt.NDArray[np.int64] = field(init=False)
    next_particle: int = field(init=False)

    def __post_init__(self) -> None:
        n = self.scenario.n
        self.rng = np.random.default_rng(self.scenario.seed)
        self.position = self.rng.uniform(0, self.scenario.size_px, (n, 2))
        self.angle = self.rng.uniform(0, 2 * np.pi, n)
        share = {"directed": 1.0, "switch": 0.5}.get(self.scenario.motion, 0.0)
        self.is_directed = self.rng.random(n) < share
        self.particle = np.arange(n)
        self.next_particle = n

    def step(self, index: int) -> None:
        """Move everything by one frame; replace what ends or leaves."""
        s, rng = self.scenario, self.rng
        velocity, brownian = self._velocity(index)
        kicks = rng.normal(0.0, 1.0, (s.n, 2)) * (brownian * s.step_px / np.sqrt(2))
        self.position = self.position + velocity + kicks
        self.angle = self.angle + rng.normal(0.0, TURNING_RAD, s.n)
        if s.motion == "switch":
            self.is_directed ^= rng.random(s.n) < SWITCHING
        left = ((self.position < 0) | (self.position >= s.size_px)).any(axis=1)
        self.position = np.mod(self.position, s.size_px)
        died = rng.random(s.n) < s.turnover
        n_died = int(died.sum())
        self.position[died] = rng.uniform(0, s.size_px, (n_died, 2))
        self.angle[died] = rng.uniform(0, 2 * np.pi, n_died)
        new = np.flatnonzero(left | died)
        self.particle = self.particle.copy()
        self.particle[new] = self.next_particle + np.arange(len(new))
        self.next_particle += len(new)

    def _velocity(self, index: int) -> tuple[FloatArray, FloatArray]:
        """Return velocities (n, 2), px per frame, and Brownian shares (n, 1)."""
        s = self.scenario
        velocity, brownian = np.zeros((s.n, 2)), np.ones((s.n, 1))
        if s.motion == "burst":
            brownian *= np.sqrt(2.0) if index % BURST_EVERY == 0 else 1.0
        elif s.motion == "drift":
            velocity[:] = np.array([0.6, 0.8]) * DRIFT_SHARE * s.step_px
            brownian *= np.sqrt(1 - DRIFT_SHARE**2)
        elif s.motion == "flow":
            across = 2 * self.position[:, 0] / s.size_px - 1
            # The rms of the Poiseuille profile 1 - u^2 over -1 < u < 1 is sqrt(8/15).
            peak = DIRECTED_SHARE * s.step_px / np.sqrt(8 / 15)
            velocity[:, 1] = peak * (1 - across**2)
            brownian *= np.sqrt(1 - DIRECTED_SHARE**2)
        else:
            own = self.is_directed
            heading = np.column_stack([np.sin(self.angle), np.cos(self.angle)])
            velocity[own] = DIRECTED_SHARE * s.step_px * heading[own]
            brownian[own] = np.sqrt(1 - DIRECTED_SHARE**2)
        return velocity, brownian

    def observe(self) -> SimulatedFrame:
        """Detect: merge close neighbours, miss some, add noise and false positives."""
        s, rng = self.scenario, self.rng
        position, visible, particle = self._merged()
        visible &= rng.random(s.n) >= s.miss
        seen = position[visible]
        n_false = int(rng.poisson(s.clutter * s.n))
        false = rng.uniform(0, s.size_px, (n_false, 2))
        yx = np.concatenate([seen + rng.normal(0, s.noise_px, seen.shape), false])
        particle = np.concatenate([particle[visible], np.full(n_false, -1)])
        order = rng.permutation(len(yx))
        return SimulatedFrame(Detections.from_positions(yx[order]), particle[order])

    def _merged(
        self,
    ) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Return positions, what is visible and whose it is, close pairs joined."""
        position, particle = self.position.copy(), self.particle.copy()
        visible = np.ones(self.scenario.n, np.bool_)
        for i, j in sorted(cKDTree(position).query_pairs(self.scenario.merge_px)):
            if visible[i] and visible[j]:
                position[i] = (position[i] + position[j]) / 2
                particle[i] = MERGED
                visible[j] = False
        return position, visible, particle
