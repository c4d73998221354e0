"""Choose the particle to learn from: isolated, in focus, typical of its kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.frame.prepare import Mask
from lodestar_live.errors import InputError, LodestarError
from lodestar_live.training.particle.candidates import (
    PART,
    SMALLEST_WHOLE_PX,
    Candidate,
    Contrast,
    candidate_at,
    find_candidates,
    find_wholes,
    sharpest_at,
)
from lodestar_live.training.particle.measure import cut_crop, measure_particle
from lodestar_live.training.particle.suspects import find_suspects, shrink

_ALIKE = 0.1  # candidates whose looks agree less than this are different kinds
_SMALLEST_CROP_PX, _LEAST_CROP_PX = 24, 16
_COMPARED_PX = 14.0  # diameter at which parts of a whole are compared
_CLUSTER, _FILLED = 4, 0.2  # alike parts, and share they fill, that make a group
_ROUGH_PARTS, _FAR_MORE = 3, 3.0  # parts of a whole; contrast it has beyond a kind's
_LIKE, _LIKE_CONTRAST = 0.85, 0.4  # least of both, to count as marked
# A click on something small on haze: the haze is far larger, and answers no better.
_FAR_LARGER, _AS_CLEAR, _ROOM_SCALES = 4.0, 0.8, 8.0
_MARGIN = 2.0  # side of the crop in particle diameters: room for shifted views


@dataclass(frozen=True, slots=True)
class Proposal:
    """A particle proposed for training.

    Parameters
    ----------
    at_px
        Its centre (y, x) in the snapshot.
    size_px
        Side of the crop to train on.
    contrast
        +1 brighter than the background, -1 darker, 0 both (a ring).
    score
        0 to 1: how isolated, sharp and typical it is.
    reason
        One sentence for the user.
    diameter_px
        Its extent.
    """

    at_px: tuple[float, float]
    size_px: int
    contrast: int
    score: float
    reason: str
    diameter_px: float


def choose_particle(image: Pixels, wanted: Mask | None = None) -> Proposal:
    """Return the best particle of a snapshot to train on, where it is `wanted`.

    Raises
    ------
    InputError
        Nothing in the image stands out of its background.
    """
    return choose_particles(image, 1, wanted)[0]


def choose_particles(
    image: Pixels, n: int = 3, wanted: Mask | None = None
) -> list[Proposal]:
    """Return the best particle of each kind of object, most common kind first.

    Parameters
    ----------
    image
        Shape (y, x), any integer or float type, or a complex field.
    n
        Kinds to return at most.
    wanted
        (y, x): where particles may be chosen. None: everywhere.

    Raises
    ------
    InputError
        Nothing in the image stands out of its background.
    """
    contrast = Contrast(image)
    candidates = find_candidates(contrast)
    if wanted is not None:
        candidates = [c for c in candidates if _is_within(wanted, c.at_px)]
    if not candidates:
        raise InputError(
            f"image of {contrast.shape[0]} x {contrast.shape[1]} px: no particle "
            "stands out of the background; expected at least one with a contrast of 3 "
            "times the noise. Focus, raise the exposure, or name a place (`--at Y,X`)."
        )
    looks = np.array([_look(contrast, candidate) for candidate in candidates])
    alike = np.exp(-0.5 * ((looks[:, None] - looks[None]) ** 2).sum(axis=-1))
    scores = _scores(contrast, candidates, alike)
    proposals: list[Proposal] = []
    whole = _main_whole(contrast, candidates, scores, alike)
    if whole is not None and (wanted is None or _is_within(wanted, whole.at_px)):
        reason = f"the whole object, {2 * whole.radius_px:.0f} px across, not its parts"
        proposals.append(_as_proposal(contrast, whole, 1.0, reason))
    free = np.ones(len(candidates), dtype=bool)
    while free.any() and len(proposals) < n:
        best = int(np.argmax(np.where(free, scores, -1.0)))
        n_alike = int((alike[best] > _ALIKE).sum())
        proposals.append(
            _proposal(contrast, candidates, best, float(scores[best]), n_alike)
        )
        free &= alike[best] < _ALIKE
    return proposals


def _is_within(wanted: Mask, at_px: tuple[float, float]) -> bool:
    y, x = (round(float(c)) for c in at_px)
    height, width = wanted.shape
    return 0 <= y < height and 0 <= x < width and bool(wanted[y, x])


def _main_whole(
    contrast: Contrast,
    candidates: list[Candidate],
    scores: FloatArray,
    alike: FloatArray,
) -> Candidate | None:
    """Return the large, rough object that the snapshot is of, if it is of one.

    It has far more contrast than all of the kind that would be chosen else, and these
    are a minority: dust varies, particles are many of a kind.
    """
    best = int(np.argmax(scores))
    places = np.array([c.at_px for c in candidates])
    is_kind = alike[best] > _ALIKE
    radii = np.array([c.radius_px for c in candidates])
    large = [c for c in candidates if c.radius_px >= SMALLEST_WHOLE_PX]
    found = []
    for whole in find_wholes(contrast, candidates) + large:
        is_part = np.hypot(*(places - whole.at_px).T) < whole.radius_px
        is_rough = (radii[is_part] < PART * whole.radius_px).sum() >= _ROUGH_PARTS
        if whole.touches_edge or not is_rough:
            continue
        rest = [candidates[i] for i in np.flatnonzero(is_kind & ~is_part)]
        if 2 * len(rest) > (~is_part).sum():
            continue
        amount = _amount(contrast, whole)
        if amount < _FAR_MORE * sum(_amount(contrast, c) for c in rest):
            continue
        inside = np.flatnonzero(is_part & (radii < PART * whole.radius_px))
        typical = candidates[inside[np.argmax(scores[inside])]]
        if not _is_group(contrast, whole, typical):
            found.append((amount, whole))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _amount(contrast: Contrast, candidate: Candidate) -> float:
    """Return the summed contrast magnitude of an object, less what noise has."""
    patch, distance = _surroundings(contrast, candidate, candidate.radius_px)
    above = patch[distance <= candidate.radius_px] - contrast.noise
    return float(np.clip(above, 0, None).sum())


def _is_group(contrast: Contrast, whole: Candidate, part: Candidate) -> bool:
    """Say whether a whole is a group of parts that are alike."""
    alike = _alike_at(contrast.signed, _as_proposal(contrast, part, 1.0, ""))
    inside = np.hypot(*(alike - whole.at_px).T) < whole.radius_px
    share = (part.radius_px / whole.radius_px) ** 2
    return bool(inside.sum() >= _CLUSTER and inside.sum() * share >= _FILLED)


def _alike_at(image: Pixels, proposal: Proposal) -> FloatArray:
    """Return where something is like a proposed particle, (n, 2), before training."""
    try:
        crop = cut_crop(image, proposal.at_px, proposal.size_px)
        factor = max(1, int(proposal.diameter_px / _COMPARED_PX))
        particle = measure_particle(shrink(crop, factor).astype(np.float64))
    except LodestarError:  # no particle to learn from
        return np.empty((0, 2))
    small = shrink(np.asarray(image, dtype=float), factor)
    found = find_suspects(small, [particle], sizes=False)
    is_like = found.is_particle & (found.likeness >= _LIKE)
    is_like &= found.contrast >= _LIKE_CONTRAST
    return found.positions_px[is_like] * factor + (factor - 1) / 2


def refine_click(image: Pixels, at_px: tuple[float, float]) -> tuple[float, float]:
    """Return the centre (y, x) of the particle under a click; the click if none is."""
    _, candidate = _at(Contrast(image), at_px)
    return at_px if candidate is None else candidate.at_px


def estimate_size(image: Pixels, at_px: tuple[float, float]) -> int:
    """Return the side of the training crop for the particle at a place, px.

    Raises
    ------
    InputError
        The place lies outside the image, or nothing stands out there.
    """
    contrast, candidate = _at(Contrast(image), at_px)
    if candidate is None:
        raise InputError(
            f"at = ({at_px[0]:g}, {at_px[1]:g}): nothing stands out of the background "
            "there; click on a particle or give the size of the crop."
        )
    return _crop_size(contrast, candidate)


def _whole_at(
    contrast: Contrast, candidate: Candidate, at_px: tuple[float, float]
) -> Candidate:
    """Return the whole object around a click, unless it is a group of alike parts."""
    for whole in find_wholes(contrast, [candidate]):
        apart = float(np.hypot(*np.subtract(whole.at_px, at_px)))
        if apart > whole.radius_px:
            continue
        if not _is_group(contrast, whole, candidate):
            return whole
    return candidate


def _at(
    contrast: Contrast, at_px: tuple[float, float]
) -> tuple[Contrast, Candidate | None]:
    """Return the object under a click, and the image it stands out of."""
    height, width = contrast.shape
    if not (0 <= at_px[0] <= height - 1 and 0 <= at_px[1] <= width - 1):
        raise InputError(
            f"at = ({at_px[0]:g}, {at_px[1]:g}): outside the image of {height} x "
            f"{width} px; expected (y, x) with (0, 0) the centre of the first pixel."
        )
    candidate = candidate_at(contrast, at_px)
    if candidate is not None:
        whole = _whole_at(contrast, candidate, at_px)
        if whole is not candidate:
            return contrast, whole
    scale_px, answer = sharpest_at(contrast, at_px)
    if candidate is not None and (
        candidate.radius_px <= _FAR_LARGER * scale_px
        or answer <= _AS_CLEAR * candidate.response
    ):
        return contrast, candidate
    if not answer:
        return contrast, candidate
    flat = contrast.flattened(_ROOM_SCALES * scale_px)
    sharp = candidate_at(flat, at_px)
    return (contrast, candidate) if sharp is None else (flat, sharp)


def _crop_size(contrast: Contrast, candidate: Candidate) -> int:
    """Return a multiple of 4 that holds the particle with room for shifted views.

    A neighbour inside the crop would be learnt as part of the particle: the crop
    ends before it, but never closer than a fifth of a diameter to the particle.
    """
    diameter = 2 * candidate.radius_px
    room = 2 * (_nearest_foreign_px(contrast, candidate) - 1)
    side = float(np.clip(room, 1.2 * diameter + 2, _MARGIN * diameter))
    side = max(side, min(room, _SMALLEST_CROP_PX), _LEAST_CROP_PX)
    return int(min(4 * np.ceil(side / 4), min(contrast.shape)))


def _nearest_foreign_px(contrast: Contrast, candidate: Candidate) -> float:
    """Return the distance from the centre to the nearest contrast beside a particle."""
    patch, distance = _surroundings(contrast, candidate, 2.2 * candidate.radius_px + 12)
    inside = distance <= candidate.radius_px
    level = 0.35 * float(np.percentile(patch[inside], 90)) + 3 * contrast.noise
    foreign = (distance > candidate.radius_px + 1.5) & (patch > level)
    return float(distance[foreign].min()) if foreign.any() else np.inf


def _surroundings(
    contrast: Contrast, candidate: Candidate, reach_px: float
) -> tuple[FloatArray, FloatArray]:
    """Return the contrast magnitude around a candidate and the distance from it."""
    reach = int(np.ceil(reach_px))
    y, x = round(candidate.at_px[0]), round(candidate.at_px[1])
    top, left = max(y - reach, 0), max(x - reach, 0)
    patch = contrast.magnitude[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.indices(patch.shape)
    return patch, np.hypot(
        rows + top - candidate.at_px[0], columns + left - candidate.at_px[1]
    )


def _look(contrast: Contrast, candidate: Candidate) -> FloatArray:
    """Return what a candidate looks like: size, strength and signed radial profile.

    Scaled so that a Euclidean distance of 1 is a just noticeable difference.
    """
    radius = candidate.radius_px
    reach = int(np.ceil(radius))
    y, x = np.indices((2 * reach + 1,) * 2) - reach
    place = [y + candidate.at_px[0], x + candidate.at_px[1]]
    patch = ndimage.map_coordinates(contrast.signed, place, order=1, mode="nearest")
    rings = np.minimum((np.hypot(y, x) / radius * 6).astype(int), 6).ravel()
    sums = np.bincount(rings, patch.ravel(), 7)[:6]
    profile = sums / np.maximum(np.bincount(rings, minlength=7)[:6], 1)
    strength = float(np.abs(profile).max()) + 1e-12
    size_and_strength = [np.log(radius) / 0.25, np.log(strength) / 0.5]
    return np.asarray(np.concatenate([size_and_strength, profile / strength / 0.35]))


def _scores(
    contrast: Contrast, candidates: list[Candidate], alike: FloatArray
) -> FloatArray:
    """Return 0-1 per candidate: product of typical, isolated, sharp and inside."""
    # the sum counts companions; its root keeps a rare, perfect particle in the race
    responses = np.array([c.response for c in candidates])
    typical = (alike * np.sqrt(responses)[None]).sum(axis=1)
    typical = np.sqrt(typical / typical.max())
    sharp = np.array([_sharpness(contrast, c) for c in candidates])
    rivals = alike > _ALIKE
    sharp = np.array(
        [s / np.max(sharp[row]) for s, row in zip(sharp, rivals, strict=True)]
    )
    return np.asarray(typical * np.sqrt(sharp) * _isolation(contrast, candidates))


def _sharpness(contrast: Contrast, candidate: Candidate) -> float:
    reach = int(np.ceil(candidate.radius_px)) + 1
    y, x = (round(v) for v in candidate.at_px)
    patch = contrast.signed[
        max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1
    ]
    smooth = ndimage.gaussian_filter(patch, 1.0)
    slope = np.hypot(*np.gradient(smooth)) if min(smooth.shape) > 1 else smooth
    return float(np.percentile(slope, 95)) + 1e-12


def _isolation(contrast: Contrast, candidates: list[Candidate]) -> FloatArray:
    """Return 0-1: the room to comparable neighbours and to the frame's edge, in radii.

    What answers less than a third as strongly disturbs the training little.
    """
    centres = np.array([c.at_px for c in candidates])
    radii = np.array([c.radius_px for c in candidates])
    responses = np.array([c.response for c in candidates])
    gaps = cdist(centres, centres) - radii - radii[:, None]
    gaps[responses[None] < responses[:, None] / 3] = np.inf
    np.fill_diagonal(gaps, np.inf)
    room = np.clip(0.5 + 0.5 * gaps.min(axis=1) / radii, 0.05, 1.0)
    room *= [_emptiness(contrast, candidate) for candidate in candidates]
    limits = np.array(contrast.shape) - 1
    to_edge = np.minimum(centres, limits - centres).min(axis=1)
    # nearer than a radius the crop, moved inwards, would cut the particle
    inside = np.clip(to_edge / radii - 1.0, 0.02, 1.0)
    inside[[c.touches_edge for c in candidates]] = 0.02
    return np.asarray(room * inside)


def _emptiness(contrast: Contrast, candidate: Candidate) -> float:
    """Return 1 if nothing lies beside a candidate, towards 0 if something touches."""
    reach_px = 1.7 * candidate.radius_px
    patch, distance = _surroundings(contrast, candidate, reach_px)
    inside = distance <= candidate.radius_px
    beside = (distance > candidate.radius_px + 1) & (distance <= reach_px)
    level = 0.5 * float(np.percentile(patch[inside], 90)) + contrast.noise
    return (
        float(np.exp(-(patch[beside] > level).mean() / 0.05)) if beside.any() else 1.0
    )


def _proposal(
    contrast: Contrast,
    candidates: list[Candidate],
    best: int,
    score: float,
    n_alike: int,
) -> Proposal:
    candidate = candidates[best]
    reason = (
        f"one of {n_alike} alike among {len(candidates)} objects, "
        f"{2 * candidate.radius_px:.0f} px across"
    )
    return _as_proposal(contrast, candidate, score, reason)


def _as_proposal(
    contrast: Contrast, candidate: Candidate, score: float, reason: str
) -> Proposal:
    size = _crop_size(contrast, candidate)
    y, x = candidate.at_px
    sign = _sign(contrast, candidate)
    return Proposal((y, x), size, sign, score, reason, 2 * candidate.radius_px)


def _sign(contrast: Contrast, candidate: Candidate) -> int:
    y, x = np.indices(contrast.shape, sparse=True)
    inside = (
        np.hypot(y - candidate.at_px[0], x - candidate.at_px[1]) <= candidate.radius_px
    )
    values = contrast.signed[inside]
    balance = values.sum() / (np.abs(values).sum() + 1e-12)
    return 0 if abs(balance) < 0.5 else int(np.sign(balance))
