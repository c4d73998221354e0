"""Moving particles under a microscope with a stage: the demo's default scene.

Soft-edged disks swim, diffuse and drift in one plane of a periodic world without
overlapping (they are hard to each other). Every rendered frame is noted with its truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import erfc

from lodestar_live.data import FloatArray, StagePosition
from lodestar_live.geometry import PixelToStage

_NOISE_PX = 512  # the stored noise is cut at a fresh place, up to this far, per frame
_LONGEST_STEP_S = 0.1  # a stalled machine stops the world, it does not make it jump
_SUBSTEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Swimmers:
    """What the particles look like and how they move.

    Parameters
    ----------
    n_particles, world_um
        Particles in the periodic square world and its side.
    radius_um, edge_um
        Disk radius and softness of its edge.
    diffusion_um2_per_s
        Of every particle.
    speed_um_per_s, turn_rad_per_sqrt_s
        Of the swimming third; heading diffuses.
    drift_um_per_s
        (y, x) flow that carries the drifting third.
    peak_counts, background_counts
        Brightness; shot noise follows from them.
    """

    n_particles: int = 100
    world_um: float = 1024.0
    radius_um: float = 5.0
    edge_um: float = 1.4
    diffusion_um2_per_s: float = 2.0
    speed_um_per_s: float = 50.0
    turn_rad_per_sqrt_s: float = 0.6
    drift_um_per_s: tuple[float, float] = (6.0, -12.0)
    peak_counts: float = 600.0
    background_counts: float = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class SceneTruth:
    """Truth of one rendered frame: ids (n,), positions (n, 2) in px, (y, x)."""

    t_s: float
    stage_um: StagePosition
    particle_ids: npt.NDArray[np.int64]
    positions_px: FloatArray


class SwimmerScene:
    """A world of particles, rendered at the stage's position.

    Parameters
    ----------
    shape
        Frame (height, width).
    pixel_to_stage
        Calibration the frames obey.
    seed
        Of everything drawn.
    clock
        Monotonic seconds; the world moves with it.
    """

    def __init__(
        self,
        shape: tuple[int, int] = (512, 512),
        *,
        pixel_to_stage: PixelToStage,
        seed: int = 0,
        clock: Callable[[], float],
        swimmers: Swimmers = Swimmers(),
    ) -> None:
        self.shape, self.swimmers = shape, swimmers
        self._map, self._clock = pixel_to_stage, clock
        self._rng = np.random.default_rng(seed)
        self._position_um = self._place()
        self._heading_rad = self._rng.uniform(0, 2 * np.pi, swimmers.n_particles)
        self._brightness = self._rng.uniform(0.85, 1.15, swimmers.n_particles)
        kind = np.arange(swimmers.n_particles) % 3
        self._swims, self._drifts = kind == 0, kind == 1
        field = tuple(_NOISE_PX + side for side in shape)
        self._noise = self._rng.standard_normal(field, np.float32)
        self._light = _illumination(shape)
        self._t_s: float | None = None
        self.truth: list[SceneTruth] = []

    def render(self, stage_um: StagePosition) -> npt.NDArray[np.uint16]:
        """Advance the world to now and draw it; the truth is appended to `truth`."""
        self._advance()
        world = self._nearest_images(stage_um)
        positions_px = self._map.pixel_px(world, stage_um[1:], self.shape)
        reach_px = self._reach_px()
        limit = np.array(self.shape) - 1 + reach_px
        near = np.all((positions_px > -reach_px) & (positions_px < limit), axis=1)
        ids = np.flatnonzero(near)
        truth = SceneTruth(self._t_s or 0.0, stage_um, ids, positions_px[ids])
        self.truth.append(truth)
        return self._expose(truth)

    def _expose(self, truth: SceneTruth) -> npt.NDArray[np.uint16]:
        look = self.swimmers
        image = look.background_counts * self._light
        for particle, centre in zip(
            truth.particle_ids, truth.positions_px, strict=True
        ):
            self._draw(image, centre, look.peak_counts * self._brightness[particle])
        y, x = (int(self._rng.integers(_NOISE_PX)) for _ in self.shape)
        noise = self._noise[y : y + self.shape[0], x : x + self.shape[1]]
        noisy = image + np.sqrt(image) * noise + np.float32(0.5)  # to the nearest count
        return np.asarray(np.clip(noisy, 0, 65535), dtype=np.uint16)

    def _draw(
        self, image: npt.NDArray[np.float32], centre_px: FloatArray, peak: float
    ) -> None:
        low = np.maximum(np.floor(centre_px - self._reach_px()).astype(int), 0)
        high = np.minimum(
            np.ceil(centre_px + self._reach_px()).astype(int) + 1, self.shape
        )
        if np.any(high <= low):
            return
        y = np.arange(low[0], high[0]) - centre_px[0]
        x = np.arange(low[1], high[1]) - centre_px[1]
        offset_um = self._map.matrix_um_per_px
        um_per_px = np.sqrt(abs(np.linalg.det(offset_um)))
        r_um = np.hypot(y[:, None], x[None, :]) * um_per_px
        look = self.swimmers
        disk = 0.5 * erfc((r_um - look.radius_um) / (np.sqrt(2) * look.edge_um))
        image[low[0] : high[0], low[1] : high[1]] += (peak * disk).astype(np.float32)

    def _reach_px(self) -> float:
        um_per_px = np.sqrt(abs(np.linalg.det(self._map.matrix_um_per_px)))
        return float((self.swimmers.radius_um + 4 * self.swimmers.edge_um) / um_per_px)

    def _nearest_images(self, stage_um: StagePosition) -> FloatArray:
        """Return each particle's periodic image nearest to the stage."""
        side = self.swimmers.world_um
        centre = np.array(stage_um[1:])
        offset = self._position_um - centre
        return np.asarray(centre + offset - side * np.round(offset / side))

    def _advance(self) -> None:
        now = self._clock()
        elapsed_s = 0.0 if self._t_s is None else min(now - self._t_s, _LONGEST_STEP_S)
        self._t_s = now
        n = int(np.ceil(elapsed_s / _SUBSTEP_S))
        for _ in range(n):
            self._step(elapsed_s / n)

    def _step(self, dt_s: float) -> None:
        look, n = self.swimmers, self.swimmers.n_particles
        spread = np.sqrt(2 * look.diffusion_um2_per_s * dt_s)
        self._position_um += spread * self._rng.standard_normal((n, 2))
        turn = look.turn_rad_per_sqrt_s * np.sqrt(dt_s)
        self._heading_rad += turn * self._rng.standard_normal(n)
        heading = np.column_stack(
            [np.sin(self._heading_rad), np.cos(self._heading_rad)]
        )
        self._position_um += np.where(
            self._swims[:, None], look.speed_um_per_s * dt_s * heading, 0.0
        )
        flow = np.array(look.drift_um_per_s) * dt_s
        self._position_um += np.where(self._drifts[:, None], flow, 0.0)
        self._push_apart()

    def _place(self) -> FloatArray:
        look = self.swimmers
        self._position_um = self._rng.uniform(0, look.world_um, (look.n_particles, 2))
        for _ in range(200):
            self._push_apart()
        return self._position_um

    def _push_apart(self) -> None:
        """Move overlapping particles apart along their line of centres."""
        look = self.swimmers
        contact_um = 2 * look.radius_um + 4 * look.edge_um
        gap = self._position_um[:, None] - self._position_um[None]
        gap -= look.world_um * np.round(gap / look.world_um)
        distance = np.hypot(gap[..., 0], gap[..., 1])
        np.fill_diagonal(distance, np.inf)
        excess = np.clip(contact_um - distance, 0, None) / 2
        push = gap / np.maximum(distance, 1e-9)[..., None] * excess[..., None]
        self._position_um += push.sum(axis=1)
        self._position_um %= look.world_um


def _illumination(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return a lamp that is 15 % dimmer in the corners."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    return (1 - 0.075 * (y[:, None] ** 2 + x[None, :] ** 2)).astype(np.float32)
