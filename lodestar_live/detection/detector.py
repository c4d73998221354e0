"""The exported model at run time: pixels in, detections out; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Detections, FloatArray, Pixels
from lodestar_live.detection import rows
from lodestar_live.detection.engines import OnnxRuntimeCpu, physical_cores
from lodestar_live.detection.model_file import read_model
from lodestar_live.errors import InputError

_IN_GRAPH = (np.uint8, np.uint16, np.float32)


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
        self.card: dict[str, Any] = file.card
        self.name = file.name
        self.max_detections = max_detections
        self.only_like_training = only_like_training
        self.n_cut = 0
        self.stride: int = self.card["stride"]
        self.engine = OnnxRuntimeCpu(
            file.proto, n_threads=n_threads or physical_cores()
        )
        if quantile is not None:
            threshold = -1e30
        criteria = {
            "threshold": self._chosen(threshold, "threshold", 0.0),
            "alpha": self._chosen(alpha, "alpha", 0.5),
            "beta": self._chosen(beta, "beta", 0.5),
            "quantile": 1.0 if quantile is None else quantile,
        }
        self._criteria = {k: np.array(v, np.float32) for k, v in criteria.items()}

    def __call__(self, pixels: Pixels) -> Detections:
        """Find the particles of one frame, shape (y, x): any real type, or a field."""
        image = self._as_image(pixels)
        background, scale = _levels(image)
        (found,) = self._run(["detections"], image[None], background, scale)
        best = rows.inside(rows.strongest(found, self.max_detections), pixels.shape)
        self.n_cut = max(0, len(found) - self.max_detections)
        merged = rows.merge(best, self.card.get("merge_px", 0.5 * self.stride))
        return rows.to_detections(
            merged, shape=pixels.shape, card=self.card, scale=scale, noise=scale
        )

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
            image = self._as_image(crop)
            features = self._run(["features"], image[None], *_levels(image))[0]
            result[index] = self._pooled(features[0].astype(float))
        return result

    def maps(self, pixels: Pixels) -> Maps:
        """Return the weight, clustering, score and feature maps of one frame."""
        image = self._as_image(pixels)
        names = ["features", "log_weight", "clustering", "score"]
        out = self._run(names, image[None], *_levels(image))
        features, log_weight, clustering, score = (value[0] for value in out)
        by_name = dict(zip(self.card["channels"], features, strict=True))
        return Maps(
            weight=np.exp(log_weight[0]),
            clustering=np.exp(clustering[0]),
            score=score[0],
            features=by_name,
            stride=self.stride,
        )

    def _pooled(self, features: FloatArray) -> FloatArray:
        channels = dict(zip(self.card["channels"], features, strict=True))
        log_weight = -np.logaddexp(0, -channels["rho"])
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        cells = self.stride * np.indices(weight.shape) + (self.stride - 1) / 2
        votes = cells + np.stack([channels["dy"], channels["dx"]])
        position: FloatArray = (votes * weight).sum(axis=(1, 2))
        return position

    def _run(
        self, outputs: list[str], images: Pixels, background: float, scale: float
    ) -> list[npt.NDArray[Any]]:
        levels: dict[str, npt.NDArray[Any]] = {
            "background": np.full((1, 1, 1, 1), background, np.float32),
            "scale": np.full((1, 1, 1, 1), scale, np.float32),
            "crop": np.zeros(4, np.int64),
        }
        return self.engine.run(outputs, {"pixels": images, **levels, **self._criteria})

    def _chosen(self, value: float | None, key: str, otherwise: float) -> float:
        return float(self.card.get(key, otherwise) if value is None else value)

    def _as_image(self, pixels: Pixels) -> Pixels:
        """Return (channels, y, x) in a type the graph takes."""
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise InputError(
                f"frame of shape {pixels.shape}: expected (y, x) with at least one "
                "pixel. Take one channel of a colour image."
            )
        if np.iscomplexobj(pixels):
            return np.stack([pixels.real - 1, pixels.imag]).astype(np.float32)
        if pixels.dtype not in _IN_GRAPH:
            pixels = pixels.astype(np.float32)
        return pixels[None]


def _levels(image: Pixels) -> tuple[float, float]:
    sample = image[..., ::3, ::3].astype(np.float32)
    background = float(np.median(sample))
    spread = 1.4826 * float(np.median(np.abs(sample - background)))
    return background, spread or 1.0
