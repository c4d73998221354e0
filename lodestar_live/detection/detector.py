"""The exported model at run time: pixels in, detections out; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Detections, FloatArray, Pixels
from lodestar_live.detection import rows
from lodestar_live.detection.engines import OnnxRuntimeCpu, physical_cores
from lodestar_live.detection.intake import Intake, Levels, saturated, take_in
from lodestar_live.detection.model_file import read_model
from lodestar_live.detection.tiles import Layout, Tile, owned_rows

MAX_TILE_BYTES = 256 * 2**20
_NOTHING = -1e30  # a threshold every score passes


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
    alpha, beta
        Exponents of the weight and of the clustering metric (the paper's).
        None: the model's own.
    quantile
        The paper's criterion instead of `threshold`: local maxima above this
        quantile of the frame's own scores. It always finds something, also in an
        empty frame.
    max_detections
        The best by score are kept; `n_cut` counts the rest.
    only_like_training
        Drop detections whose votes disagree more than the training particle's.
    engine
        "auto", "cpu".
    n_threads
        None: one per physical core.

    Attributes
    ----------
    card
        What the model says about itself.
    n_cut
        Detections of the last frame beyond `max_detections`.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        threshold: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        quantile: float | None = None,
        max_detections: int = 5000,
        only_like_training: bool = False,
        engine: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        file = read_model(model)
        self.name, self.card = file.name, file.card
        self.max_detections = max_detections
        self.only_like_training = only_like_training
        self.n_cut = 0
        self.layout = Layout.of(self.card)
        self.engine = OnnxRuntimeCpu(
            file.proto, n_threads=n_threads or physical_cores()
        )
        self._max_tile_px = int(MAX_TILE_BYTES / self.card["bytes_per_px"])
        self._quantile = quantile
        if quantile is not None:
            threshold = _NOTHING
        self._threshold = self._chosen(threshold, "threshold", 0.0)
        self._exponents = {
            "alpha": np.array(self._chosen(alpha, "alpha", 0.5), np.float32),
            "beta": np.array(self._chosen(beta, "beta", 0.5), np.float32),
        }

    def __call__(self, pixels: Pixels) -> Detections:
        """Find the particles of one frame.

        Parameters
        ----------
        pixels
            Shape (y, x), any real type; or a complex field with background 1.
        """
        intake = take_in(pixels)
        tiles = self.layout.whole(pixels.shape, self._max_tile_px)
        quantile = self._quantile
        threshold = self._threshold
        if quantile is not None and len(tiles) > 1:
            threshold, quantile = self._level(intake, tiles, quantile), None
        found = self._find(intake, tiles, threshold=threshold, quantile=quantile)
        return self._finish(found, pixels, intake)

    def near(
        self,
        pixels: Pixels,
        positions_px: npt.ArrayLike,
        *,
        reach_px: float = 8.0,
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
            Maxima of the score up to this far from a position are found.
        levels
            The frame's levels, if known (a full pass found them); saves time.
        """
        around = np.asarray(positions_px, dtype=float).reshape(-1, 2)
        tiles = self.layout.around(around, reach_px, pixels.shape)
        intake = take_in(pixels, levels)
        found = self._find(intake, tiles, threshold=self._threshold)
        return self._finish(found, pixels, intake)

    def locate(self, crops: Pixels) -> FloatArray:
        """Locate the one particle of each image: the paper's pooled estimate.

        Parameters
        ----------
        crops
            Shape (n, y, x).

        Returns
        -------
        Positions (n, 2), (y, x) px: sum of weight * vote / sum of weight, all cells.
        """
        result = np.empty((len(crops), 2))
        for index, crop in enumerate(crops):
            (features,) = self._run(["features"], take_in(crop))
            result[index] = self._pooled(features[0].astype(float))
        return result

    def maps(self, pixels: Pixels) -> Maps:
        """Return the weight, clustering, score and feature maps of one frame."""
        names = ["features", "log_weight", "clustering", "score"]
        out = self._run(names, take_in(pixels))
        features, log_weight, clustering, score = (value[0] for value in out)
        by_name = dict(zip(self.card["channels"], features, strict=True))
        return Maps(
            weight=np.exp(log_weight[0]),
            clustering=np.exp(clustering[0]),
            score=score[0],
            features=by_name,
            stride=self.layout.stride,
        )

    def _find(
        self,
        intake: Intake,
        tiles: Iterable[Tile],
        *,
        threshold: float,
        quantile: float | None = None,
    ) -> rows.Found:
        """Return the rows of all tiles, in the frame's coordinates."""
        parts = [np.empty((0, rows.n_columns(self.card)))]
        for tile in tiles:
            (found,) = self._run(
                ["detections"], intake, tile, threshold=threshold, quantile=quantile
            )
            parts.append(owned_rows(tile, found, self.layout))
        return np.concatenate(parts)

    def _level(self, intake: Intake, tiles: list[Tile], quantile: float) -> float:
        """Return the quantile of the scores of a frame too large for one run."""
        parts = []
        for tile in tiles:
            (score,) = self._run(["score"], intake, tile)
            (top, bottom), (left, right) = tile.owned
            row, column = tile.origin
            owned = score[..., top - row : bottom - row, left - column : right - column]
            parts.append(owned.ravel())
        return float(np.quantile(np.concatenate(parts), quantile))

    def _finish(self, found: rows.Found, pixels: Pixels, intake: Intake) -> Detections:
        """Merge, limit and flag."""
        found = found[np.isfinite(found).all(axis=1)]
        found = rows.inside(found, pixels.shape)
        best = rows.strongest(found, 4 * self.max_detections)
        merge_px = self.card.get("merge_px", max(2.0, 0.5 * self.layout.stride))
        merged = rows.merge(best, merge_px)
        self.n_cut = max(0, len(merged) - self.max_detections)
        context = rows.Context(pixels.shape, intake, saturated(pixels))
        detections = rows.to_detections(
            merged[: self.max_detections], self.card, context
        )
        if self.only_like_training:
            return rows.like_training(detections)
        return detections

    def _pooled(self, features: FloatArray) -> FloatArray:
        channels = dict(zip(self.card["channels"], features, strict=True))
        log_weight = -np.logaddexp(0, -channels["rho"])
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        stride = self.layout.stride
        cells = stride * np.indices(weight.shape) + (stride - 1) / 2
        votes = cells + np.stack([channels["dy"], channels["dx"]])
        position: FloatArray = (votes * weight).sum(axis=(1, 2))
        return position

    def _run(
        self,
        outputs: list[str],
        intake: Intake,
        tile: Tile | None = None,
        *,
        threshold: float = _NOTHING,
        quantile: float | None = None,
    ) -> list[npt.NDArray[Any]]:
        image = intake.image if tile is None else tile.cut(intake.image)
        crop = (0, 0, 0, 0) if tile is None else tile.crop
        feeds: dict[str, npt.NDArray[Any]] = {
            "pixels": np.ascontiguousarray(image)[None],
            "background": np.full((1, 1, 1, 1), intake.levels.background, np.float32),
            "scale": np.full((1, 1, 1, 1), intake.levels.noise, np.float32),
            "crop": np.array(crop, np.int64),
            "threshold": np.array(threshold, np.float32),
            "quantile": np.array(1.0 if quantile is None else quantile, np.float32),
            **self._exponents,
        }
        return self.engine.run(outputs, feeds)

    def _chosen(self, value: float | None, key: str, otherwise: float) -> float:
        return float(self.card.get(key, otherwise) if value is None else value)
