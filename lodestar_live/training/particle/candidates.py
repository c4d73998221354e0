"""Find everything in a snapshot that could be a particle, of any size and sign.

A particle is whatever departs from the background: bright, dark or both (a ring).
Its contrast magnitude is searched in scale space (Lindeberg, IJCV 30, 79, 1998): the
scale-normalised Laplacian of Gaussian answers most at the particle's own size.
Used once per snapshot; nothing here knows a network.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.errors import InputError

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int_]

_FINEST_PX, _STEP = 1.4, 1.26  # scales of the search: 1.4 px up, three per octave
_MIN_SIGNIFICANCE = 8.0  # answers this many times the noise's: no blank frame has any
_OUTLINE = 0.25  # an object ends where its contrast falls to this part of its peak
_ROUND = 0.7  # an object whose rings explain this much of its variance is round
_HALF_WAY = 0.55  # of the distance to a rival; a little more, for it may be smaller
_SADDLE = 0.65  # objects joined by less than this part of their peak are two
_WHOLE_LEVELS = (0.08, 0.15, 0.3)  # of the strongest contrast: outlines of wholes
SMALLEST_WHOLE_PX = 14.0
_COMPACT = 0.65  # share of its circle that a whole fills
_ASIDE = 0.15  # radii from its middle, from which a single part is none of it all
PART = 0.6  # of a whole's radius, up to which what lies in it is a part
_LARGEST_SHARP_PX = 9.0  # scale of what may lie on haze
_MAX_PEAKS, _MAX_CANDIDATES = 4000, 400


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One object of a snapshot.

    Parameters
    ----------
    at_px
        Contrast-weighted centre (y, x).
    radius_px
        Distance from the centre to the farthest point of its outline.
    response
        Answer of the Laplacian at its scale, in camera counts.
    touches_edge
        Whether the frame cuts it.
    """

    at_px: tuple[float, float]
    radius_px: float
    response: float
    touches_edge: bool


class _Peak(NamedTuple):
    response: float
    scale: float
    y: float
    x: float
    symmetry: float


class Contrast:
    """A snapshot relative to its background.

    Parameters
    ----------
    image
        Shape (y, x), any integer or float type; complex fields are taken as
        the magnitude of their departure from the background field.
    """

    def __init__(self, image: Pixels) -> None:
        pixels = as_plane(image)
        pixels = remove_hot_pixels(pixels)
        self.signed: FloatArray = pixels - estimate_background(pixels)
        self.signed -= densest_value(self.signed)
        if np.abs(self.signed).max() <= 1e-9 * np.abs(pixels).max():
            self.signed[:] = 0.0  # rounding of a constant image
        self.shape: tuple[int, int] = pixels.shape

    def flattened(self, extent_px: float) -> Contrast:
        """Return the snapshot less what varies over more than an extent: haze."""
        flat = copy(self)
        flat.__dict__.pop("magnitude", None)
        window = 2 * max(1, round(extent_px / 2)) + 1
        flat.signed = self.signed - ndimage.median_filter(self.signed, window)
        flat.signed -= densest_value(flat.signed)
        return flat

    @cached_property
    def magnitude(self) -> FloatArray:
        """Departure from the background, noise lightly averaged, shape (y, x)."""
        # 0.7 px joins the bright and the dark part of a ring and halves white noise
        smooth: FloatArray = ndimage.gaussian_filter(self.signed, 0.7)
        return np.abs(smooth)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the pixel-to-pixel noise (Immerkaer 1996), counts."""
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=float) / 6.0
        fine = ndimage.convolve(self.signed, kernel, mode="reflect")
        return float(np.median(np.abs(fine)) * 1.4826)


def as_plane(image: Pixels) -> FloatArray:
    """Return an image as a float plane (y, x); refuse what is not one."""
    pixels = np.asarray(image)
    if pixels.ndim != 2 or min(pixels.shape) < 8:
        raise InputError(
            f"image of shape {pixels.shape}: expected one grey plane (y, x) of at "
            "least 8 x 8 px; pass a single frame and a single channel."
        )
    if np.iscomplexobj(pixels):
        middle = np.median(pixels.real) + 1j * np.median(pixels.imag)
        pixels = np.abs(pixels - middle)
    pixels = pixels.astype(float)
    if not np.isfinite(pixels).all():
        raise InputError("image: holds NaN or infinite pixels; expected numbers.")
    return pixels


def remove_hot_pixels(pixels: FloatArray) -> FloatArray:
    """Return the image with single outlying pixels replaced by a median.

    A pixel is hot if it departs from the median of its neighbours 4 times as far as
    any of them: the smallest particle a microscope shows (sigma 1 px) departs 1.7
    times as far.
    """
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    middle = ndimage.median_filter(pixels, footprint=ring)
    high = ndimage.maximum_filter(pixels, footprint=ring)
    low = ndimage.minimum_filter(pixels, footprint=ring)
    spread = np.maximum(high - middle, middle - low)
    return np.where(np.abs(pixels - middle) > 4 * spread, middle, pixels)


def estimate_background(pixels: FloatArray) -> FloatArray:
    """Return the slowly varying background, shape (y, x).

    A median over about 1/7 of the frame, of block medians: follows vignetting and
    leaves particles alone. Frames under 160 px are too small to tell the two apart:
    their background is one number.
    """
    if min(pixels.shape) < 160:
        return np.full_like(pixels, densest_value(pixels))
    block = max(min(pixels.shape) // 64, 1)
    height, width = (n // block * block for n in pixels.shape)
    cells = pixels[:height, :width].reshape(height // block, block, -1, block)
    coarse = ndimage.median_filter(
        np.median(cells, axis=(1, 3)), size=9, mode="nearest"
    )
    coarse = ndimage.gaussian_filter(coarse, 2.0, mode="nearest")
    y = (np.arange(pixels.shape[0]) - (block - 1) / 2) / block
    x = (np.arange(pixels.shape[1]) - (block - 1) / 2) / block
    grid = np.meshgrid(y, x, indexing="ij")
    return np.asarray(ndimage.map_coordinates(coarse, grid, order=1, mode="nearest"))


def densest_value(pixels: FloatArray) -> float:
    """Return the value around which most pixels lie (half-sample mode).

    Unlike the median it stays on the background when particles cover half the frame.
    """
    values = np.sort(pixels.ravel()[:: max(pixels.size // 100_000, 1)])
    while len(values) > 32:
        half = len(values) // 2
        start = int(np.argmin(values[half:] - values[: len(values) - half]))
        values = values[start : start + half]
    return float(values.mean())


def find_candidates(contrast: Contrast) -> list[Candidate]:
    """Return every object that stands out of noise and texture, strongest first."""
    peaks = _scale_space_peaks(contrast)
    others = np.array([peak[:4] for peak in peaks]).reshape(-1, 4)
    taken = np.zeros(contrast.shape, dtype=bool)
    found: list[Candidate] = []
    for peak in _in_order_of_trust(peaks)[:_MAX_PEAKS]:
        if taken[round(peak.y), round(peak.x)] or len(found) == _MAX_CANDIDATES:
            continue
        traced = _trace(contrast, peak, others)
        if traced is None:
            continue
        candidate, window, piece = traced
        y, x = (round(v) for v in candidate.at_px)
        if not taken[y, x] and (piece & taken[window]).sum() < 0.5 * piece.sum():
            found.append(candidate)
        taken[window] |= piece
    return sorted(found, key=lambda c: -c.response)


def find_wholes(contrast: Contrast, parts: list[Candidate]) -> list[Candidate]:
    """Return compact objects that are much larger than what was found in them.

    A large cell is rough inside: the search by scale finds its grains and vacuoles,
    each brighter than the cell. Its outline, filled, is found by level instead.
    """
    smooth = ndimage.gaussian_filter(contrast.magnitude, 2.0)
    top = float(np.percentile(smooth, 99.5))
    places = np.array([part.at_px for part in parts]).reshape(-1, 2)
    radii = np.array([part.radius_px for part in parts])
    wholes: list[tuple[float, Candidate]] = []
    for level in _WHOLE_LEVELS:
        least = max(level * top, 2.0 * contrast.noise)
        filled = ndimage.binary_fill_holes(smooth > least)
        labels, _ = ndimage.label(ndimage.binary_opening(filled, iterations=2))
        for index, window in enumerate(ndimage.find_objects(labels), 1):
            piece = labels[window] == index
            whole = _whole(contrast, piece, window)
            if whole is None:
                continue
            apart = np.hypot(*(places - whole.at_px).T)
            inside = apart < whole.radius_px
            is_aside = apart[inside] > _ASIDE * whole.radius_px
            is_rough = inside.sum() > 1 or is_aside.all()
            if is_rough and (radii[inside] < PART * whole.radius_px).all():
                wholes.append((piece.sum() / whole.radius_px**2, whole))
    found: list[Candidate] = []
    for _, whole in sorted(wholes, key=lambda pair: -pair[0]):  # the most compact first
        if not any(_is_same(whole, other) for other in found):
            found.append(whole)
    return found


def _whole(
    contrast: Contrast, piece: Mask, window: tuple[slice, slice]
) -> Candidate | None:
    """Return a filled outline as a candidate, if it is large and compact."""
    y, x = np.nonzero(piece)
    if len(y) < np.pi * SMALLEST_WHOLE_PX**2:
        return None
    middle = float(y.mean()), float(x.mean())
    radius = float(np.hypot(y - middle[0], x - middle[1]).max()) + 0.5
    if len(y) < _COMPACT * np.pi * radius**2:
        return None
    origin = window[0].start, window[1].start
    response = float(contrast.magnitude[window][piece].mean())
    edge = _touches_edge(piece, origin, contrast.shape)
    at_px = (round(middle[0] + origin[0], 2), round(middle[1] + origin[1], 2))
    return Candidate(at_px, radius, response, edge)


def _is_same(one: Candidate, other: Candidate) -> bool:
    apart = float(np.hypot(*np.subtract(one.at_px, other.at_px)))
    return apart < 0.5 * max(one.radius_px, other.radius_px)


def candidate_at(contrast: Contrast, at_px: tuple[float, float]) -> Candidate | None:
    """Return the object under a click, or None if nothing stands out there."""

    def distance(candidate: Candidate) -> float:
        return float(np.hypot(*np.subtract(candidate.at_px, at_px)))

    near = [c for c in find_candidates(contrast) if distance(c) <= max(c.radius_px, 3)]
    if near:
        return min(near, key=distance)
    here = float(contrast.magnitude[round(at_px[0]), round(at_px[1])])
    if here < 3 * contrast.noise or here == 0:
        return None
    traced = _trace(contrast, _Peak(here, 3.0, *at_px, symmetry=0.0), np.empty((0, 4)))
    return None if traced is None else traced[0]


def sharpest_at(contrast: Contrast, at_px: tuple[float, float]) -> tuple[float, float]:
    """Return scale (px) and answer of what is most like a blob under a click.

    Bright or dark against what surrounds it at once, whatever the light there is.
    """
    reach = int(np.ceil(6 * _LARGEST_SHARP_PX))
    window, origin = _window(contrast.shape, (round(at_px[0]), round(at_px[1])), reach)
    plane = contrast.signed[window]
    y, x = np.indices(plane.shape)
    apart = np.hypot(y + origin[0] - at_px[0], x + origin[1] - at_px[1])
    best = _FINEST_PX, 0.0
    n_scales = int(np.log(_LARGEST_SHARP_PX / _FINEST_PX) / np.log(_STEP)) + 1
    for scale in _FINEST_PX * _STEP ** np.arange(n_scales):
        answer = np.abs(scale**2 * ndimage.gaussian_laplace(plane, scale))
        here = float(answer[apart <= 1.5 + 0.5 * scale].max(initial=0.0))
        if here > max(best[1], _MIN_SIGNIFICANCE * _white(contrast, scale)):
            best = float(scale), here
    return best


def _white(contrast: Contrast, scale_px: float) -> float:
    """Return the deviation of a scale-normalised Laplacian on white noise."""
    return contrast.noise / (float(np.sqrt(2 * np.pi)) * scale_px)


def _in_order_of_trust(peaks: list[_Peak]) -> list[_Peak]:
    """Sort round objects first, large before small; then the rest by their answer.

    The order makes a set of diffraction rings one object instead of many arcs, while
    a cluster, which is not round, stays several.
    """

    def key(peak: _Peak) -> tuple[bool, float]:
        if peak.symmetry < _ROUND:
            return (True, -peak.response)
        return (False, -peak.response * peak.scale**0.25)

    return sorted(peaks, key=key)


def _trace(
    contrast: Contrast, peak: _Peak, others: FloatArray
) -> tuple[Candidate, tuple[slice, slice], Mask] | None:
    """Return the object around a peak, its window and its pixels; None if none.

    The object is where the contrast, smoothed over a quarter of its scale so that a
    ring is one piece, exceeds a quarter of its peak. If that joins other objects
    the level is raised until it parts them; a rod, which has no saddle, stays whole.
    """
    reach = int(np.ceil(6 * peak.scale)) + 4
    window, origin = _window(contrast.shape, (peak.y, peak.x), reach)
    smooth = ndimage.gaussian_filter(
        contrast.magnitude[window], max(peak.scale / 4, 0.7)
    )
    y, x = np.indices(smooth.shape)
    distance = np.hypot(y + origin[0] - peak.y, x + origin[1] - peak.x)
    core = distance <= max(1.3 * peak.scale, 1.5)
    top = float(smooth[core].max())
    if top <= 0:
        return None
    rivals = _rivals(peak, others, window)
    lowest = max(_OUTLINE, min(2.0 * contrast.noise / top, 0.5))
    whole = _piece(smooth, core, lowest * top)
    piece = whole
    if peak.symmetry >= _ROUND:
        piece = whole & (distance <= 2.5 * peak.scale)
    elif whole[tuple(rivals)].any():
        for level in np.arange(lowest, _SADDLE, 0.1):
            piece = _piece(smooth, core, level * top)
            if not piece[tuple(rivals)].any():
                break
        else:
            piece = whole
    if not piece.any():
        return None
    weights = np.where(piece, smooth, 0.0)
    centre = [float((weights * axis).sum() / weights.sum()) for axis in (y, x)]
    radius = float(np.hypot(y - centre[0], x - centre[1])[piece].max()) + 0.5
    if peak.symmetry >= _ROUND:
        # Round objects do not overlap: each ends half way to the next one.
        to_rival = float(distance[tuple(rivals)].min(initial=np.inf))
        radius = min(radius, max(1.5 * peak.scale, _HALF_WAY * to_rival))
    at_px = (round(centre[0] + origin[0], 2), round(centre[1] + origin[1], 2))
    edge = _touches_edge(piece, origin, contrast.shape)
    return Candidate(at_px, radius, peak.response, edge), window, piece


def _piece(smooth: FloatArray, core: Mask, level: float) -> Mask:
    """Return the connected region above a level that fills most of the core."""
    pieces, n = ndimage.label(smooth > level)
    if n == 0 or not pieces[core].any():
        return np.zeros(smooth.shape, dtype=bool)
    counts = np.bincount(pieces[core], minlength=n + 1)
    counts[0] = 0
    return np.asarray(ndimage.binary_fill_holes(pieces == counts.argmax()))


def _rivals(peak: _Peak, others: FloatArray, window: tuple[slice, slice]) -> Indices:
    """Return where in the window comparable peaks lie that may be other objects.

    `others` holds (response, scale, y, x) per row.
    """
    corner = np.array([axis.start for axis in window])
    end = np.array([axis.stop for axis in window]) - 1
    response, scale, places = others[:, 0], others[:, 1], others[:, 2:]
    inside = ((places >= corner) & (places <= end)).all(axis=1)
    comparable = response > 0.5 * peak.response
    alike = np.abs(np.log(scale / peak.scale)) < 0.5
    apart = np.hypot(*(places - (peak.y, peak.x)).T) > 1.8 * peak.scale
    chosen = np.round(places[inside & comparable & alike & apart] - corner)
    return np.asarray(chosen.astype(int).T)


def _scale_space_peaks(contrast: Contrast) -> list[_Peak]:
    """Return the local maxima of the Laplacian at every scale."""
    largest = min(contrast.shape) / 6.0
    n_scales = max(int(np.log(largest / _FINEST_PX) / np.log(_STEP)) + 1, 2)
    peaks: list[_Peak] = []
    for scale in _FINEST_PX * _STEP ** np.arange(n_scales):
        factor = max(int(scale // 3), 1)  # a coarse scale needs no fine grid
        signed = _block_mean(contrast.signed, factor)
        s = scale / factor
        plane = _block_mean(contrast.magnitude, factor)
        answer = -(s**2) * ndimage.gaussian_laplace(plane, s, mode="nearest")
        high = ndimage.maximum_filter(answer, size=2 * int(np.ceil(s)) + 1)
        level = _threshold(contrast, answer, scale)
        smooth = ndimage.gaussian_filter(signed, s / 6)
        for y, x in np.argwhere((answer == high) & (answer > level)):
            symmetry = _symmetry(smooth, (int(y), int(x)), 2 * s)
            place = (y * factor + (factor - 1) / 2, x * factor + (factor - 1) / 2)
            peaks.append(_Peak(float(answer[y, x]), float(scale), *place, symmetry))
    return peaks


def _threshold(contrast: Contrast, answer: FloatArray, scale_px: float) -> float:
    """Return the answer below which nothing is believed at this scale.

    Texture sets it in a sparse frame. In a crowded one the particles themselves
    are the texture; there white noise and a part of the strongest answer decide.
    """
    texture = 1.4826 * float(np.median(np.abs(answer - np.median(answer))))
    white = _white(contrast, scale_px)
    crowded = max(_MIN_SIGNIFICANCE * white, 0.4 * float(answer.max()))
    least = 1e-6 * float(np.abs(contrast.signed).max()) + 1e-300  # not by rounding
    level = min(_MIN_SIGNIFICANCE * max(texture, white), crowded)
    return float(max(level, least))


def _symmetry(plane: FloatArray, at: tuple[int, int], radius: float) -> float:
    """Return the part (0-1) of the variance around a place that its rings explain."""
    reach = int(np.ceil(radius))
    window, origin = _window(plane.shape, at, reach)
    patch = plane[window]
    y, x = np.indices(patch.shape)
    distance = np.hypot(y + origin[0] - at[0], x + origin[1] - at[1])
    ring = np.round(distance).astype(int)[distance <= radius]
    values = patch[distance <= radius]
    count = np.maximum(np.bincount(ring), 1)
    means = np.bincount(ring, values) / count
    rest = float(((values - means[ring]) ** 2).sum())
    total = float(((values - values.mean()) ** 2).sum())
    return 1.0 - rest / (total + 1e-12)


def _block_mean(plane: FloatArray, factor: int) -> FloatArray:
    if factor == 1:
        return plane
    height, width = (n // factor * factor for n in plane.shape)
    cells = plane[:height, :width].reshape(height // factor, factor, -1, factor)
    return np.asarray(cells.mean(axis=(1, 3)))


def _window(
    shape: tuple[int, int], at_px: tuple[float, float], reach: int
) -> tuple[tuple[slice, slice], tuple[int, int]]:
    y, x = round(at_px[0]), round(at_px[1])
    top, left = max(y - reach, 0), max(x - reach, 0)
    bottom, right = min(y + reach + 1, shape[0]), min(x + reach + 1, shape[1])
    return (slice(top, bottom), slice(left, right)), (top, left)


def _touches_edge(piece: Mask, origin: tuple[int, int], shape: tuple[int, int]) -> bool:
    y, x = np.nonzero(piece)
    y, x = y + origin[0], x + origin[1]
    return bool(
        y.min() == 0
        or x.min() == 0
        or y.max() == shape[0] - 1
        or x.max() == shape[1] - 1
    )
