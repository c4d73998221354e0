"""The float32 graph against a float64 reference written from the formulas."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.detection.engines.cpu import OnnxRuntimeCpu
from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.nodes import COLUMNS
from lodestar_live.detection.model.weights import NetworkWeights
from tests.detection import networks, reference

AT = {name: index for index, name in enumerate(COLUMNS)}
NETWORKS = {
    "thin": networks.thin(),
    "paper": networks.paper_like(),
    "thin, local contrast": networks.with_local_contrast(networks.thin()),
    "paper, local contrast": networks.with_local_contrast(networks.paper_like()),
}
SHAPES = [(64, 64), (65, 63), (37, 90)]


def run(
    weights: NetworkWeights, pixels: np.ndarray, threshold: float, quantile: float = 1
) -> np.ndarray:
    engine = OnnxRuntimeCpu(build_model(weights), n_threads=1)
    real = {"alpha": 0.5, "beta": 0.5, "threshold": threshold, "quantile": quantile}
    feeds = {name: np.array(value, np.float32) for name, value in real.items()}
    feeds["background"] = np.full((1, 1, 1, 1), 100, np.float32)
    feeds["scale"] = np.full((1, 1, 1, 1), 20, np.float32)
    (found,) = engine.run(["detections"], {"pixels": pixels[None, None], **feeds})
    return found


def noise(shape: tuple[int, int], dtype: type, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).clip(0, 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_graph_equals_the_float64_reference(name, shape, dtype) -> None:
    weights = NETWORKS[name]
    pixels = noise(shape, dtype)
    maps = reference.features(pixels[None], weights, 100, 20)
    score = np.sort(reference.scores(maps, weights, 0.5, 0.5).ravel())
    # Half-way between two scores, so that float32 rounding cannot move it over one.
    threshold = (score[-len(score) // 4] + score[-len(score) // 4 - 1]) / 2
    truth = reference.detect(maps, weights, threshold=threshold)
    found = run(weights, pixels, threshold)
    assert len(found) == len(truth) > 0
    for field, tolerance in [("y_px", 1e-3), ("x_px", 1e-3), ("score", 1e-4)]:
        expected = [getattr(row, field) for row in truth]
        np.testing.assert_allclose(found[:, AT[field]], expected, atol=tolerance)
    expected = [row.consistency_px for row in truth]
    np.testing.assert_allclose(found[:, AT["consistency_px"]], expected, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 40), (11, 5)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_tiny_frames_pass(name, shape) -> None:
    found = run(NETWORKS[name], noise(shape, np.uint8), -1e30)
    assert np.isfinite(found).all()


def test_quantile_keeps_maxima_above_it_only() -> None:
    weights, pixels = NETWORKS["thin"], noise((128, 128), np.uint8)
    found = run(weights, pixels, -1e30, quantile=0.99)
    maps = reference.features(pixels[None], weights, 100, 20)
    score = reference.scores(maps, weights, 0.5, 0.5)
    n_above = int(np.ceil(score.size * (1 - 0.99)))
    level = np.sort(score.ravel())[-n_above]
    expected = reference.detect(maps, weights, threshold=level + 1e-5)
    assert len(found) == len(expected)
