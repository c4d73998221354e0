"""The exported model at run time: pixels in, detections out; no torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Detections, FloatArray, Pixels
from lodestar_live.detection.engines.cpu import Engine, physical_cores
from lodestar_live.detection.engines.open import candidates, open_engine
from lodestar_live.detection.engines.trial import (
    Trial,
    choose,
    try_engines,
    typical_part,
)
from lodestar_live.detection.frame.defects import PixelDefects
from lodestar_live.detection.frame.inclusion import Inclusion
from lodestar_live.detection.frame.prepare import (
    Intake,
    Levels,
    Mask,
    may_be_saturated,
    saturated,
    take_in,
)
from lodestar_live.detection.frame.tiles import Layout, Tiles, area
from lodestar_live.detection.model.model_file import read_model
from lodestar_live.detection.model.scale import Scale
from lodestar_live.detection.model.valid_sides import can_open
from lodestar_live.detection.run import correlated
from lodestar_live.detection.run import postprocess as rows
from lodestar_live.detection.run.noise_tail import NoiseTail
from lodestar_live.detection.run.orientation import Orientation
from lodestar_live.detection.run.paper import keep_h_maxima, pooled
from lodestar_live.detection.run.passes import NO_THRESHOLD, Passes
from lodestar_live.detection.run.template import Look
from lodestar_live.errors import InputError, SettingsError
from lodestar_live.model_card import ModelCard

logger = logging.getLogger(__name__)

LEAST_CONTRAST = 0.1  # of the frame's upper quartile
NOISE_FLOOR = 1.0  # of a pixel's noise: fainter than that is no particle either
_FEW_TILES = 8  # a pixel of tiles takes as long to look at as so many of a frame
MAX_TILE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What the network sees in one frame, one value per cell, each (rows, columns).

    Parameters
    ----------
    weight
        sigmoid(rho), 0 to 1.
    clustering
        1 / (variance of the 3 x 3 votes + floor), 1/px^2.
    score
        alpha ln(weight) + beta ln(clustering).
    features
        The network's outputs by name: votes dy, dx (px, from the cell's centre), rho...
    stride
        Pixels per cell.
    """

    weight: FloatArray
    clustering: FloatArray
    score: FloatArray
    features: dict[str, FloatArray]
    stride: int


class Detector:
    """Find every particle like the one a model was trained on.

    Parameters
    ----------
    model
        Path of the .onnx file, or its bytes.
    threshold
        Least log score of a detection. None: the model's own, set on its snapshot.
    false_alarms_per_mpx
        Raise the threshold so far that noise like the snapshot's is mistaken for a
        particle at most so many times per million pixels. None: as trained, 1 at most.
    alpha, beta
        Exponents of the weight and of the clustering metric (the paper's).
        None: the model's own.
    quantile
        The paper's criterion instead of `threshold`: local maxima above this
        quantile of the frame's own scores. It always finds something, also in an
        empty frame.
    h_maxima
        Together with `quantile`, the paper's detection in full: the quantile is not a
        level but the height h of h-maxima of the score w^alpha c^beta. Slower.
    max_detections
        The best by score are kept; `n_cut` counts the rest.
    only_like_training
        Drop detections whose image correlates less with the training particle's,
        turned and mirrored every way, than practised ones at their contrast/noise; of
        older models those whose votes disagree more.
    least_contrast
        Drop detections fainter than this share of the frame's upper quartile: the
        texture of a background has shapes too, but hardly any contrast. Nor is what
        differs from its surroundings by less than a pixel's noise, over 4 x 4 px,
        a particle, nor what does not stand out from correlated noise (of smoothed or
        resampled frames) at a particle's scale. 0, or a `quantile`: all off.
    correct_pixels
        Interpolate hot and dead pixels, which differ from all around them by more than
        optics can produce; see `PixelDefects`.
    mask
        (y, x), as large as a frame: not 0 where particles are wanted.
    region_px
        First row, first column, row and column after the last of what is wanted.
    engine
        "cpu", "openvino", "cuda", "cuda-float32" or "tensorrt"; one that is not
        installed, or fails, becomes "cpu" with a warning. "auto" is "cpu" until
        `warm_up` finds a faster one.
    n_threads
        None: one per physical core.

    Attributes
    ----------
    card
        What the model says about itself.
    sha256
        Of the model's file, as it was loaded.
    scale
        How much smaller the image is that the network sees; positions and lengths are
        camera pixels all the same.
    passes
        How frames go through the graph; larger ones than its `max_tile_px` in tiles.
    defects
        The camera's hot and dead pixels, as far as they are known; None: left alone.
    wanted
        The part of the frame that counts; None: all of it.
    n_cut
        Detections of the last frame beyond `max_detections`.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        threshold: float | None = None,
        false_alarms_per_mpx: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        quantile: float | None = None,
        h_maxima: bool = False,
        max_detections: int = 5000,
        only_like_training: bool = False,
        least_contrast: float = LEAST_CONTRAST,
        correct_pixels: bool = True,
        mask: npt.ArrayLike | None = None,
        region_px: Sequence[int] | None = None,
        engine: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        file = read_model(model)
        self.name, self.card, self.sha256 = file.name, file.card, file.sha256
        self._looks = file.looks
        self.max_detections = max_detections
        self.only_like_training = only_like_training
        self.least_contrast = least_contrast
        self._usual_counts: float | None = None
        self._correlated_counts = 0.0  # of the last whole frame
        self.defects = PixelDefects() if correct_pixels else None
        self.wanted = Inclusion.of(mask, region_px)
        self.n_cut = 0
        self.scale = Scale(self.card.downsample)
        self._proto, self._n_threads = file.proto, n_threads or physical_cores()
        self._is_automatic = engine == "auto"
        self._quantile, self._h_maxima = quantile, h_maxima
        if h_maxima and quantile is None:
            raise SettingsError("h_maxima = True needs `quantile`, e.g. 0.99.")
        self._threshold = _chosen(threshold, self.card.threshold, 0.0)
        if false_alarms_per_mpx is not None:
            least = _score_at(false_alarms_per_mpx, self.card)
            self._threshold = max(self._threshold, least)
        self._apart_px = max(2.0, 0.5 * self.card.stride, self.card.apart_px)
        self._likeness = rows.Likeness.of(self.card.like)
        if alpha is not None or beta is not None:
            self._likeness = self._likeness.of_any_score()
        margin_cells = self.card.margin_px / self.card.stride
        is_plain = can_open(self._proto, margin_cells)
        self.layout = Layout.of(self.card, can_open=is_plain)
        self.passes = Passes(
            engine=self._open("cpu" if self._is_automatic else engine),
            layout=self.layout,
            max_tile_px=int(MAX_TILE_BYTES / self.card.bytes_per_px),
            alpha=_chosen(alpha, self.card.alpha, 0.5),
            beta=_chosen(beta, self.card.beta, 0.5),
            n_columns=rows.n_columns(self.card),
        )

    def facts(self) -> dict[str, Any]:
        """Return what a run file says of the model: card, file and SHA-256."""
        file = {"file": self.name, "sha256": self.sha256}
        return {**self.card.to_json(), **file}

    @property
    def threshold(self) -> float:
        """Least log score of a detection."""
        return self._threshold

    @property
    def engine(self) -> Engine:
        """What computes the graph."""
        return self.passes.engine

    def warm_up(self, pixels: Pixels) -> list[Trial]:
        """Run once, so that the first frame of this size and type is not a slow one.

        With engine "auto" every engine installed here is tried on `pixels`, and the
        fastest whose positions agree with the float32 reference is kept.

        Parameters
        ----------
        pixels
            A typical frame, e.g. the snapshot.

        Returns
        -------
        What was tried; empty unless "auto" had a choice.
        """
        if self.has_choice:
            return self.choose_engine(pixels)
        self(pixels)
        return []

    @property
    def has_choice(self) -> bool:
        """Whether the engine is "auto" and there is more than one."""
        return self._is_automatic and len(candidates()) > 1

    def choose_engine(
        self, pixels: Pixels, positions_px: FloatArray | None = None
    ) -> list[Trial]:
        """Try every engine installed here; use the fastest that agrees with "cpu".

        Another thread may detect meanwhile: the engine is exchanged between frames. A
        large frame is tried in part, so that the trial is over soon.

        Parameters
        ----------
        pixels
            A typical frame.
        positions_px
            Where particles were found in it, (n, 2); None: looked for.

        Returns
        -------
        What was tried.
        """
        is_reference = self.engine.name == "cpu"
        reference = self._twin() if is_reference else self._with_engine("cpu")
        if positions_px is None:
            positions_px = _places(reference, pixels)
        part = typical_part(pixels, positions_px)
        expected = _places(reference, part)
        others = {
            name: reference if name == "cpu" else self._with_engine(name)
            for name in candidates()
        }
        calls = {name: partial(_places, other, part) for name, other in others.items()}
        tried = [
            trial
            for trial in try_engines(calls, expected)
            if others[trial.engine].engine.name == trial.engine  # else it failed
        ]
        best = others[choose(tried).engine]
        if part.shape != pixels.shape:
            best(pixels)  # warms up for this shape
        self.passes = best.passes
        logger.info("engine: %s of %s", best.engine.name, tried)
        return tried

    def _with_engine(self, name: str) -> Detector:
        """Return this detector on another engine, with sessions of its own."""
        other = self._twin()
        other.passes = replace(self.passes, engine=self._open(name))
        return other

    def _twin(self) -> Detector:
        """Return this detector for frames of another size, beside its own."""
        other = copy(self)
        other.defects = PixelDefects() if self.defects else None
        other.wanted = None  # laid out for frames of this size
        return other

    def __call__(self, pixels: Pixels, *, levels: Levels | None = None) -> Detections:
        """Find the particles of one frame.

        Parameters
        ----------
        pixels
            Shape (y, x), any real type; or a complex field with background 1.
        levels
            The frame's levels, if known; saves time.
        """
        pixels = self._corrected(pixels)
        intake = take_in(self.scale.shrink(pixels), levels)
        if self._quantile is None:
            found = self.passes.everywhere(intake, self._threshold)
        else:
            found = self._by_quantile(intake, self._quantile)
        return self._finish(found, pixels, intake)

    def near(
        self,
        pixels: Pixels,
        positions_px: npt.ArrayLike,
        *,
        reach_px: npt.ArrayLike = 8.0,
        levels: Levels | None = None,
    ) -> Detections:
        """Find particles around given positions only; equal to the full pass there.

        Parameters
        ----------
        pixels
            Shape (y, x).
        positions_px
            Shape (n, 2), (y, x).
        reach_px
            Maxima of the score up to this far from a position are found; one for all,
            or one each, (n,).
        levels
            The frame's levels, if known (a full pass found them); saves time.

        Raises
        ------
        InputError
            No image, or places that are none; see `tiles_near`.
        """
        tiles = self.tiles_near(pixels.shape, positions_px, reach_px=reach_px)
        return self.within(tiles, pixels, levels=levels)

    def tiles_near(
        self,
        shape: tuple[int, ...],
        positions_px: npt.ArrayLike,
        *,
        reach_px: npt.ArrayLike,
    ) -> Tiles:
        """Return the tiles that `near` looks at in a frame of the given shape.

        Raises
        ------
        InputError
            A position is not finite; a reach is not, is negative, or there are not as
            many as positions.
        """
        around = self.scale.to_small(positions_px).reshape(-1, 2)
        reach = np.asarray(reach_px, dtype=float) / self.scale.factor
        is_one_each = reach.ndim == 0 or reach.shape == around.shape[:1]
        is_finite = math.isfinite(around.sum() + reach.sum())
        if not (is_one_each and is_finite and (reach >= 0).all()):
            raise InputError(
                f"positions_px = {positions_px!r}, reach_px = {reach_px!r}: expected "
                "finite numbers, and one reach >= 0 for all or one each. Leave out "
                "particles whose place nobody knows."
            )
        return self.layout.around(around, reach, self._small(shape))

    def share_of(self, tiles: Tiles, shape: tuple[int, ...]) -> float:
        """Return what tiles read, as a share of a frame of the given shape."""
        return area(tiles) / max(math.prod(self._small(shape)), 1)

    def within(
        self, tiles: Tiles, pixels: Pixels, *, levels: Levels | None = None
    ) -> Detections:
        """Find particles in tiles only: `near` for who knows the tiles already."""
        pixels = self._corrected(pixels)
        intake = take_in(self.scale.shrink(pixels), levels)
        return self._look(tiles, pixels, intake)

    def _look(self, tiles: Tiles, pixels: Pixels, intake: Intake) -> Detections:
        threshold = self._threshold if self._quantile is None else NO_THRESHOLD
        found = self.passes.around(intake, tiles, threshold)
        return self._finish(found, pixels, intake, tiles)

    def _small(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a camera frame has for the network."""
        return tuple(side // self.scale.factor for side in shape)

    def levels(self, pixels: Pixels) -> Levels:
        """Return a frame's levels as `near` takes them."""
        return take_in(self.scale.shrink(self._corrected(pixels))).levels

    @property
    def n_corrected(self) -> int:
        """Hot and dead pixels that were interpolated in the last frame."""
        return self.defects.n_corrected if self.defects else 0

    def _corrected(self, pixels: Pixels) -> Pixels:
        return self.defects.correct(pixels) if self.defects else pixels

    def locate(self, crops: Pixels) -> FloatArray:
        """Locate the one particle of each image: the paper's pooled estimate.

        Parameters
        ----------
        crops
            Shape (n, y, x).

        Returns
        -------
        Positions (n, 2), (y, x) px: sum of weight * vote / sum of weight over the
        cells whose votes lie within a particle's radius of their weighted median.
        """
        result = np.empty((len(crops), 2))
        for index, crop in enumerate(crops):
            features = self.features(take_in(self.scale.shrink(crop)))
            result[index] = pooled(features[0].astype(float), self.card)
        return self.scale.to_camera(result)

    def maps(self, pixels: Pixels) -> Maps:
        """Return what the network sees of one frame, in pixels of the smaller image."""
        names = ["features", "log_weight", "clustering", "score"]
        small = self.scale.shrink(self._corrected(pixels))
        out = self.passes.whole(names, take_in(small))
        features, log_weight, clustering, score = (value[0] for value in out)
        by_name = dict(zip(self.card.channels, features, strict=True))
        return Maps(
            weight=np.exp(log_weight[0]),
            clustering=np.exp(clustering[0]),
            score=score[0],
            features=by_name,
            stride=self.layout.stride,
        )

    def _open(self, engine: str) -> Engine:
        return open_engine(engine, self._proto, n_threads=self._n_threads)

    def features(self, intake: Intake) -> npt.NDArray[np.float32]:
        """Return the network's raw outputs, (1, channels, rows, columns)."""
        (features,) = self.passes.whole(["features"], intake)
        return features

    def _by_quantile(self, intake: Intake, quantile: float) -> rows.Found:
        """Find what stands out from the frame's own scores, as the paper does."""
        if self._h_maxima:
            score = np.exp(self.passes.scores(intake))
            found = self.passes.everywhere(intake, NO_THRESHOLD)
            return keep_h_maxima(found, score, float(np.quantile(score, quantile)))
        height, width = intake.shape
        if height * width <= self.passes.max_tile_px:
            (found,) = self.passes.whole(["detections"], intake, NO_THRESHOLD, quantile)
            return found
        level = float(np.quantile(self.passes.scores(intake), quantile))
        return self.passes.everywhere(intake, level)

    def _finish(
        self,
        found: rows.Found,
        pixels: Pixels,
        intake: Intake,
        tiles: Tiles | None = None,
    ) -> Detections:
        """Merge, limit and flag what was found in tiles, or in the whole frame."""
        found = rows.inside(found, intake.shape)
        if self.wanted is not None:
            places_px = self.scale.to_camera(rows.places(found))
            found = found[self.wanted.keeps(places_px, pixels.shape)]
        best = rows.strongest(found, 4 * self.max_detections)
        merged = rows.merge(best, self._apart_px)
        visible = merged
        if self.least_contrast > 0 and self._quantile is None:
            usual = self._usual_contrast(merged, intake, is_whole=tiles is None)
            is_field = pixels.dtype.kind == "c"  # its contrast has no unit of noise
            floor = 0.0 if is_field else NOISE_FLOOR * self.card.noise_floor
            visible = rows.visible(merged, max(self.least_contrast * usual, floor))
            if not is_field:
                visible = self._beyond_noise(visible, intake, is_whole=tiles is None)
        self.n_cut = max(0, len(visible) - self.max_detections)
        clipped = self.scale.shrink_mask(self._saturated(pixels, tiles))
        look = self._appearance if self.only_like_training else None
        context = rows.Context(
            intake.shape, intake, clipped, self._likeness, look, self._orientation
        )
        detections = self.scale.enlarge(
            rows.to_detections(visible[: self.max_detections], self.card, context)
        )
        if self.only_like_training:
            return rows.like_training(detections)
        return detections

    def _saturated(self, pixels: Pixels, tiles: Tiles | None) -> Mask | None:
        """Return where a frame is clipped; None if not around what was found.

        Few tiles are looked at first: a large frame takes longer than its tiles.
        """
        if tiles is not None and area(tiles) * _FEW_TILES < pixels.size:
            k = self.scale.factor
            sides = ((tile.rows.surround, tile.columns.surround) for tile in tiles)
            parts = (pixels[k * y : k * v, k * x : k * u] for (y, v), (x, u) in sides)
            if not may_be_saturated(parts):
                return None
        return saturated(pixels)

    @cached_property
    def _appearance(self) -> Look | None:
        """The training particles to compare images with; None in older files."""
        return Look.of(self._looks) if self._looks else None

    def _beyond_noise(
        self, found: rows.Found, intake: Intake, *, is_whole: bool
    ) -> rows.Found:
        """Keep what stands out from correlated noise, if the frame has such noise.

        For tiles the last whole frame says so.
        """
        if not len(found):
            return found
        unit = intake.levels.noise if intake.is_normalised else 1.0
        radius_px = self.card.radius_px or 0.5 * self.card.window_px
        if is_whole:
            self._correlated_counts = unit * correlated.deviation(intake, radius_px)
        if not self._correlated_counts:
            return found
        sigma = self._correlated_counts / unit
        is_kept = correlated.stands_out(intake, rows.places(found), radius_px, sigma)
        kept: rows.Found = found[is_kept]
        return kept

    @cached_property
    def _orientation(self) -> Orientation | None:
        """What angles are measured with; None for round particles, or if not asked."""
        facts = self.card.orientation
        if facts is None or not facts.fold or not self._looks:
            return None
        return Orientation.of(self._looks, facts)

    def _usual_contrast(
        self, found: rows.Found, intake: Intake, *, is_whole: bool
    ) -> float:
        """Return the frame's, in its noise; for tiles that of the last whole frame.

        Else a faint particle would come and go with the tiles that happen to be read.
        """
        noise = intake.levels.noise
        if is_whole:
            self._usual_counts = rows.usual_contrast(found) * noise
        if self._usual_counts is None:
            return rows.usual_contrast(found)
        return self._usual_counts / noise


def _chosen(value: float | None, own: float | None, otherwise: float) -> float:
    """Return what the caller asks for, else what the model says, else the usual."""
    return next(float(v) for v in (value, own, otherwise) if v is not None)


def _score_at(false_alarms_per_mpx: float, card: ModelCard) -> float:
    """Return the score that a model's noise exceeds at a rate.

    Raises
    ------
    SettingsError
        The rate is not positive, or the model does not know its noise.
    """
    if not false_alarms_per_mpx > 0 or not math.isfinite(false_alarms_per_mpx):
        raise SettingsError(
            f"false_alarms_per_mpx = {false_alarms_per_mpx}: expected a number above "
            "0, for example 0.1."
        )
    tail = None if card.calibration is None else card.calibration.noise_tail
    if tail is None:
        raise SettingsError(
            f"false_alarms_per_mpx = {false_alarms_per_mpx}: this model was trained by "
            "an older version and does not know its noise; train it again, or give a "
            "threshold."
        )
    return NoiseTail(**tail.to_json()).score_at(false_alarms_per_mpx)


def _places(detector: Detector, pixels: Pixels) -> FloatArray:
    return detector(pixels).positions_px
