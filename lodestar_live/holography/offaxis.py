"""Off-axis holograms: from fringes to the complex field.

The reference wave comes in at an angle, so the hologram's spectrum holds the field
around a carrier, apart from the zero order. One real transform, the box around the
carrier, one small inverse transform: the field at the optical resolution, which is
also the size every later step works at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import fft

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.errors import InputError
from lodestar_live.holography.background import Background
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import ComplexImage

_TELLING_SKEW = 1.0


class OffAxis:
    """Turns off-axis holograms of one shape into waves (object x reference).

    Parameters
    ----------
    optics
        Pixel size is the camera's, in the sample plane.
    shape
        (height, width) of the holograms.
    carrier
        (cycles per pixel along y, along x) of the fringes, towards the sideband that
        holds the field. None: found on the first hologram; of the two conjugate
        sidebands the one in which particles delay the light (n_particle > n_medium)
        is taken, as soon as a hologram shows particles (`is_sure`).
    background
        Divided out of every wave; `Background()` removes drift only.
    n_threads
        Threads of each Fourier transform.

    Attributes
    ----------
    factor
        Camera pixels per field pixel: field pixel j lies at camera pixel factor * j.
    optics
        With the field's pixel size.

    Examples
    --------
    >>> retrieve = OffAxis(Optics(0.633, 0.057), (512, 512))     # doctest: +SKIP
    >>> retrieve.learn_background(frames[:16])                   # doctest: +SKIP
    >>> field = retrieve(frame)            # complex64, 1 + 0j where nothing is
    """

    def __init__(
        self,
        optics: Optics,
        shape: tuple[int, int],
        *,
        carrier: tuple[float, float] | None = None,
        background: Background | None = None,
        n_threads: int = 2,
    ) -> None:
        self.factor = sampling_factor(optics)
        self.camera_optics = optics
        self.optics = optics.with_pixel_size(optics.pixel_size_um * self.factor)
        self.shape = shape
        self.field_shape = (shape[0] // self.factor, shape[1] // self.factor)
        if min(self.field_shape) < 16:
            raise InputError(
                f"hologram of shape {shape}: its field would have shape "
                f"{self.field_shape}; expected at least 16 x 16. Use a larger ROI, or "
                f"check pixel_size_um = {optics.pixel_size_um}."
            )
        self.carrier, self.n_threads = carrier, n_threads
        self.is_sure = carrier is not None
        self.background = Background() if background is None else background
        self._pupil = _pupil(self.field_shape, self.optics)
        self._counts = np.empty(self._used_shape(), np.float32)
        self._cut: _Cut | None = None

    def __call__(self, hologram: Pixels) -> ComplexImage:
        """Return the field of one hologram, shape `field_shape`, complex64.

        Parameters
        ----------
        hologram
            Shape `shape`, any real dtype.
        """
        field = self.background(self.wave(hologram))
        if self.is_sure:
            return field
        skew = phase_skew(field, self.optics)
        self.is_sure = abs(skew) > _TELLING_SKEW
        if not self.is_sure or skew > 0:
            return field
        assert self.carrier is not None  # noqa: S101 - `wave` has found it
        self.carrier = (-self.carrier[0], -self.carrier[1])
        self.background.conjugate()
        return field.conj()

    def learn_background(self, holograms: Iterable[Pixels]) -> None:
        """Average the waves of several holograms; divide by it from now on."""
        self.background.learn(self.wave(hologram) for hologram in holograms)

    def wave(self, hologram: Pixels) -> ComplexImage:
        """Return object wave x reference wave, no background removed."""
        hologram = np.asarray(hologram)
        if hologram.shape != self.shape:
            raise InputError(
                f"hologram of shape {hologram.shape}: this retrieval was made for "
                f"{self.shape}; make one per shape (an ROI or binning change)."
            )
        height, width = self._used_shape()
        np.copyto(self._counts, hologram[:height, :width], casting="unsafe")
        rows = fft.rfft(self._counts, axis=1, workers=self.n_threads)
        if self.carrier is None:
            spectrum = fft.fft(rows, axis=0, workers=self.n_threads)
            self.carrier = find_carrier(spectrum, self.camera_optics, (height, width))
        return self._extract(rows, self.carrier)

    def _extract(
        self, rows: ComplexImage, carrier: tuple[float, float]
    ) -> ComplexImage:
        """Return the field around the carrier, from the transform along x.

        The transform along y is done for the columns in the box only.
        """
        if self._cut is None or self._cut.carrier != carrier:
            self._cut = _Cut.around(
                carrier, self._used_shape(), self.field_shape, factor=self.factor
            )
        cut = self._cut
        box = _columns(rows, cut.columns, self._used_shape()[1])
        box = fft.fft(box, axis=0, workers=self.n_threads, overwrite_x=True)
        box = box[cut.rows]
        box *= self._pupil
        field: ComplexImage = fft.ifft2(box, workers=self.n_threads, overwrite_x=True)
        for ramp in cut.ramps:
            field *= ramp
        return field

    def _used_shape(self) -> tuple[int, int]:
        height, width = self.field_shape
        return (self.factor * height, self.factor * width)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What is cut out of the spectrum around a carrier, worked out once.

    `rows` and `columns` are frequency indices, the carrier's own first; `ramps` take
    out the part of the carrier that is less than one frequency step.
    """

    carrier: tuple[float, float]
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    ramps: tuple[ComplexImage, ...]

    @classmethod
    def around(
        cls,
        carrier: tuple[float, float],
        shape: tuple[int, int],
        field_shape: tuple[int, int],
        *,
        factor: int,
    ) -> Self:
        """Return the cut for holograms of `shape`."""
        index, ramps = [], []
        for axis, (frequency, side, n) in enumerate(
            zip(carrier, shape, field_shape, strict=True)
        ):
            first = round(frequency * side) - n // 2
            index.append(fft.ifftshift(np.arange(first, first + n)))
            fraction = frequency * side - round(frequency * side)
            if not math.isclose(fraction, 0, abs_tol=1e-9):
                position = np.arange(n) * factor / side
                ramp = np.exp(-2j * np.pi * fraction * position).astype(np.complex64)
                ramps.append(ramp[:, None] if axis == 0 else ramp)
        return cls(carrier, index[0] % shape[0], index[1], tuple(ramps))


def sampling_factor(optics: Optics) -> int:
    """Return how many camera pixels make one pixel at the optical resolution."""
    return max(1, int(optics.k_nyquist_per_um // optics.cutoff_per_um))


def find_carrier(
    spectrum: ComplexImage, optics: Optics, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return the fringes' carrier (cycles per pixel, y and x) with kx >= 0.

    Parameters
    ----------
    spectrum
        `scipy.fft.rfft2` of a hologram of `shape`.

    Raises
    ------
    InputError
        No peak stands out from the zero order: the hologram has no fringes.
    """
    fy, fx = fft.fftfreq(shape[0]), fft.rfftfreq(shape[1])
    radius = np.hypot(fy[:, None], fx)
    magnitude = np.abs(spectrum)
    cutoff = optics.cutoff_per_um * optics.pixel_size_um / (2 * np.pi)
    outside = radius > cutoff
    if not outside.any():
        raise InputError(
            f"pixel_size_um = {optics.pixel_size_um}: the whole spectrum lies inside "
            f"the numerical aperture {optics.na}, no room for a sideband."
        )
    candidates = np.where(outside, magnitude, 0)
    row, column = np.unravel_index(int(np.argmax(candidates)), candidates.shape)
    peak, typical = candidates[row, column], float(np.median(magnitude[outside]))
    if peak < 8 * typical or peak == 0:
        raise InputError(
            f"no fringes found: the strongest peak outside the zero order is "
            f"{peak / max(typical, 1e-30):.1f} times the background; expected > 8. "
            "Give `carrier`, or check that this is an off-axis hologram."
        )
    return float(fy[row]), float(fx[column])


def phase_skew(field: ComplexImage, optics: Optics) -> float:
    """Return how one-sided the particles' phase is; negative in the wrong sideband.

    The integral of Im(E - 1) over a particle is the same at every defocus and has the
    sign of n_particle - n_medium. Smoothed over about 1 µm, Im(E - 1) is therefore
    skewed towards positive values in the right sideband (4 and more with particles,
    below 0.5 without). The borders are left out: fringes cut off there ring.
    """
    frequencies = [
        2 * np.pi * fft.fftfreq(n, optics.pixel_size_um) for n in field.shape
    ]
    smooth = np.exp(-0.25 * (frequencies[0][:, None] ** 2 + frequencies[1] ** 2))
    phase = fft.ifft2(fft.fft2(field - 1) * smooth).imag
    margin_y, margin_x = (max(4, n // 8) for n in phase.shape)
    phase = phase[margin_y:-margin_y, margin_x:-margin_x]
    phase = phase - np.median(phase)
    return float(np.mean(phase**3) / np.mean(phase**2) ** 1.5)


def _pupil(shape: tuple[int, int], optics: Optics) -> FloatArray:
    frequencies = [2 * np.pi * fft.fftfreq(n, optics.pixel_size_um) for n in shape]
    lateral = np.hypot(frequencies[0][:, None], frequencies[1])
    # Exactly at the edge counts as inside, whatever the rounding.
    is_inside = lateral <= optics.cutoff_per_um * (1 + 1e-9)
    pupil: FloatArray = is_inside.astype(np.float32)
    return pupil


def _columns(
    rows: ComplexImage, index: npt.NDArray[np.intp], width: int
) -> ComplexImage:
    """Return columns of a transform along x, of which `rfft` stores one half.

    The hologram is real: what is left out is the conjugate of the mirrored half.
    """
    middle = len(index) - len(index) // 2  # where `index` jumps back
    if index.min() >= 0 and index.max() <= width // 2:
        right, left = index[:middle], index[middle:]
        parts = (rows[:, right[0] : right[-1] + 1], rows[:, left[0] : left[-1] + 1])
        return np.concatenate(parts, axis=1)
    index = (index + width // 2) % width - width // 2
    columns: ComplexImage = rows[:, np.abs(index)]
    np.conjugate(columns, out=columns, where=index < 0)
    return columns
