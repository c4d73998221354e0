"""The DemoCamera's fluorescent beads, re-computed: exact truth for a real acquisition.

Follows DemoImageGeneration.cpp of mmCoreAndDevices: an endless field of 512 µm tiles,
each seeded by its place, drawn at 1 µm per pixel without noise. The generator is the
C library's `rand`, so the field is the camera's own on Linux (glibc) only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray, StagePosition

TILE_UM = 512.0
_RAND_MAX = 2**31 - 1
_VIEW_UM = 512.0  # the camera looks for beads in this window, whatever its sensor
_MARGIN_UM = 100.0


@dataclass(frozen=True, slots=True)
class BeadField:
    """The bead field as the DemoCamera's properties define it.

    Parameters
    ----------
    density
        Beads per tile (property ``BeadDensity``).
    size_px, blur_rate_px_per_um
        ``BeadSize`` (sigma in focus) and ``BeadBlurRate``.
    brightness
        ``BeadBrightness``.
    """

    density: int = 100
    size_px: float = 2.0
    blur_rate_px_per_um: float = 0.5
    brightness: float = 1.0

    def positions_px(self, stage: StagePosition, shape: tuple[int, int]) -> FloatArray:
        """Return the centres of the beads near the frame, shape (n, 2), (y, x)."""
        return self._on_screen(stage, shape)[:, :2]

    def render(
        self, stage: StagePosition, shape: tuple[int, int]
    ) -> npt.NDArray[np.uint16]:
        """Return the 16-bit frame the camera draws at `stage` (unknown z: in focus)."""
        image = np.zeros(shape, np.uint16)
        z_um = 0.0 if np.isnan(stage.z_um) else abs(stage.z_um)
        blur_px = self.blur_rate_px_per_um * z_um
        intensity = _intensity_factor(z_um)
        for y, x, brightness, size in self._on_screen(stage, shape):
            sigma = max(0.5, float(np.hypot(self.size_px * size, blur_px)))
            amplitude = 255.0 * brightness * self.brightness * intensity
            _draw(image, (float(y), float(x)), sigma=sigma, amplitude=amplitude)
        return image

    def _on_screen(self, stage: StagePosition, shape: tuple[int, int]) -> FloatArray:
        """Return rows of (y_px, x_px, brightness, size), in the camera's own order."""
        beads = np.concatenate(
            [
                self._tile(tile_x, tile_y)
                for tile_y in _tiles(stage.y_um)
                for tile_x in _tiles(stage.x_um)
            ]
        )
        beads[:, 0] += shape[0] / 2.0 - stage.y_um
        beads[:, 1] += shape[1] / 2.0 - stage.x_um
        return beads

    def _tile(self, tile_x: int, tile_y: int) -> FloatArray:
        seed = ((tile_x * 73856093) ^ (tile_y * 19349663)) & 0xFFFFFFFF
        u = glibc_rand(seed, 4 * self.density).reshape(-1, 4) / _RAND_MAX
        world_x = (tile_x + u[:, 0]) * TILE_UM
        world_y = (tile_y + u[:, 1]) * TILE_UM
        return np.column_stack([world_y, world_x, 0.8 + 0.4 * u[:, 2:]])


def glibc_rand(seed: int, n: int) -> npt.NDArray[np.int64]:
    """Return the first `n` values of ``srand(seed); rand()`` of the GNU C library."""
    word = _signed(seed or 1)
    state = [word]
    for _ in range(30):
        quotient = int(word / 127773)  # C division truncates towards zero
        word = 16807 * (word - quotient * 127773) - 2836 * quotient
        word += _RAND_MAX if word < 0 else 0
        state.append(word)
    values = [value & 0xFFFFFFFF for value in state] + [0] * (n + 313)
    for i in range(31, 34):
        values[i] = values[i - 31]
    for i in range(34, 344 + n):
        values[i] = (values[i - 31] + values[i - 3]) & 0xFFFFFFFF
    return np.array(values[344 : 344 + n], dtype=np.int64) >> 1


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


def _tiles(stage_um: float) -> range:
    reach_um = _VIEW_UM / 2 + _MARGIN_UM
    first = int(np.floor((stage_um - reach_um) / TILE_UM))
    return range(first, int(np.floor((stage_um + reach_um) / TILE_UM)) + 1)


def _intensity_factor(z_um: float) -> float:
    return float(np.clip(1.0 - 0.2 * np.log(z_um), 0.1, 1.0)) if z_um > 0 else 1.0


def _draw(
    image: npt.NDArray[np.uint16],
    centre_px: tuple[float, float],
    *,
    sigma: float,
    amplitude: float,
) -> None:
    """Add one Gaussian, truncated to whole counts bead by bead as the camera does."""
    reach = int(4.0 * sigma) + 1
    slices, squares = [], []
    for centre, length in zip(centre_px, image.shape, strict=True):
        low = max(0, int(centre - reach))
        high = min(length - 1, int(centre + reach))
        if high < low:
            return
        slices.append(slice(low, high + 1))
        squares.append((np.arange(low, high + 1) - centre) ** 2)
    distance_sq = squares[0][:, None] + squares[1][None, :]
    value = amplitude * np.exp(-distance_sq / (2.0 * sigma**2))
    window = image[slices[0], slices[1]]
    window[...] = np.minimum(65535.0, window + value).astype(np.uint16)
