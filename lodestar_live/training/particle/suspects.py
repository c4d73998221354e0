"""What else in the snapshot may be a particle like the chosen one, and how they vary.

The snapshot is compared with the training particles, turned and mirrored every way
(normalised cross-correlation), before anything is trained. What matches is likely to be
another of them (certain), what has contrast but matches little is likely to be none
(background), and what lies between may be either (unsure). Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.fft import irfft2, next_fast_len, rfft2

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.training.particle.measure import Particle

Float32Array = npt.NDArray[np.float32]

BACKGROUND, UNSURE, CERTAIN = 0, 1, 2
MOST_PX = 1_200_000  # of the snapshot that are searched, around the first crop
_REACH_RADII = 1.3  # so far around a place images are compared
_FINE_PX = 5.0  # radius at which images are compared: larger particles are shrunk
_N_TURNS = 12
_SAME_TEMPLATE = 0.985  # correlation from which two orientations are one
_LEAST_SIGNIFICANCE = 6.0  # standard deviations of the background's own amplitudes
_FAINTEST = 4.5  # from here on a place may be a particle, but is never certain
_LEAST_LIKENESS = 0.3
_SURE_LIKENESS = 0.6
_TWO_KINDS, _LEAST_KIND = 3.0, 8  # distance of two kinds in their spreads; members
_MARGIN = 0.15  # of the distance between the kinds, around the cut: unsure
_STEPS = 2.0 ** (np.arange(-4, 5) / 4)  # sizes that are tried
_MOST_ASPECT = 2.1
_SIZED_PX = 3.5  # radius at which sizes are measured
_SOFTNESS = 0.1  # sizes are averaged over what matches nearly as well as the best
_MOST_MEASURED = 40
_LEAST_MEASURED = 5
_VARIES = 0.09  # standard deviation of log sizes from which particles differ
_SPREAD = 2.0  # standard deviations that the learnt range reaches: 95 %
_WIDEST = 2.2


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """Places of the snapshot that have a particle's contrast.

    Parameters
    ----------
    positions_px
        (n, 2), (y, x) in the image that was searched.
    likeness
        (n,): correlation with the training particle, noise taken out, up to 1.
    contrast
        (n,): amplitude relative to the training particle's.
    kind
        (n,): `CERTAIN`, `UNSURE` or `BACKGROUND`.
    stretch
        Range of the sizes of the certain ones along any axis, relative to the training
        particle's; None if they do not vary.
    """

    positions_px: FloatArray
    likeness: FloatArray
    contrast: FloatArray
    kind: npt.NDArray[np.int64]
    stretch: tuple[float, float] | None = None
    is_lure: npt.NDArray[np.bool_] | None = None

    @property
    def is_particle(self) -> npt.NDArray[np.bool_]:
        """(n,): whether it is certain."""
        return np.asarray(self.kind == CERTAIN)

    @property
    def may_be(self) -> npt.NDArray[np.bool_]:
        """(n,): whether it is certain or unsure."""
        return np.asarray(self.kind >= UNSURE)

    def within(self, wanted: npt.NDArray[np.bool_] | None) -> Suspects:
        """Return those that lie where particles are wanted, (y, x) of the image."""
        if wanted is None or not len(self.positions_px):
            return self
        y, x = np.round(self.positions_px).astype(int).T
        height, width = wanted.shape
        is_kept = wanted[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return replace(
            self,
            positions_px=self.positions_px[is_kept],
            likeness=self.likeness[is_kept],
            contrast=self.contrast[is_kept],
            kind=self.kind[is_kept],
            is_lure=None if self.is_lure is None else self.is_lure[is_kept],
        )

    @property
    def brightness(self) -> tuple[float, float]:
        """Range of the certain ones' contrast, relative to the training particle's."""
        contrast = self.contrast[self.is_particle]
        if not len(contrast):
            return 1.0, 1.0
        low, high = np.percentile(contrast, [5, 95])
        return float(low), float(high)


class _Match(NamedTuple):
    """Best correlation over orientations, amplitude there, and the latter's noise."""

    likeness: Float32Array
    contrast: Float32Array
    noise: float


def search_area(image: Pixels, at_px: FloatArray) -> Pixels:
    """Return the part of an image, (y, x), around a place that is searched."""
    if image.size <= MOST_PX:
        return image
    side = int(np.sqrt(MOST_PX))
    window = []
    for place, length, other in zip(at_px, image.shape, image.shape[::-1], strict=True):
        extent = min(length, max(side, MOST_PX // other))
        start = int(np.clip(round(float(place)) - extent // 2, 0, length - extent))
        window.append(slice(start, start + extent))
    return image[tuple(window)]


def find_suspects(
    image: Pixels,
    particles: Sequence[Particle],
    *,
    lures: Sequence[Particle] = (),
    sizes: bool = True,
) -> Suspects:
    """Search an image, (y, x), for what is like the particles measured in it.

    `lures`: what the user said are none; places more like them are background.
    `sizes`: whether to measure how particles vary.
    """
    radius_px = min(p.radius_px for p in particles)
    factor = max(1, int(radius_px // _FINE_PX))
    plane = shrink(np.asarray(image, dtype=np.float64), factor)
    plane -= np.median(plane)
    matches = [_match(plane, particle, factor) for particle in particles]
    chosen = np.argmax([m.likeness for m in matches], axis=0)
    likeness = np.choose(chosen, [m.likeness for m in matches])
    contrast = np.choose(chosen, [m.contrast for m in matches])
    noise = np.array([m.noise for m in matches])[chosen]
    apart = 2 * max(1, round(0.7 * radius_px / factor)) + 1
    is_peak = likeness == ndimage.maximum_filter(likeness, size=apart)
    is_peak &= (contrast >= _FAINTEST * noise) & (likeness > _LEAST_LIKENESS)
    places = np.argwhere(is_peak)
    n_px = np.pi * (_REACH_RADII * radius_px / factor) ** 2
    significance = contrast[is_peak] / noise[is_peak]
    # Noise lowers a correlation by a known factor: a faint one is not unlike.
    freed = np.minimum(likeness[is_peak] * np.sqrt(1 + n_px / significance**2), 1.0)
    kind = np.full(len(places), UNSURE)
    stands_out = significance >= _LEAST_SIGNIFICANCE
    kind[stands_out] = _kinds(freed[stands_out], contrast[is_peak][stands_out])
    is_lure = None
    if lures:
        unlike = np.max([_match(plane, p, factor).likeness for p in lures], axis=0)
        near = 2 * max(1, round(0.4 * radius_px / factor)) + 1
        unlike = ndimage.maximum_filter(unlike, size=near)
        is_lure = np.asarray(unlike[is_peak] > likeness[is_peak])
        kind[is_lure] = BACKGROUND
    positions = places * factor + (factor - 1) / 2
    found = Suspects(
        positions, freed, contrast[is_peak].astype(float), kind, None, is_lure
    )
    is_clear = found.is_particle & (significance**2 > 0.5 * n_px)
    order = _spaced(found, np.flatnonzero(is_clear))
    if not sizes or len(order) < _LEAST_MEASURED:
        return found
    stretch = _stretch(image, particles[0], positions[order], found.contrast[order])
    return replace(found, stretch=stretch)


def distance_from(places_px: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Return every pixel's distance to the nearest place (y, x), px."""
    empty = np.ones(shape, dtype=bool)
    y, x = np.round(places_px).astype(int).reshape(-1, 2).T
    empty[np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)] = False
    if empty.all():
        return np.full(shape, float(sum(shape)))
    return np.asarray(ndimage.distance_transform_edt(empty))


def shrink(plane: FloatArray, factor: int) -> FloatArray:
    """Return means of blocks of `factor` pixels a side."""
    if factor == 1:
        return plane.copy()
    height, width = (side // factor * factor for side in plane.shape)
    cells = plane[:height, :width].reshape(height // factor, factor, -1, factor)
    return np.asarray(cells.mean(axis=(1, 3)))


def _match(plane: FloatArray, particle: Particle, factor: int) -> _Match:
    """Compare every place of an image with a particle in all orientations."""
    disk, templates = _templates(particle, factor)
    reach = len(disk) // 2
    shape = [next_fast_len(side + 2 * reach, real=True) for side in plane.shape]
    spectrum = rfft2(plane.astype(np.float32), shape)
    height, width = plane.shape

    def correlate(spectrum: FloatArray, kernel: FloatArray) -> Float32Array:
        transformed = rfft2(kernel.astype(np.float32), shape)
        full = irfft2(spectrum * np.conj(transformed), shape)
        return np.asarray(np.roll(full, (reach, reach), (0, 1))[:height, :width])

    mask, n = disk.astype(float), disk.sum()
    square = correlate(rfft2((plane**2).astype(np.float32), shape), mask)
    variance = square - correlate(spectrum, mask) ** 2 / n
    variance = np.maximum(variance, 1e-6 * square.max() + 1e-12)
    likeness = np.full(plane.shape, -1.0, np.float32)
    contrast = np.zeros(plane.shape, np.float32)
    noise = 0.0
    for template in templates:
        length = float(np.sqrt((template**2).sum()))
        answer = correlate(spectrum, template)
        if not noise:
            noise = quiet_deviation(answer) / length**2
        correlation = answer / (length * np.sqrt(variance))
        is_better = correlation > likeness
        likeness[is_better] = correlation[is_better]
        contrast[is_better] = answer[is_better] / length**2
    return _Match(likeness, contrast, max(noise, 1e-9))


def quiet_deviation(values: npt.NDArray[np.floating]) -> float:
    """Return the standard deviation of the quietest part of some values.

    That of a normal distribution whose densest 30 % lie as close together.
    """
    ordered = np.sort(values.ravel()[:: max(1, values.size // 50_000)])
    n = max(1, int(0.3 * len(ordered)))
    return float((ordered[n:] - ordered[:-n]).min() / 0.7706)


def _templates(
    particle: Particle, factor: int
) -> tuple[npt.NDArray[np.bool_], list[FloatArray]]:
    """Return the disk in which images are compared, and the particle's orientations."""
    reach_px = _REACH_RADII * particle.radius_px / factor
    axis = np.arange(-int(np.ceil(reach_px)), int(np.ceil(reach_px)) + 1)
    offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).astype(float)
    disk = np.hypot(offsets[..., 0], offsets[..., 1]) <= reach_px
    signal = _smooth(particle, factor)
    kept: list[FloatArray] = []
    for turn in _turns():
        where = (offsets * factor) @ turn + np.array(particle.centre_px)
        shown = ndimage.map_coordinates(signal, where.transpose(2, 0, 1), order=1)
        shown = np.where(disk, shown - shown[disk].mean(), 0.0)
        length = np.sqrt((shown**2).sum())
        alike = [(shown * k).sum() / (length * np.sqrt((k**2).sum())) for k in kept]
        if max(alike, default=-1.0) < _SAME_TEMPLATE:
            kept.append(shown)
    return disk, kept


def _turns() -> Iterator[FloatArray]:
    """Yield rotations without and with a reflection."""
    for mirror in (1.0, -1.0):
        for angle in 2 * np.pi * np.arange(_N_TURNS) / _N_TURNS:
            cos, sin = np.cos(angle), np.sin(angle)
            yield np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror, 1.0])


def _smooth(particle: Particle, factor: int) -> FloatArray:
    """Return the particle as an image shrunk by `factor` shows it, not shrunk."""
    if factor == 1:
        return particle.signal
    return np.asarray(ndimage.uniform_filter(particle.signal, factor))


def _kinds(likeness: FloatArray, contrast: FloatArray) -> npt.NDArray[np.int64]:
    """Say of each place whether it is a particle like the chosen one.

    Where likeness times contrast falls into two clearly separate groups, the lower one
    is background: walls, dirt. Where it does not, nothing is, but what is only half
    like the particle is not certain either.
    """
    quality = likeness * np.sqrt(np.clip(contrast, 0, 1))
    kind = np.where(likeness >= _SURE_LIKENESS, CERTAIN, UNSURE)
    parted = _part(quality)
    if parted is not None:
        cut, margin = parted
        kind = np.where(quality >= cut, UNSURE, BACKGROUND)
        kind[quality >= cut + margin] = CERTAIN
        kind[(quality < cut) & (quality >= cut - margin)] = UNSURE
    return kind.astype(np.int64)


def _part(quality: FloatArray) -> tuple[float, float] | None:
    """Return the cut between two groups (Otsu 1979) and its margin; None if one."""
    if len(quality) < 2 * _LEAST_KIND:
        return None
    ordered = np.sort(quality)
    n, sums = len(ordered), np.cumsum(ordered)
    below = np.arange(1, n)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (n - below)
    last = int(np.argmax(below * (n - below) * (high - low) ** 2))
    first, second = ordered[: last + 1], ordered[last + 1 :]
    distance = second.mean() - first.mean()
    is_clear = distance > _TWO_KINDS * (first.std() + second.std())
    if not is_clear or min(len(first), len(second)) < _LEAST_KIND:
        return None
    return float(first[-1] + second[0]) / 2, float(_MARGIN * distance)


def _spaced(found: Suspects, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return some of the chosen, from the most to the least alike."""
    order = chosen[np.argsort(-found.likeness[chosen], kind="stable")]
    return order[:: max(1, len(order) // _MOST_MEASURED)][:_MOST_MEASURED]


def _stretch(
    image: Pixels, particle: Particle, positions_px: FloatArray, contrast: FloatArray
) -> tuple[float, float] | None:
    """Return the range of objects' sizes, beyond what copies of one seem to have."""
    factor = max(1, int(particle.radius_px // _SIZED_PX))
    plane = shrink(np.asarray(image, dtype=np.float64), factor)
    plane -= np.median(plane)
    sizer = _Sizer(particle, factor)
    sizes = sizer.sizes(plane, positions_px)
    noise = quiet_deviation(_differences(plane))
    rng = np.random.default_rng(5)
    chance = sizer.sizes(*sizer.copies(particle, contrast, noise, rng))
    spread2 = _robust_variance(sizes) - _robust_variance(chance)
    if spread2 < _VARIES**2:
        return None
    middle = float(np.median(sizes) - np.median(chance))
    reach = _SPREAD * float(np.sqrt(spread2))
    low = float(np.clip(np.exp(middle - reach), 1 / _WIDEST, 1.0))
    high = float(np.clip(np.exp(middle + reach), 1.0, _WIDEST))
    return low, high


def _differences(plane: FloatArray) -> FloatArray:
    return np.asarray((plane[2:] + plane[:-2] - 2 * plane[1:-1]) / np.sqrt(6))


def _robust_variance(values: FloatArray) -> float:
    low, high = np.percentile(values, [12.5, 87.5])
    return float(((high - low) / 2.30) ** 2)


class _Sizer:
    """Measures sizes along a particle's two principal axes by comparison."""

    def __init__(self, particle: Particle, factor: int) -> None:
        self.factor = factor
        signal = _smooth(particle, factor)
        centre = np.array(particle.centre_px)
        reach_px = _REACH_RADII * particle.radius_px / factor
        self.reach = int(np.ceil(1.7 * reach_px))
        axis = np.arange(-self.reach, self.reach + 1)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
        offsets = grid.reshape(-1, 2).T * float(factor)
        axes = _principal_axes(signal, centre)
        margin = 2 * self.reach * factor
        padded = np.pad(signal, margin)
        templates, masks, sizes = [], [], []
        for turn in list(_turns())[:_N_TURNS]:
            for pair in self._pairs():
                shape = turn @ (axes * np.array(pair)) @ axes.T
                source = np.linalg.solve(shape, offsets)
                mask = np.hypot(*source) <= _REACH_RADII * particle.radius_px
                where = source + (centre + margin)[:, None]
                shown = ndimage.map_coordinates(padded, where, order=1)
                shown = np.where(mask, shown - shown[mask].mean(), 0.0)
                templates.append(shown / np.sqrt((shown**2).sum()))
                masks.append(mask)
                sizes.append(pair)
        self.templates = np.array(templates, np.float32)
        self.masks = np.array(masks, np.float32)
        self.n = self.masks.sum(axis=1)
        self.log_sizes = np.log(np.array(sizes))

    @staticmethod
    def _pairs() -> list[tuple[float, float]]:
        """Return the sizes along the two axes; every second of them suffices."""
        return [
            (float(a), float(b))
            for i, a in enumerate(_STEPS)
            for j, b in enumerate(_STEPS)
            if (i + j) % 2 == 0 and 1 / _MOST_ASPECT <= a / b <= _MOST_ASPECT
        ]

    def sizes(self, plane: FloatArray, positions_px: FloatArray) -> FloatArray:
        """Return the log sizes of the objects at places, both axes, (2 n,)."""
        reach, pad = self.reach, self.reach + 1
        padded = np.pad(plane, pad, mode="reflect").astype(np.float32)
        found = []
        for place in (positions_px - (self.factor - 1) / 2) / self.factor:
            y, x = (round(float(c)) + pad for c in place)
            patches = np.array([
                padded[v - reach : v + reach + 1, u - reach : u + reach + 1].ravel()
                for v in (y - 1, y, y + 1)
                for u in (x - 1, x, x + 1)
            ])  # fmt: skip
            sums, squares = patches @ self.masks.T, patches**2 @ self.masks.T
            variance = squares - sums**2 / self.n
            variance = np.maximum(variance, 1e-6 * squares.max() + 1e-12)
            match = (patches @ self.templates.T) / np.sqrt(variance)
            best = match.max(axis=0)
            softness = _SOFTNESS * (1 - best.max()) + 1e-3
            weight = np.exp((best - best.max()) / softness)
            found.append(weight @ self.log_sizes / weight.sum())
        return np.concatenate(found)

    def copies(
        self,
        particle: Particle,
        contrast: FloatArray,
        noise: float,
        rng: np.random.Generator,
    ) -> tuple[FloatArray, FloatArray]:
        """Draw turned copies of the particle of given contrasts, at known places."""
        pitch = 2 * self.reach + 3
        side = int(np.ceil(np.sqrt(len(contrast))))
        plane = rng.normal(0, noise, (pitch * side,) * 2)
        cells = np.argwhere(np.ones((side, side)))[: len(contrast)]
        places = pitch * cells + pitch // 2 + rng.uniform(-0.5, 0.5, cells.shape)
        signal, axis = _smooth(particle, self.factor), np.arange(pitch)
        turns = list(_turns())
        for cell, place, height in zip(cells, places, contrast, strict=True):
            turn = turns[rng.integers(len(turns))]
            grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
            offset = grid + pitch * cell - place
            where = (offset * self.factor) @ turn + particle.centre_px
            shown = ndimage.map_coordinates(signal, where.transpose(2, 0, 1), order=1)
            top, left = pitch * cell
            plane[top : top + pitch, left : left + pitch] += height * shown
        return plane, places * self.factor + (self.factor - 1) / 2


def _principal_axes(signal: FloatArray, centre: FloatArray) -> FloatArray:
    """Return the directions of least and largest extent, columns of (2, 2)."""
    height = np.abs(signal)
    weight = np.clip(height - 0.25 * height.max(), 0, None).ravel()
    offsets = np.indices(signal.shape).reshape(2, -1) - centre[:, None]
    return np.asarray(np.linalg.eigh((offsets * weight) @ offsets.T)[1])
