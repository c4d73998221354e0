"""Brownian spheres under a holographic microscope with a stage and a focus drive.

The spheres diffuse freely in a drop of limited size, so that empty medium can be found
beside it. Every rendered hologram is noted with its truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray, StagePosition
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.simulation.holograms import (
    Sphere,
    complex_noise,
    drift_wave,
    render_field,
)

_LONGEST_STEP_S = 0.1  # a stalled machine stops the world, it does not make it jump
_SEEN_PX = 48  # beyond the frame a sphere's rings no longer reach into it


@dataclass(frozen=True, slots=True)
class Species:
    """Spheres of one kind; `diffusion_um2_per_s` is that of a free sphere."""

    n: int
    radius_um: float
    n_particle: float
    diffusion_um2_per_s: float


LARGE = Species(7, 0.228, 1.58, 0.97)
SMALL = Species(5, 0.15, 1.58, 1.47)


@dataclass(frozen=True, slots=True)
class Drop:
    """What swims in the drop, and how far.

    Parameters
    ----------
    species
        Kinds of spheres.
    side_um
        Side of the square drop, centred on the stage's origin; its walls reflect.
    depth_um
        Lowest and highest z, the focal plane being 0 at the focus drive's origin.
    focus_ratio
        µm in the medium that the focal plane moves per µm of the focus drive:
        n_medium / n_immersion.
    coherent
        Standard deviation of the interferometer's static background.
    drift
        Random walk per frame: 1 % gain, 0.05 rad piston, 0.1 rad tilt, times this.
    """

    species: tuple[Species, ...] = (LARGE, SMALL)
    side_um: float = 40.0
    depth_um: tuple[float, float] = (-3.5, 3.5)
    focus_ratio: float = 1.33 / 1.5
    coherent: float = 0.01
    drift: float = 0.2


class HologramCamera(Protocol):
    """`OffAxisCamera` or `InlineCamera`."""

    def expose(
        self, field: ComplexImage, rng: np.random.Generator
    ) -> npt.NDArray[np.uint16]:
        """Return the camera's counts."""


@dataclass(frozen=True, slots=True, eq=False)
class SphereTruth:
    """Truth of one hologram: ids (n,) and spheres, positions in field pixels."""

    t_s: float
    stage_um: StagePosition
    ids: npt.NDArray[np.int64]
    spheres: tuple[Sphere, ...]


class HologramScene:
    """A drop of spheres, its holograms rendered at the stage's position.

    Parameters
    ----------
    shape
        Of the field, (height, width).
    optics
        Of the field.
    camera
        What records it; an off-axis one has more pixels than the field.
    seed
        Of everything drawn.
    clock
        Monotonic seconds; the spheres move with it.
    drop
        The sample.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        optics: Optics,
        camera: HologramCamera,
        *,
        seed: int = 0,
        clock: Callable[[], float],
        drop: Drop = Drop(),
    ) -> None:
        self.shape, self.optics, self.camera, self.drop = shape, optics, camera, drop
        self._clock = clock
        self._rng = np.random.default_rng(seed)
        kinds = [kind for kind in drop.species for _ in range(kind.n)]
        self._kinds = tuple(
            Sphere(0, 0, 0, kind.radius_um, kind.n_particle) for kind in kinds
        )
        self._diffusion = np.array([kind.diffusion_um2_per_s for kind in kinds])
        half = drop.side_um / 2
        walls = np.array([drop.depth_um, (-half, half), (-half, half)])
        self._low_um, self._size_um = walls[:, 0], np.ptp(walls, axis=1)
        self._walk_um = self._rng.uniform(0, self._size_um, (len(kinds), 3))
        self._static = np.ones(shape, complex)
        if drop.coherent:
            self._static += complex_noise(
                shape, optics, self._rng, std=drop.coherent, na=0.43
            )
        self._drift = np.zeros(4)
        self._t_s: float | None = None
        self.truth: list[SphereTruth] = []

    def render(self, stage_um: StagePosition) -> npt.NDArray[np.uint16]:
        """Advance the drop to now and expose; the truth is appended to `truth`."""
        self._advance()
        here = self._in_view(stage_um)
        spheres = [sphere for _, sphere in here]
        ids = np.array([index for index, _ in here], np.int64)
        self.truth.append(SphereTruth(self._t_s or 0.0, stage_um, ids, tuple(spheres)))
        wave = render_field(spheres, self.shape, self.optics) * self._interferometer()
        return self.camera.expose(wave, self._rng)

    def _in_view(self, stage_um: StagePosition) -> list[tuple[int, Sphere]]:
        """Return the spheres whose light reaches the frame, at (y, x) in it."""
        pixel_um = self.optics.pixel_size_um
        middle_px = (np.array(self.shape) - 1) / 2
        focus_um = np.nan_to_num(stage_um.z_um) * self.drop.focus_ratio
        found = []
        for index, (place_um, kind) in enumerate(
            zip(self.positions_um, self._kinds, strict=True)
        ):
            y, x = middle_px + (place_um[1:] - np.array(stage_um[1:])) / pixel_um
            outside = np.maximum([-y, -x], [y, x] - np.array(self.shape))
            if outside.max() < _SEEN_PX:
                z_um = float(place_um[0] - focus_um)
                sphere = replace(kind, y_px=float(y), x_px=float(x), z_um=z_um)
                found.append((index, sphere))
        return found

    @property
    def positions_um(self) -> FloatArray:
        """Where the spheres are in the sample, (n, 3), (z, y, x)."""
        # Reflecting walls: the free walk, folded.
        folded = np.mod(self._walk_um, 2 * self._size_um)
        inside = np.minimum(folded, 2 * self._size_um - folded)
        return np.asarray(self._low_um + inside)

    def _interferometer(self) -> ComplexImage:
        gain, piston, tilt_y, tilt_x = (float(v) for v in self._drift)
        wave: ComplexImage = self._static * drift_wave(
            self.shape,
            gain=float(np.exp(gain)),
            piston_rad=piston,
            tilt_rad=(tilt_y, tilt_x),
        )
        return wave

    def _advance(self) -> None:
        now = self._clock()
        elapsed_s = 0.0 if self._t_s is None else min(now - self._t_s, _LONGEST_STEP_S)
        self._t_s = now
        spread_um = np.sqrt(2 * self._diffusion * elapsed_s)[:, None]
        self._walk_um += spread_um * self._rng.standard_normal(self._walk_um.shape)
        steps = self._rng.normal(0, (0.01, 0.05, 0.1, 0.1))
        self._drift += self.drop.drift * steps
