"""Where two cameras or colours see the same place: shift, rotation and scale.

Found from the particles themselves, of which only some need be seen in both: every
turn and scale within what optics do is tried, and the shift that most pairs of points
agree on wins; nearest neighbours then refine it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.stats import poisson
from skimage.transform import SimilarityTransform

from lodestar_live.data import FloatArray
from lodestar_live.errors import InputError

_MOST_FRAMES = 40
_MOST_PAIRS = 60_000  # looked at per turn and scale
_LEAST_PAIRS = 12
_COARSE = 2.0  # of `within`: steps of the search, which is refined
_MOST_CHANCE = 1e-3  # that any shift, turn and scale stands out so far by chance
_ROUNDS = 30
_MOST_CELLS = 4_000_000

Points = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True)
class Registration:
    """Takes places of the second channel to those of the first.

    Parameters
    ----------
    matrix
        (3, 3), homogeneous, for columns (y, x, 1).
    n_pairs
        Points that it was measured from; 0: it was given.
    rms
        Distance per axis that remains between them, in the positions' unit.
    """

    matrix: FloatArray
    n_pairs: int = 0
    rms: float = float("nan")

    @classmethod
    def identity(cls) -> Registration:
        """Return the registration of two channels that lie on each other."""
        return cls(np.eye(3))

    def __call__(self, positions: npt.ArrayLike) -> FloatArray:
        """Return places of the second channel, (n, 2), (y, x), in the first."""
        places = np.asarray(positions, dtype=float).reshape(-1, 2)
        return np.asarray(places @ self.matrix[:2, :2].T + self.matrix[:2, 2])

    @property
    def scale(self) -> float:
        """Size in the first channel of what has size 1 in the second."""
        return float(np.sqrt(np.linalg.det(self.matrix[:2, :2])))

    @property
    def rotation_deg(self) -> float:
        """Angle of the turn from the second channel to the first, y towards x."""
        return float(np.degrees(np.arctan2(self.matrix[1, 0], self.matrix[0, 0])))

    def shift_at(self, place: npt.ArrayLike) -> FloatArray:
        """Return by how much a place (y, x) of the second channel is moved."""
        return np.asarray(self(place)[0] - np.asarray(place, dtype=float))


def register(
    first: Sequence[FloatArray],
    second: Sequence[FloatArray],
    *,
    within: float,
    max_shift: float | None = None,
    max_rotation_deg: float = 5.0,
    max_stretch: float = 0.05,
) -> Registration:
    """Find how a second channel lies on a first.

    Parameters
    ----------
    first, second
        Per frame, the same frames in both: positions (n, 2), (y, x), in one unit.
    within
        Distance under which two points are one particle, once registered.
    max_shift
        In the middle of the field; left out: a quarter of the field.
    max_rotation_deg, max_stretch
        What is tried to both sides.

    Raises
    ------
    InputError
        The channels have too little in common.
    """
    points = [
        (np.asarray(ours, float), np.asarray(theirs, float))
        for ours, theirs in zip(first, second, strict=True)
        if len(ours) and len(theirs)
    ]
    if not points:
        raise InputError(
            "registration: no frame holds particles in both channels; expected the "
            "same frames in both, or switch it off (`--no-register`)."
        )
    points = _spread(points, _MOST_FRAMES)
    every = np.concatenate([place for pair in points for place in pair])
    middle, extent = (every.max(axis=0) + every.min(axis=0)) / 2, np.ptp(every, axis=0)
    shift = float(extent.max()) / 4 if max_shift is None else max_shift
    bin_width = max(_COARSE * within, 2 * shift / np.sqrt(_MOST_CELLS))
    step = bin_width / max(float(np.hypot(*extent)) / 2, bin_width)
    n_pairs = np.mean([len(ours) * len(theirs) for ours, theirs in points])
    some = _spread(points, max(1, int(_MOST_PAIRS // n_pairs)))
    tried = [
        _common_shift(some, _about(middle, turn, stretch), shift, bin_width)
        for turn in _steps(np.radians(max_rotation_deg), step)
        for stretch in np.exp(_steps(np.log1p(max_stretch), step))
    ]
    chance, matrix = min(tried, key=lambda found: found[0])
    if chance * len(tried) > _MOST_CHANCE:
        raise InputError(
            "registration: no shift, turn and scale brings the two channels together "
            "better than chance does. Are these the same frames? Record more "
            "particles, or beads seen in both, or switch it off (`--no-register`)."
        )
    return _refined(points, matrix, within, 2 * bin_width)


def _spread(points: list[Points], n: int) -> list[Points]:
    """Return so many frames, spread over the run."""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(n, len(points))).round())
    return [points[int(k)] for k in chosen]


def _steps(most: float, step: float) -> FloatArray:
    n = int(np.ceil(most / step))
    return np.linspace(-most, most, 2 * n + 1)


def _about(middle: FloatArray, turn: float, stretch: float) -> FloatArray:
    """Return the matrix that turns and stretches about a place."""
    cos, sin = stretch * np.cos(turn), stretch * np.sin(turn)
    linear = np.array([[cos, -sin], [sin, cos]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, middle - linear @ middle
    return matrix


def _common_shift(
    points: Sequence[Points],
    matrix: FloatArray,
    shift: float,
    bin_width: float,
) -> tuple[float, FloatArray]:
    """Return by what chance the commonest shift is so common, and the matrix with it.

    Particles move little from frame to frame, so all frames together count as one.
    """
    n_bins = 2 * int(np.ceil(shift / bin_width)) + 1
    counts = np.zeros(n_bins * n_bins)
    moved = Registration(matrix)
    for first, second in points:
        gaps = (first[:, None] - moved(second)[None]).reshape(-1, 2)
        cell = np.round(gaps / bin_width).astype(int) + n_bins // 2
        is_in = ((cell >= 0) & (cell < n_bins)).all(axis=1)
        cell = cell[is_in]
        counts += np.bincount(cell[:, 0] * n_bins + cell[:, 1], minlength=len(counts))
    # Two points of a pair may fall on both sides of a cell's border.
    sums = (
        ndimage.uniform_filter(counts.reshape(n_bins, n_bins), 3, mode="constant") * 9
    )
    peak = np.unravel_index(int(sums.argmax()), sums.shape)
    found = matrix.copy()
    found[:2, 2] += (np.array(peak) - n_bins // 2) * bin_width
    n_frames = len(points)
    by_chance = poisson.sf(sums[peak] / n_frames - 1, sums.mean() / n_frames)
    return float(by_chance) * len(counts), found


def _refined(
    points: Sequence[Points],
    matrix: FloatArray,
    within: float,
    start: float,
) -> Registration:
    """Fit nearest neighbours again and again, within less and less."""
    pairs: Points = np.empty((0, 2)), np.empty((0, 2))
    for reach in np.geomspace(max(start, within), within, _ROUNDS):
        pairs = _mutual(points, Registration(matrix), float(reach))
        if len(pairs[0]) < _LEAST_PAIRS:
            raise InputError(
                f"registration: only {len(pairs[0])} pairs of particles within "
                f"{within:g}; expected at least {_LEAST_PAIRS}. Record more frames, or "
                "beads seen in both channels."
            )
        fitted = SimilarityTransform.from_estimate(pairs[1], pairs[0])
        if not fitted:
            raise InputError("registration: all common particles lie in one place.")
        matrix = np.asarray(fitted.params, dtype=float)
    apart = pairs[0] - Registration(matrix)(pairs[1])
    return Registration(matrix, len(apart), float(np.sqrt((apart**2).mean())))


def _mutual(
    points: Sequence[Points], moved: Registration, reach: float
) -> tuple[FloatArray, FloatArray]:
    """Return the pairs that are each other's nearest, all frames together."""
    ours, theirs = [], []
    for first, second in points:
        placed = moved(second)
        gap, nearest = cKDTree(first).query(placed)
        _, back = cKDTree(placed).query(first)
        is_pair = (back[nearest] == np.arange(len(second))) & (gap <= reach)
        ours.append(first[nearest[is_pair]])
        theirs.append(second[is_pair])
    return np.concatenate(ours), np.concatenate(theirs)
