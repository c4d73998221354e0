"""Views of one particle in a complex field: turned, moved, propagated, rescaled.

Two symmetries that images do not have (paper, Figs. 3 and 4): a particle moved along
the light by z has the propagated field, and one with s times the polarizability has
s (E - 1). A third one fixes the sign of z: 1 - conj(E - 1) is the field of a particle
mirrored at the focal plane. One crop, refocused onto its particle, therefore gives
views at every z and every scale with known labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from lodestar_live.holography.focus import MatchedFilter, autofocus
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import ComplexImage, refocus
from lodestar_live.holography.radial import RadialWaves
from lodestar_live.training.augment.views import Views

POINT_SHIFT_UM = 0.054
"""How far downstream of a bead's centre its wave front seems to start."""

_UPSAMPLING = 4
_ORIENTATIONS = 64
_RIM_PX = 5.0
_SEARCH_UM = (-10.0, 10.0)
_CLIMBS = 6


@dataclass(frozen=True, slots=True)
class FieldViewSettings:
    """Which views of a field are drawn.

    Parameters
    ----------
    side_px
        Side of a view, a multiple of 4.
    max_shift_px
        Largest distance of a lone particle from the view's centre, per axis.
    z_um
        Largest distance from the focal plane.
    log10_scale
        Range of the decimal logarithm of the scale.
    noise
        Largest standard deviation of Re and Im; drawn uniformly from 0.
    crowded
        Share of the views that hold a second copy.
    """

    side_px: int = 64
    max_shift_px: float = 6.0
    z_um: float = 5.5
    log10_scale: tuple[float, float] = (-1.0, 0.5)
    noise: float = 0.015
    crowded: float = 0.375


class TorchPropagator:
    """`holography.transfer_function` in torch, for many distances and shifts at once.

    Parameters
    ----------
    side_px
        Side of the (padded, square) fields.
    optics
        Of the fields.
    """

    def __init__(self, side_px: int, optics: Optics) -> None:
        self.optics, self.side_px = optics, side_px
        k = 2 * np.pi * np.fft.fftfreq(side_px, optics.pixel_size_um)
        lateral_squared = k[:, None] ** 2 + k**2
        kz_squared = optics.k_per_um**2 - lateral_squared
        kz = np.sqrt(np.maximum(kz_squared, 0))
        axial = -lateral_squared / (kz + optics.k_per_um)
        self._axial = torch.from_numpy(axial.astype(np.float32))
        self._travels = torch.from_numpy(kz_squared > 0)
        self._k = torch.from_numpy(k.astype(np.float32))

    def kernel(self, distance_um: Tensor, shift_px: Tensor | None = None) -> Tensor:
        """Return the transfer functions, (n, side, side), complex64.

        Parameters
        ----------
        distance_um
            (n,), positive along the light.
        shift_px
            (n, 2): also moves the content by (y, x).
        """
        phase = self._axial * distance_um[:, None, None]
        if shift_px is not None:
            shift_um = shift_px * self.optics.pixel_size_um
            phase = phase - self._k[:, None] * shift_um[:, 0, None, None]
            phase = phase - self._k * shift_um[:, 1, None, None]
        length_um = self.side_px * self.optics.pixel_size_um
        limit = self.optics.k_per_um / torch.sqrt(
            1 + (2 * distance_um / length_um) ** 2
        )
        inside = self._k.abs() <= limit[:, None]
        passed = self._travels & inside[:, :, None] & inside[:, None, :]
        return torch.polar(passed.to(torch.float32), phase)


class FieldViewMaker:
    """Draws batches of views of one particle in a field.

    Parameters
    ----------
    crop
        Square field crop, background 1; the particle may be out of focus.
    optics
        Of the crop.
    centre_px
        (y, x) of the particle in the crop.
    settings
        Which views are drawn.
    generator
        Source of all randomness.

    Attributes
    ----------
    z_um
        Where the particle of the crop is, measured on it.
    """

    def __init__(
        self,
        crop: ComplexImage,
        optics: Optics,
        *,
        centre_px: tuple[float, float],
        settings: FieldViewSettings,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.generator = settings, generator
        reach_um = 2 * settings.z_um
        focus = autofocus(crop, [centre_px], optics, z_range_um=(-reach_um, reach_um))
        self.z_um = float(focus.z_um[0]) - POINT_SHIFT_UM
        sharp = refocus(crop, self.z_um, optics) if self.z_um else crop
        self._side = 2 * settings.side_px
        self._propagator = TorchPropagator(self._side, optics)
        angle = 2 * math.pi * self._uniform(_ORIENTATIONS).numpy()
        spectra = [
            np.fft.fft2(
                _turned(sharp - 1, centre_px, a, mirror=i % 2 == 1, side=self._side)
            )
            for i, a in enumerate(angle)
        ]
        self._spectra = torch.from_numpy(np.array(spectra, np.complex64))

    def draw(self, n: int, *, share: float = 1.0) -> Views:
        """Draw `n` views; `share` of the z range (the curriculum).

        `Views.additive` holds z (µm) and ln(scale) of each copy.
        """
        settings = self.settings
        n_crowded = round(n * settings.crowded)
        view = torch.cat([torch.arange(n), torch.arange(n - n_crowded, n)])
        m = len(view)
        shift = self._shifts(n, n_crowded)
        z_um = (2 * self._uniform(m) - 1) * settings.z_um * share
        low, high = (v * math.log(10) for v in settings.log10_scale)
        ln_scale = low + (high - low) * self._uniform(m)
        which = torch.randint(len(self._spectra), (m,), generator=self.generator)
        signal = self._render(which, z_um, shift)
        mirrored = self._uniform(m) < 0.5
        signal = torch.where(mirrored[:, None, None], -signal.conj(), signal)
        z_um = torch.where(mirrored, -z_um, z_um)
        signal = signal * torch.exp(ln_scale)[:, None, None]
        total = torch.zeros_like(signal[:n]).index_add_(0, view, signal)
        noise = settings.noise * self._uniform(n)
        images = torch.stack([total.real, total.imag], dim=1)
        grain = torch.randn(images.shape, generator=self.generator)
        images = images + grain * noise[:, None, None, None]
        additive = torch.stack([z_um, ln_scale], dim=1)
        turn = torch.eye(2).expand(m, 2, 2)
        is_lone = torch.arange(n) < n - n_crowded
        crop = torch.zeros_like(view)  # there is one only
        return Views(images, view, turn, shift, noise, is_lone, additive, crop)

    def _render(self, which: Tensor, z_um: Tensor, shift_px: Tensor) -> Tensor:
        """Return E - 1 of each copy: one inverse transform moves it in y, x, z."""
        side, quarter = self.settings.side_px, self.settings.side_px // 2
        # In the bank the particle is at pixel `side`; the view is the middle half.
        offset = shift_px - side + quarter
        kernel = self._propagator.kernel(-z_um, offset)
        field = torch.fft.ifft2(self._spectra[which] * kernel)
        view: Tensor = field[:, quarter : quarter + side, quarter : quarter + side]
        return view

    def _shifts(self, n: int, n_crowded: int) -> Tensor:
        """Lone particles near the centre; the two of a pair at least 6 px apart."""
        side, reach = self.settings.side_px, self.settings.max_shift_px
        middle = (side - 1) / 2
        spread = torch.full((n, 1), reach)
        spread[n - n_crowded :] = side / 4
        first = middle + (2 * self._uniform(n, 2) - 1) * spread
        angle = 2 * math.pi * self._uniform(n_crowded)
        distance = 6 + (side / 2) * self._uniform(n_crowded)
        step = torch.stack([angle.sin(), angle.cos()], -1) * distance[:, None]
        return torch.cat([first, first[n - n_crowded :] + step])

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)


def locate_in_crop(crop: ComplexImage, optics: Optics) -> tuple[float, float]:
    """Return (y, x) of the particle: where its refocused amplitude is largest.

    The search starts at the crop's centre and climbs in steps of half a pixel on the
    exact (sub-pixel) amplitude, so it does not depend on where the pixels lie.
    """
    waves = RadialWaves(optics, _SEARCH_UM, radius_px=len(crop) // 2)
    focus = MatchedFilter(waves, _SEARCH_UM)
    middle = [(side - 1) / 2 for side in crop.shape]
    centre = _brightest_near(crop, middle, focus, waves, optics)
    around = 0.5 * np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
    for _ in range(_CLIMBS):
        spectra = waves.spectra(crop, centre + around)
        z_um = float(focus(spectra[:1]).z_um[0])
        turn = waves.weight * np.exp(1j * z_um * waves.axial_per_um)
        top, up, down, left, right = np.abs(spectra @ turn)
        for axis, (before, after) in enumerate(((up, down), (left, right))):
            bend = before - 2 * top + after
            step = 0.25 * (before - after) / bend if bend < 0 else 0.0
            centre[axis] += np.clip(step, -0.5, 0.5)
    return float(centre[0]), float(centre[1])


def _brightest_near(
    crop: ComplexImage,
    middle: list[float],
    focus: MatchedFilter,
    waves: RadialWaves,
    optics: Optics,
) -> npt.NDArray[np.float64]:
    """Return the brightest pixel of the refocused crop, not far from its middle."""
    z_um = float(focus(waves.spectra(crop, [middle])).z_um[0])
    amplitude = np.abs(refocus(crop, z_um, optics) - 1)
    y, x = np.indices(crop.shape)
    amplitude[np.hypot(y - middle[0], x - middle[1]) > len(crop) / 4] = 0
    place = np.unravel_index(int(np.argmax(amplitude)), crop.shape)
    return np.array(place, dtype=float)


def _turned(
    scattered: ComplexImage,
    centre_px: tuple[float, float],
    angle: float,
    *,
    mirror: bool,
    side: int,
) -> npt.NDArray[np.complex128]:
    """Return E - 1 turned about the particle, which comes to pixel side / 2.

    A critically sampled field must not be interpolated as it is: 6 to 12 % error. It
    is first sampled four times finer by Fourier padding: 2 %.
    """
    size = len(scattered)
    y, x = np.indices(scattered.shape)
    radius = np.hypot(y - centre_px[0], x - centre_px[1])
    rim = np.clip((size / 2 - radius) / _RIM_PX, 0, 1)
    spectrum = np.fft.fft2(scattered * rim)
    fine = np.zeros((size * _UPSAMPLING,) * 2, complex)
    index = np.rint(np.fft.fftfreq(size, 1 / size)).astype(int)
    fine[np.ix_(index, index)] = spectrum
    fine = np.fft.ifft2(fine) * _UPSAMPLING**2
    rows, columns = np.indices((side, side)) - side / 2
    if mirror:
        columns = -columns
    cos, sin = math.cos(angle), math.sin(angle)
    places = [
        _UPSAMPLING * (centre_px[0] + cos * rows - sin * columns),
        _UPSAMPLING * (centre_px[1] + sin * rows + cos * columns),
    ]
    real, imaginary = (
        map_coordinates(part, places, order=3) for part in (fine.real, fine.imag)
    )
    turned: npt.NDArray[np.complex128] = real + 1j * imaginary
    return turned
