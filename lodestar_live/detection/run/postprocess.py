"""Turn the graph's rows into detections: merge, limit, flag, calibrate."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from itertools import pairwise
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from lodestar_live import channels
from lodestar_live.data import (
    DETECTION_DTYPE,
    Detections,
    Flag,
    FloatArray,
    Rows,
    blank_rows,
)
from lodestar_live.detection.frame.prepare import Intake, Mask
from lodestar_live.detection.model.nodes import COLUMNS
from lodestar_live.detection.run.orientation import Orientation
from lodestar_live.detection.run.template import Look
from lodestar_live.model_card import LikeLimits, ModelCard, SigmaFactors

Found = npt.NDArray[np.float64]  # (n, columns) as the graph writes it
_AT = {name: index for index, name in enumerate(COLUMNS)}
_Y, _X, _SCORE, _SPREAD, _CONTRAST = (
    _AT[name] for name in ("y_px", "x_px", "score", "consistency_px", "contrast")
)
_HANDFUL = 6  # rows that are looked at one by one
# A row of which nothing is known, and where in it what is measured lies.
_BLANK = blank_rows(DETECTION_DTYPE, 1).tobytes()
_MEASURED = ("y_px", "x_px", "score", "sigma_px", "consistency_px", "intensity")
_FIELDS: Any = DETECTION_DTYPE.fields
_PLACES = tuple(int(_FIELDS[name][1]) for name in _MEASURED)
_FLAGS_PLACE = int(_FIELDS["flags"][1])
_REAL, _WHOLE = Struct("=d"), Struct("=i")
_APART = 1.8  # times their scatter, votes name two places; see `merge`
_FEW = 24  # rows that are compared with each other sooner than a tree is built
_FARTHEST_PX = 24.0  # from a better row; votes that scatter by more mean nothing


def n_columns(card: ModelCard) -> int:
    """Return how many columns the graph of a model writes."""
    return len(COLUMNS) + len(card.extras)


def cells(found: Found) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (row, column) in the score map of every row."""
    row, column = found[:, [_AT["row"], _AT["column"]]].T.astype(np.int64)
    return row, column


def places(found: Found) -> FloatArray:
    """Return the positions (y, x) of every row, px, (n, 2)."""
    return np.asarray(found[:, [_AT["y_px"], _AT["x_px"]]])


def strongest(found: Found, limit: int) -> Found:
    """Return the `limit` rows of highest score, best first."""
    if len(found) < 2:
        return found[:limit]
    order = np.argsort(-found[:, _AT["score"]], kind="stable")
    return found[order[:limit]]


def merge(found: Found, distance_px: float) -> Found:
    """Keep the best of rows that name one place.

    `found` must be sorted by falling score. Rows within `distance_px` do: two maxima of
    one particle have the same local weighted average, two particles do not. So do a row
    whose votes disagree and a better one within `_APART` times that scatter: between
    particles that touch, votes for both mix, and a mark there stands for neither. Votes
    for two places d apart scatter by at most d / 2, and by d / 2 in the middle: marks
    on a particle lie 2 scatters and more from the other, the one between up to 1 from
    either (1.7 and 1 where three meet).
    """
    if len(found) < 2:
        return found
    if len(found) <= _HANDFUL:
        kept = _first_of_few(found.tolist(), distance_px)
        return found if len(kept) == len(found) else found[kept]
    where = places(found)
    scatter_px = np.minimum(_APART * found[:, _AT["consistency_px"]], _FARTHEST_PX)
    reach_px = np.maximum(scatter_px, distance_px)
    if len(found) <= _FEW:
        return found[_first_of_each(where, reach_px)]
    pairs = cKDTree(where).query_pairs(reach_px.max(), output_type="ndarray")
    better, worse = pairs.T  # the lower index comes first
    apart = where[better] - where[worse]
    is_one = np.hypot(apart[:, 0], apart[:, 1]) <= reach_px[worse]
    better, worse = better[is_one], worse[is_one]
    order = np.argsort(better)
    better, worse = better[order], worse[order]
    is_kept = np.ones(len(found), bool)
    first = np.flatnonzero(np.diff(better, prepend=-1)).tolist()
    for start, end in pairwise([*first, len(better)]):
        if is_kept[better[start]]:  # which is certain by now
            is_kept[worse[start:end]] = False
    return found[is_kept]


def _first_of_few(found: list[list[float]], distance_px: float) -> list[int]:
    """Do as `_first_of_each` for rows of numbers."""
    kept: list[int] = []
    for k, row in enumerate(found):
        reach_px = max(min(_APART * row[_SPREAD], _FARTHEST_PX), distance_px)
        y, x = row[_Y], row[_X]
        if all(
            math.hypot(found[other][_Y] - y, found[other][_X] - x) > reach_px
            for other in kept
        ):
            kept.append(k)
    return kept


def _first_of_each(where: FloatArray, reach_px: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which places no better one reaches; as `merge`, without a tree."""
    (y, x), is_kept = where.T, np.ones(len(where), np.bool_)
    is_one = np.hypot(y[:, None] - y, x[:, None] - x) <= reach_px
    for better in range(len(where) - 1):
        if is_kept[better]:  # which is certain by now
            is_kept[better + 1 :] &= ~is_one[better, better + 1 :]
    return is_kept


def inside(found: Found, shape: tuple[int, ...]) -> Found:
    """Keep finite rows whose positions are on the frame's pixels."""
    if len(found) <= _HANDFUL:
        kept = [
            k
            for k, row in enumerate(found.tolist())
            if _depth_of(row[_Y], row[_X], shape) >= -0.5 and math.isfinite(sum(row))
        ]
        return found if len(kept) == len(found) else np.asarray(found[kept])
    y, x = found[:, _AT["y_px"]], found[:, _AT["x_px"]]
    is_kept = _depth(y, x, shape) >= -0.5
    is_kept &= np.isfinite(np.add.reduce(found, 1))
    return found if is_kept.all() else np.asarray(found[is_kept])


def usual_contrast(found: Found) -> float:
    """Return the |contrast| that a quarter of a frame's rows exceed.

    Where particles have halos or lie on texture, the median row may be neither.
    """
    if not len(found):
        return 0.0
    contrast = np.abs(found[:, _AT["contrast"]])
    upper = 3 * len(contrast) // 4
    return float(np.partition(contrast, upper)[upper])


def visible(found: Found, least: float) -> Found:
    """Keep rows of at least this |contrast|, in units of a pixel's noise.

    Contrast is a mean over 16 pixels: 1 is four times its own noise, more than an empty
    frame shows anywhere.
    """
    kept: Found = found[np.abs(found[:, _AT["contrast"]]) >= least]
    return kept


class Likeness(NamedTuple):
    """What the training particle shows at each contrast/noise; see `calibrate`.

    Parameters
    ----------
    snr
        |intensity| / noise, ascending, (k,).
    consistency_px
        The most that is like it, (k,).
    score
        The least that is like it, (k,).
    match
        The least correlation with its image that is like it, (k,); see `look`.
    """

    snr: FloatArray
    consistency_px: FloatArray
    score: FloatArray
    match: FloatArray | None = None

    @classmethod
    def of(cls, limits: LikeLimits | None) -> Likeness:
        """Read the limits of a model's card; none: everything is like it."""
        if limits is None:
            return cls(np.ones(1), np.array([np.inf]), np.array([-np.inf]))
        match = None if limits.match is None else np.array(limits.match)
        snr, spread, score = map(
            np.array, (limits.snr, limits.consistency_px, limits.score)
        )
        return cls(snr, spread, score, match)

    def of_any_score(self) -> Likeness:
        """Return the limits for scores that are not the practised ones."""
        return self._replace(score=np.full(len(self.snr), -np.inf))

    def lacks_one(self, snr: float, consistency_px: float, score: float) -> bool:
        """Do as `lacks` for one detection without a match."""
        known, spread, least = _limits(
            np.array([self.snr, self.consistency_px, self.score], float).tobytes()
        )
        at = math.log(max(snr, 1e-12))
        is_wide = consistency_px > _interpolated(at, known, spread)
        return is_wide or score < _interpolated(at, known, least)

    def lacks(
        self, rows: Rows, noise: float, match: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Say which detections are beyond the limits at their contrast/noise.

        `match`: their correlations with the training particle, if measured; they tell
        shapes apart better than the votes do, and decide alone.
        """
        snr = np.abs(rows["intensity"]) / noise
        at, known = np.log(np.maximum(snr, 1e-12)), np.log(self.snr)
        if match is not None and self.match is not None:
            return np.asarray(match < np.interp(at, known, self.match))
        most = np.interp(at, known, self.consistency_px)
        least = np.interp(at, known, self.score)
        return np.asarray((rows["consistency_px"] > most) | (rows["score"] < least))


@lru_cache(maxsize=16)
def _limits(numbers: bytes) -> tuple[list[float], list[float], list[float]]:
    """Return log(snr) and both limits of a `Likeness` as Python's numbers."""
    snr, spread, score = np.frombuffer(numbers).reshape(3, -1)
    return np.log(snr).tolist(), spread.tolist(), score.tolist()


def _interpolated(at: float, known: list[float], values: list[float]) -> float:
    """Do as `np.interp` for one number."""
    k = bisect_right(known, at) - 1
    if k < 0:
        return values[0]
    if k >= len(known) - 1:
        return values[-1]
    slope = (values[k + 1] - values[k]) / (known[k + 1] - known[k])
    return slope * (at - known[k]) + values[k]


class Context(NamedTuple):
    """What the frame tells about its detections, and what their kind shows.

    `look`: to compare the image with, if that is asked for. `orientation`: to measure
    angles, if the model was trained to.
    """

    shape: tuple[int, ...]
    intake: Intake
    saturated: Mask | None
    likeness: Likeness
    look: Look | None = None
    orientation: Orientation | None = None

    @property
    def is_plain(self) -> bool:
        """Whether detections are only placed, weighed and flagged by their numbers."""
        return (
            self.saturated is None
            and self.look is None
            and self.orientation is None
            and self.intake.bad is None
        )


def to_detections(found: Found, card: ModelCard, context: Context) -> Detections:
    """Write the contract's columns from the graph's rows."""
    if len(found) <= _HANDFUL and not card.extras and context.is_plain:
        return _plain_detections(found, card, context)
    rows = blank_rows(DETECTION_DTYPE, len(found))
    for name in ("y_px", "x_px", "score", "consistency_px"):
        rows[name] = found[:, _AT[name]]
    counts_per_unit = context.intake.levels.noise
    rows["intensity"] = found[:, _AT["contrast"]] * counts_per_unit
    rows["sigma_px"] = sigma_px(rows, card.sigma, counts_per_unit)
    for index, output in enumerate(card.extras, start=len(COLUMNS)):
        _write_extra(rows, output, found[:, index], card)
    if context.orientation is not None and len(rows):
        _write_angles(rows, context.orientation, card, context.intake)
    rows["flags"] = _flags(rows, card, context)
    return Detections(rows)


def _plain_detections(found: Found, card: ModelCard, context: Context) -> Detections:
    """Do as `to_detections` for a few rows of which nothing more is asked.

    An array's every operation costs a microsecond: Python's own numbers are quicker.
    """
    noise, factors = context.intake.levels.noise, card.sigma
    radius_px = card.radius_px or card.window_px
    data = bytearray(_BLANK * len(found))
    for start, row in zip(
        range(0, len(data), len(_BLANK)), found.tolist(), strict=True
    ):
        y, x, score, spread_px = row[_Y], row[_X], row[_SCORE], row[_SPREAD]
        intensity = row[_CONTRAST] * noise
        size = abs(intensity)
        inverse_snr, sigma = noise / max(size, 1e-12), math.nan
        if factors is not None:
            total = factors.floor_px**2 + (factors.spread * spread_px) ** 2
            total += (factors.noise_px * inverse_snr) ** 2
            total += (factors.faint_px * inverse_snr**2) ** 2
            sigma = math.sqrt(total)
        flags = Flag.BORDER.value if _depth_of(y, x, context.shape) < radius_px else 0
        if context.likeness.lacks_one(size / noise, spread_px, score):
            flags |= Flag.UNLIKE.value
        measured = (y, x, score, sigma, spread_px, intensity)
        for place, value in zip(_PLACES, measured, strict=True):
            _REAL.pack_into(data, start + place, value)
        _WHOLE.pack_into(data, start + _FLAGS_PLACE, flags)
    return Detections(np.frombuffer(data, DETECTION_DTYPE))


def like_training(detections: Detections) -> Detections:
    """Drop detections flagged as unlike the training particle."""
    rows = detections.rows
    return Detections(rows[rows["flags"] & Flag.UNLIKE == 0])


def sigma_px(
    rows: Rows, factors: SigmaFactors | None, noise: float
) -> npt.NDArray[np.float64]:
    """Predict the localisation error from what was measured.

    sigma^2 = floor^2 + (spread * consistency)^2 + (noise_px / snr)^2 +
    (faint_px / snr^2)^2, with snr = |intensity| / noise; the last term is what
    particles that nearly drown in the noise have beyond the law of bright ones (older
    models have none). NaN for a model that was not calibrated.
    """
    if factors is None:
        return np.full(len(rows), np.nan)
    inverse_snr = noise / np.maximum(np.abs(rows["intensity"]), 1e-12)
    spread = factors.spread * rows["consistency_px"]
    total = factors.floor_px**2 + spread**2
    total += (factors.noise_px * inverse_snr) ** 2
    total += (factors.faint_px * inverse_snr**2) ** 2
    result: npt.NDArray[np.float64] = np.sqrt(total)
    return result


def _write_extra(rows: Rows, output: str, votes: Found, card: ModelCard) -> None:
    """Write what the network's votes say of a channel, relative to its particle."""
    channel = channels.of_output(output)
    reference = card.reference(channel.name)
    if reference is None:
        return
    rows[channel.column] = channel.from_votes(votes, reference)
    if channel.name == "scale":  # until the field itself was asked
        rows["polarizability_um3"] = rows[channel.column]


def _write_angles(
    rows: Rows, orientation: Orientation, card: ModelCard, intake: Intake
) -> None:
    unit = intake.levels.noise if intake.is_normalised else 1.0
    gain = 0.0 if card.particle is None else card.particle.gain
    rows["angle_deg"], rows["sigma_angle_deg"] = orientation.measure(
        intake.image[0],
        np.column_stack([rows["y_px"], rows["x_px"]]),
        noise=intake.levels.noise / unit,
        gain=gain / unit,
    )


def _flags(rows: Rows, card: ModelCard, context: Context) -> npt.NDArray[np.int32]:
    flags = np.zeros(len(rows), np.int32)
    radius = card.radius_px or card.window_px
    y, x = rows["y_px"], rows["x_px"]
    flags[_depth(y, x, context.shape) < radius] = Flag.BORDER
    if context.intake.bad is not None:  # a hole in the frame is an edge as well
        flags[_touches(context.intake.bad, y, x, radius)] |= Flag.BORDER
    if context.saturated is not None:
        flags[_touches(context.saturated, y, x, radius)] |= Flag.SATURATED
    noise, match = context.intake.levels.noise, None
    if context.look is not None:
        yx = np.column_stack([y, x])
        match = context.look.match(context.intake.image[0], yx)
    flags[context.likeness.lacks(rows, noise, match)] |= Flag.UNLIKE
    return flags


def _depth_of(y_px: float, x_px: float, shape: tuple[int, ...]) -> float:
    """Do as `_depth` for one place."""
    height, width = shape
    return min(y_px, height - 1 - y_px, x_px, width - 1 - x_px)


def _depth(
    y_px: npt.NDArray[np.float64],
    x_px: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> npt.NDArray[np.float64]:
    """Return how far places lie from the frame's outermost pixels, inwards."""
    height, width = shape
    y_depth = np.minimum(y_px, height - 1 - y_px)
    depth: npt.NDArray[np.float64] = np.minimum(y_depth, width - 1 - x_px)
    return np.minimum(depth, x_px, out=depth)


def _touches(
    mask: Mask,
    y_px: npt.NDArray[np.float64],
    x_px: npt.NDArray[np.float64],
    radius_px: float,
) -> npt.NDArray[np.bool_]:
    """Say for each position whether the mask is set within a radius of it."""
    reach = np.arange(-np.ceil(radius_px), np.ceil(radius_px) + 1).astype(int)
    dy, dx = np.meshgrid(reach, reach, indexing="ij")
    disk = np.hypot(dy, dx) <= radius_px
    yx = np.column_stack([y_px, x_px])
    near = yx.round().astype(int)[:, None, :] + np.stack([dy[disk], dx[disk]], axis=1)
    near = np.clip(near, 0, np.subtract(mask.shape, 1))
    return np.asarray(mask[near[..., 0], near[..., 1]].any(axis=1))
