"""Numerical refocusing: angular spectrum in a homogeneous medium.

A field is 1 + 0j where there is no particle. `refocus(field, d, optics)` returns the
field a distance `d` further along the light, so a particle at ``z_um = d`` comes out
sharp. The phase of the undisturbed wave is left out (kz - k instead of kz): the
background stays 1 at every distance.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from lodestar_live.data import FloatArray
from lodestar_live.errors import InputError
from lodestar_live.holography.optics import Optics

ComplexImage = npt.NDArray[np.complexfloating[Any, Any]]
"""Shape (y, x), complex64 unless the caller brought complex128."""

_KERNEL_BYTES_KEPT = 128 * 2**20


def refocus(
    field: ComplexImage,
    distance_um: npt.ArrayLike,
    optics: Optics,
    *,
    padding_px: int | None = None,
    band_limit: bool = True,
) -> ComplexImage:
    """Propagate a field along the light.

    Parameters
    ----------
    field
        Complex amplitude, background 1, shape (y, x).
    distance_um
        Positive along the light; a number, or shape (n,) for a stack.
    optics
        Its pixel size is that of `field`.
    padding_px
        Zeros beyond E - 1 against wrap-around. None: a quarter of each side, 32 to
        64 px; 0: periodic borders.
    band_limit
        Leave out frequencies the grid cannot propagate this far without aliasing.

    Returns
    -------
    Shape (y, x), or (n, y, x) for n distances; same dtype as `field`.
    """
    propagator = Propagator(
        np.shape(field), optics, padding_px=padding_px, band_limit=band_limit
    )
    planes = propagator.prepare(field)
    if np.ndim(distance_um) == 0:
        return planes.at(float(np.asarray(distance_um)))
    return planes.stack(distance_um)


def transfer_function(
    shape: tuple[int, ...],
    distance_um: float,
    optics: Optics,
    *,
    band_limit: bool = True,
    dtype: npt.DTypeLike = np.complex64,
) -> ComplexImage:
    """Return exp(i d (kz - k)) on the FFT's frequencies; evanescent waves are 0.

    Phases are computed in float64 on one quadrant (the function is even in ky and
    kx), so complex64 is exact to rounding at any distance. The band limit is that of
    Matsushima and Shimobaba (2009): |kx| <= k / sqrt(1 + (2 d / L)^2).
    """
    quadrant, rows, columns = _quadrant(shape, optics)
    phase = np.remainder(quadrant * distance_um, 2 * np.pi)
    real = np.float64 if np.dtype(dtype) == np.complex128 else np.float32
    phase = phase.astype(real)
    kernel = np.empty(quadrant.shape, dtype)
    np.cos(phase, out=kernel.real)
    np.sin(phase, out=kernel.imag)
    kernel[np.isnan(quadrant)] = 0
    if band_limit:
        _limit_band(kernel, shape, distance_um, optics)
    return np.ascontiguousarray(kernel[:, columns][rows])


class Propagator:
    """Refocuses fields of one shape; kernels of the last distances are kept (128 MiB).

    Parameters
    ----------
    shape
        (height, width) of the fields.
    optics, padding_px, band_limit
        As for `refocus`.
    n_threads
        Threads of each Fourier transform.

    Examples
    --------
    >>> propagator = Propagator((64, 64), Optics(0.633, 0.228))
    >>> planes = propagator.prepare(np.ones((64, 64), np.complex64))
    >>> planes.stack([-1.0, 0.0, 1.0]).shape
    (3, 64, 64)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        optics: Optics,
        *,
        padding_px: int | None = None,
        band_limit: bool = True,
        n_threads: int = 2,
    ) -> None:
        if len(shape) != 2:
            raise InputError(f"field of shape {tuple(shape)}: expected (y, x).")
        self.shape = (int(shape[0]), int(shape[1]))
        self.optics, self.band_limit, self.n_threads = optics, band_limit, n_threads
        self.padded_shape = tuple(_padded(side, padding_px) for side in self.shape)
        self._buffers: dict[np.dtype[Any], ComplexImage] = {}
        self._kernels: OrderedDict[tuple[float, str], ComplexImage] = OrderedDict()

    def __call__(self, field: ComplexImage, distance_um: float) -> ComplexImage:
        """Return `field` propagated by `distance_um`; faster than `prepare` for one."""
        work = self._pad(field, self._buffers)
        if distance_um:
            self.transform(work)
            work *= self.kernel(distance_um, work.dtype)
            self.transform_back(work)
        return self.unpad(work)

    def prepare(self, field: ComplexImage) -> Planes:
        """Transform `field` once, for any number of planes."""
        return Planes(self, self.transform(self._pad(field, {})))

    def transform(self, padded: ComplexImage) -> ComplexImage:
        """Replace a padded E - 1 by its spectrum; rows of padding are not touched."""
        rows = padded[: self.shape[0]]
        _keep(rows, fft.fft(rows, axis=1, workers=self.n_threads, overwrite_x=True))
        whole = fft.fft(padded, axis=0, workers=self.n_threads, overwrite_x=True)
        return _keep(padded, whole)

    def transform_back(self, spectrum: ComplexImage) -> ComplexImage:
        """Replace a spectrum by E - 1, in the rows of the field only."""
        whole = fft.ifft(spectrum, axis=0, workers=self.n_threads, overwrite_x=True)
        rows = _keep(spectrum, whole)[: self.shape[0]]
        _keep(rows, fft.ifft(rows, axis=1, workers=self.n_threads, overwrite_x=True))
        return spectrum

    def _pad(
        self, field: ComplexImage, buffers: dict[np.dtype[Any], ComplexImage]
    ) -> ComplexImage:
        """Return E - 1 in a padded array; fresh memory would cost more than the FFT."""
        field = np.asarray(field)
        if field.shape != self.shape:
            raise InputError(
                f"field of shape {field.shape}: this propagator was made for "
                f"{self.shape}; make one per shape."
            )
        is_double = field.dtype == np.complex128
        dtype = np.dtype(np.complex128 if is_double else np.complex64)
        padded = buffers.get(dtype)
        if padded is None:
            padded = buffers[dtype] = np.empty(self.padded_shape, dtype)
        height, width = self.shape
        padded[height:] = 0
        padded[:height, width:] = 0
        np.subtract(field, 1, out=padded[:height, :width])
        return padded

    def unpad(self, plane: ComplexImage) -> ComplexImage:
        """Return the field of a padded E - 1."""
        height, width = self.shape
        field: ComplexImage = plane[:height, :width] + plane.dtype.type(1)
        return field

    def kernel(self, distance_um: float, dtype: npt.DTypeLike) -> ComplexImage:
        """Return the cached transfer function of one distance."""
        key = (float(distance_um), np.dtype(dtype).name)
        if key not in self._kernels:
            self._kernels[key] = transfer_function(
                self.padded_shape,
                key[0],
                self.optics,
                band_limit=self.band_limit,
                dtype=dtype,
            )
            kept = max(2, _KERNEL_BYTES_KEPT // self._kernels[key].nbytes)
            while len(self._kernels) > kept:
                self._kernels.popitem(last=False)
        self._kernels.move_to_end(key)
        return self._kernels[key]


class Planes:
    """One field, transformed: any plane of it costs one inverse transform."""

    def __init__(self, propagator: Propagator, spectrum: ComplexImage) -> None:
        self._propagator, self._spectrum = propagator, spectrum

    def at(self, distance_um: float) -> ComplexImage:
        """Return the field `distance_um` further along the light, shape (y, x).

        At 0 it is the field itself, evanescent waves included.
        """
        plane: ComplexImage = self.stack([distance_um])[0]
        return plane

    def stack(self, distances_um: npt.ArrayLike) -> ComplexImage:
        """Return the planes at several distances, shape (n, y, x)."""
        distances = np.atleast_1d(np.asarray(distances_um, dtype=float))
        propagator, spectrum = self._propagator, self._spectrum
        height, width = propagator.shape
        out = np.empty((len(distances), height, width), spectrum.dtype)
        work = np.empty_like(spectrum)
        for plane, distance_um in zip(out, distances.tolist(), strict=True):
            if distance_um:
                kernel = propagator.kernel(distance_um, spectrum.dtype)
                np.multiply(spectrum, kernel, out=work)
            else:
                work[:] = spectrum
            propagator.transform_back(work)
            np.add(work[:height, :width], 1, out=plane)
        return out


def safe_distance_um(side_px: int, optics: Optics) -> float:
    """Return the |z| up to which a crop still holds the steepest rays it should.

    Beyond it refocusing the crop loses resolution: light has left the window, which
    no padding brings back.
    """
    return 0.5 * side_px * optics.pixel_size_um / optics.tan_theta


def _quadrant(
    shape: tuple[int, ...], optics: Optics
) -> tuple[FloatArray, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return kz - k [1/µm] for ky, kx >= 0 (NaN: evanescent), and how to unfold it."""
    rows, columns = (_fold(side) for side in shape)
    ky, kx = (
        2 * np.pi * np.arange(side // 2 + 1) / (side * optics.pixel_size_um)
        for side in shape
    )
    kz_squared = optics.k_per_um**2 - ky[:, None] ** 2 - kx**2
    lateral_squared = ky[:, None] ** 2 + kx**2
    with np.errstate(invalid="ignore"):
        kz = np.sqrt(np.where(kz_squared > 0, kz_squared, np.nan))
    # -k_lateral^2 / (kz + k) equals kz - k without cancellation near the axis.
    return -lateral_squared / (kz + optics.k_per_um), rows, columns


def _fold(side: int) -> npt.NDArray[np.intp]:
    index = np.arange(side)
    return np.minimum(index, side - index)


def _limit_band(
    kernel: ComplexImage, shape: tuple[int, ...], distance_um: float, optics: Optics
) -> None:
    for axis, side in enumerate(shape):
        length_um = side * optics.pixel_size_um
        limit = optics.k_per_um / np.hypot(1.0, 2 * distance_um / length_um)
        first_lost = int(limit * length_um / (2 * np.pi)) + 1
        np.moveaxis(kernel, axis, 0)[first_lost:] = 0


def _keep(target: ComplexImage, result: ComplexImage) -> ComplexImage:
    """Return `target` holding `result`, which SciPy wrote there if it could."""
    if not np.may_share_memory(target, result):
        target[:] = result
    return target


def _padded(side: int, padding_px: int | None) -> int:
    if padding_px == 0:
        return side
    usual = min(max(side // 4, 32), 64)
    wanted = side + (usual if padding_px is None else padding_px)
    return int(fft.next_fast_len(wanted, real=True))  # 2, 3, 5: the fastest
