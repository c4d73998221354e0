"""Holograms of spheres with known truth: field, off-axis camera, inline camera.

The physics is scalar with an ideal pupil: Mie amplitudes averaged over the azimuth,
their angular spectrum -2π S / (k kz) in the sphere's own centre plane, cut at the
numerical aperture with sqrt(cos θ) apodisation, moved to (y, x, z) by phases. Exact
for any sub-pixel position; no aberrations, no partial coherence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft

from lodestar_live.data import FloatArray
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.simulation import mie


@dataclass(frozen=True, slots=True)
class Sphere:
    """One homogeneous sphere; z positive along the light, 0 in the focal plane."""

    y_px: float
    x_px: float
    z_um: float = 0.0
    radius_um: float = 0.228
    n_particle: float = 1.58


def render_field(
    spheres: Sequence[Sphere], shape: tuple[int, int], optics: Optics
) -> ComplexImage:
    """Return the field of some spheres, shape (y, x), complex128, background 1.

    Parameters
    ----------
    spheres
        Positions in pixels of `optics`; may lie outside the frame.
    """
    if not spheres:
        return np.ones(shape, complex)
    reach_px = max(abs(s.z_um) for s in spheres) * optics.tan_theta
    padding = 16 + int(np.ceil(reach_px / optics.pixel_size_um))
    height, width = (int(fft.next_fast_len(n + 2 * padding)) for n in shape)
    grid = _Grid.of((height, width), optics)
    spectrum = np.zeros((height, width), complex)
    for sphere in spheres:
        amplitude = _sphere_spectrum(
            (height, width), optics, sphere.radius_um, sphere.n_particle
        )
        ramp_y = np.exp(-1j * grid.ky * (sphere.y_px * optics.pixel_size_um))
        ramp_x = np.exp(-1j * grid.kx * (sphere.x_px * optics.pixel_size_um))
        quadrant = amplitude * np.exp(-1j * sphere.z_um * grid.axial)
        full = quadrant[:, grid.columns][grid.rows]
        full *= ramp_y[:, None]
        full *= ramp_x
        spectrum += full
    # The transform's origin is pixel [0, 0]; negative positions wrap into the padding.
    field = fft.ifft2(spectrum, overwrite_x=True)[: shape[0], : shape[1]]
    result: ComplexImage = 1 + field / optics.pixel_size_um**2
    return result


def complex_noise(
    shape: tuple[int, int],
    optics: Optics,
    rng: np.random.Generator,
    *,
    std: float,
    na: float | None = None,
) -> ComplexImage:
    """Return noise cut at an aperture, `std` in Re and in Im per pixel.

    A small `na` (0.43) gives a coherent background, the whole aperture (None) noise as
    a retrieved field has it.
    """
    white = rng.standard_normal((*shape, 2)) @ [1, 1j]
    limit = 2 * np.pi * (optics.na if na is None else na) / optics.wavelength_um
    ky, kx = (2 * np.pi * fft.fftfreq(n, optics.pixel_size_um) for n in shape)
    inside = ky[:, None] ** 2 + kx**2 <= limit**2
    noise = fft.ifft2(fft.fft2(white) * inside)
    result: ComplexImage = noise * (std / np.sqrt(inside.mean()))
    return result


def drift_wave(
    shape: tuple[int, int],
    *,
    gain: float = 1.0,
    piston_rad: float = 0.0,
    tilt_rad: tuple[float, float] = (0.0, 0.0),
) -> ComplexImage:
    """Return the factor by which an interferometer drifted; tilt across the frame."""
    y, x = (np.linspace(-0.5, 0.5, n) for n in shape)
    phase = piston_rad + tilt_rad[0] * y[:, None] + tilt_rad[1] * x
    wave: ComplexImage = gain * np.exp(1j * phase)
    return wave


@dataclass(frozen=True, slots=True)
class OffAxisCamera:
    """Camera behind an interferometer with a tilted reference wave.

    Parameters
    ----------
    factor
        Camera pixels per field pixel along each axis.
    carrier
        Fringes, cycles per camera pixel (y, x), towards the object's sideband.
    electrons
        Mean per camera pixel; infinity: no shot noise.
    bit_depth
        Of the counts; the mean intensity fills a quarter of the range.
    """

    factor: int = 4
    carrier: tuple[float, float] = (0.26, 0.27)
    electrons: float = 1e4
    bit_depth: int = 12

    def expose(
        self, field: ComplexImage, rng: np.random.Generator
    ) -> npt.NDArray[np.uint16]:
        """Return the hologram, shape factor * field's, uint16 counts."""
        fine = upsample(field, self.factor)
        y, x = (np.arange(n) for n in fine.shape)
        phase_y, phase_x = (
            np.exp(-2j * np.pi * frequency * axis).astype(np.complex64)
            for frequency, axis in zip(self.carrier, (y, x), strict=True)
        )
        fine += phase_y[:, None] * phase_x
        return _count(fine, self.electrons / 2, self.bit_depth, rng)


@dataclass(frozen=True, slots=True)
class InlineCamera:
    """Camera in the direct beam: counts follow |field|^2."""

    electrons: float = 1e4
    bit_depth: int = 12

    def expose(
        self, field: ComplexImage, rng: np.random.Generator
    ) -> npt.NDArray[np.uint16]:
        """Return the hologram, the field's shape, uint16 counts."""
        return _count(field, self.electrons, self.bit_depth, rng)


def upsample(field: ComplexImage, factor: int) -> ComplexImage:
    """Interpolate by Fourier padding; pixel j goes to pixel factor * j; complex64."""
    height, width = field.shape
    spectrum = fft.fft2(field.astype(np.complex64))
    padded = np.zeros((height * factor, width * factor), np.complex64)
    rows, columns = (np.rint(fft.fftfreq(n, 1 / n)).astype(int) for n in field.shape)
    padded[np.ix_(rows, columns)] = spectrum
    fine: ComplexImage = fft.ifft2(padded, workers=2, overwrite_x=True)
    fine *= factor**2
    return fine


@dataclass(frozen=True, slots=True, eq=False)
class HologramMovie:
    """Brownian spheres before an interferometer that drifts; any frame at any time.

    Parameters
    ----------
    paths_um
        Positions (z, y, x), shape (frames, particles, 3); y and x from pixel [0, 0].
    spheres
        Radius and index of each particle (its position is not used).
    optics, shape
        Of the field.
    noise, coherent
        Standard deviation of camera-like noise and of a static coherent background.
    drift
        Per frame: (gain, piston_rad, tilt_y_rad, tilt_x_rad), shape (frames, 4).
    """

    paths_um: FloatArray
    spheres: tuple[Sphere, ...]
    optics: Optics
    shape: tuple[int, int]
    noise: float
    coherent: ComplexImage
    drift: FloatArray

    def truth(self, frame: int) -> list[Sphere]:
        """Return the spheres where they are in a frame."""
        pixel = self.optics.pixel_size_um
        return [
            replace(sphere, z_um=float(z), y_px=float(y / pixel), x_px=float(x / pixel))
            for sphere, (z, y, x) in zip(
                self.spheres, self.paths_um[frame], strict=True
            )
        ]

    def wave(self, frame: int) -> ComplexImage:
        """Return what reaches the camera: field x static background x drift."""
        field = render_field(self.truth(frame), self.shape, self.optics)
        rng = np.random.default_rng((frame, 1))
        if self.noise:
            field = field + complex_noise(self.shape, self.optics, rng, std=self.noise)
        return field * self.background(frame)

    def background(self, frame: int) -> ComplexImage:
        """Return the same without particles and noise."""
        gain, piston, tilt_y, tilt_x = (float(v) for v in self.drift[frame])
        wave = drift_wave(
            self.shape, gain=gain, piston_rad=piston, tilt_rad=(tilt_y, tilt_x)
        )
        result: ComplexImage = self.coherent * wave
        return result


def brownian_movie(
    spheres: Sequence[Sphere],
    shape: tuple[int, int],
    optics: Optics,
    rng: np.random.Generator,
    *,
    n_frames: int,
    diffusion_um2_per_s: float = 0.97,
    frame_s: float = 1 / 30,
    z_range_um: tuple[float, float] = (-5.0, 5.0),
    noise: float = 0.005,
    coherent: float = 0.0,
    drift: float = 0.0,
) -> HologramMovie:
    """Simulate free diffusion from the given positions, reflected at the z range.

    `drift` scales a random walk per frame: 1 % gain, 0.05 rad piston, 0.1 rad tilt.
    """
    step_um = np.sqrt(2 * diffusion_um2_per_s * frame_s)
    steps = rng.normal(0, step_um, (n_frames, len(spheres), 3))
    pixel = optics.pixel_size_um
    steps[0] = [[s.z_um, s.y_px * pixel, s.x_px * pixel] for s in spheres]
    paths = np.cumsum(steps, axis=0)
    low, high = z_range_um
    # Reflecting walls: unfold the walk onto a triangle wave.
    folded = np.mod(paths[..., 0] - low, 2 * (high - low))
    paths[..., 0] = low + np.minimum(folded, 2 * (high - low) - folded)
    static = np.ones(shape, complex)
    if coherent:
        static = static + complex_noise(shape, optics, rng, std=coherent, na=0.43)
    walk = np.cumsum(
        drift * rng.normal(0, [0.01, 0.05, 0.1, 0.1], (n_frames, 4)), axis=0
    )
    walk[:, 0] = np.exp(walk[:, 0])
    return HologramMovie(paths, tuple(spheres), optics, shape, noise, static, walk)


def _count(
    wave: ComplexImage, electrons: float, bit_depth: int, rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    """Return counts of |wave|^2; an intensity of 8 fills the range."""
    intensity = (wave.real**2 + wave.imag**2).astype(np.float32)
    if np.isfinite(electrons):
        # Poisson, in its normal limit: thousands of electrons per pixel.
        noise = rng.standard_normal(intensity.shape, dtype=np.float32)
        intensity += noise * np.sqrt(intensity / np.float32(electrons))
    top = 2**bit_depth - 1
    brightest = 8.0  # |E + R|^2 of E = 1.8 e^{i phase}
    counts = np.clip(np.rint(intensity * (top / brightest)), 0, top)
    result: npt.NDArray[np.uint16] = counts.astype(np.uint16)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Wave numbers of one padded frame; the axial one on a quadrant (it is even)."""

    ky: FloatArray
    kx: FloatArray
    axial: FloatArray
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]

    @staticmethod
    @lru_cache(maxsize=8)
    def of(shape: tuple[int, int], optics: Optics) -> _Grid:
        ky, kx = (2 * np.pi * fft.fftfreq(n, optics.pixel_size_um) for n in shape)
        lateral_squared = _quadrant_squared(shape, optics)
        kz = np.sqrt(np.maximum(optics.k_per_um**2 - lateral_squared, 0))
        rows, columns = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape)
        return _Grid(ky, kx, kz - optics.k_per_um, rows, columns)


@lru_cache(maxsize=32)
def _sphere_spectrum(
    shape: tuple[int, int], optics: Optics, radius_um: float, n_particle: float
) -> npt.NDArray[np.complex128]:
    """Return the scattered field's spectrum [µm²] on a quadrant, 0 beyond the NA."""
    k = optics.k_per_um
    lateral_squared = _quadrant_squared(shape, optics)
    inside = lateral_squared <= optics.cutoff_per_um**2
    kz = np.sqrt(k**2 - lateral_squared[inside])
    s1, s2 = mie.amplitudes(kz / k, k * radius_um, n_particle / optics.n_medium)
    spectrum = np.zeros(lateral_squared.shape, complex)
    spectrum[inside] = -np.pi * (s1 + s2) / (k * kz) * np.sqrt(kz / k)
    spectrum.flags.writeable = False
    return spectrum


def _quadrant_squared(shape: tuple[int, int], optics: Optics) -> FloatArray:
    ky, kx = (
        2 * np.pi * np.arange(n // 2 + 1) / (n * optics.pixel_size_um) for n in shape
    )
    squared: FloatArray = ky[:, None] ** 2 + kx**2
    return squared
