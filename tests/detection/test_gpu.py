"""The GPU's way through ONNX Runtime, run on the CPU's provider: no GPU is needed."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from lodestar_live.detection import Detector
from lodestar_live.detection.engines import gpu
from lodestar_live.detection.engines import open as accelerators
from lodestar_live.detection.engines.cpu import session_options
from lodestar_live.detection.engines.gpu import (
    CUDA,
    TENSORRT,
    GpuNetworks,
    Provider,
)
from lodestar_live.detection.engines.open import SplitEngine
from lodestar_live.detection.engines.trial import MAX_SHIFT_PX, try_engines
from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.half_precision import half_precision
from lodestar_live.detection.model.nodes import NET, cut
from lodestar_live.detection.model.weights import NetworkWeights
from lodestar_live.errors import ModelError
from tests.detection import networks

CPU = Provider("CPUExecutionProvider", {}, {"enable_cuda_graph": "1"}, device="cpu")
SPOTS = np.array([[20.0, 30.0], [60.25, 44.5], [80.5, 70.75]])
SHAPES = {
    (128, 136): np.uint16,
    (97, 90): np.uint8,
    (130, 90): np.float32,
    (160, 101): np.uint16,
}


def frame(shape=(128, 136), dtype=np.uint16) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return rng.poisson(networks.spots(SPOTS, shape)).astype(dtype)


def on(compile_network, weights: NetworkWeights | None = None) -> Detector:
    """A detector whose network runs through `compile_network`."""
    found = reference(weights)
    found.passes.engine = SplitEngine("gpu", found._proto, compile_network, n_threads=1)
    return found


def reference(weights: NetworkWeights | None = None) -> Detector:
    model = networks.model(weights or networks.spot_finder(), threshold=-1.5)
    return Detector(model, n_threads=1)


def half(**options: int) -> GpuNetworks:
    return GpuNetworks(CPU, is_half=True, **options)


def network_of(weights: NetworkWeights) -> onnx.ModelProto:
    return cut(build_model(weights), ["pixels", "background", "scale"], NET)


def with_rounded_values(model: onnx.ModelProto, n_threads: int):
    """Float16 as it is: ONNX Runtime's CPU keeps more bits between the layers."""
    evaluator = ReferenceEvaluator(half_precision(model))
    return lambda feeds: evaluator.run(list(NET), dict(feeds))


def scaled(by: float) -> NetworkWeights:
    """The same function with other weights: a ReLU does not mind a factor."""
    weights = networks.spot_finder()
    *first, hidden, head = weights.layers
    hidden = replace(hidden, weight=hidden.weight * by, bias=hidden.bias * by)
    head = replace(head, weight=head.weight / by)
    return NetworkWeights((*first, hidden, head), weights.stride)


def assert_passes_the_gate(found: Detector, pixels: np.ndarray) -> None:
    expected = reference()(pixels).positions_px
    (trial,) = try_engines({"gpu": lambda: found(pixels).positions_px}, expected)
    assert trial.n_expected >= 3
    assert trial.is_accepted
    assert found.engine.name == "gpu"


# -- float16 ---------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (10, 50_000)])
def test_positions_stay_within_the_gate_in_float16(gain: int, offset: int) -> None:
    pixels = (gain * frame(dtype=np.float32) + offset).astype(np.uint16)
    assert_passes_the_gate(on(with_rounded_values), pixels)


@pytest.mark.parametrize(
    "weights",
    [
        networks.thin(),
        networks.paper_like(),
        networks.with_local_contrast(networks.paper_like()),
    ],
)
def test_networks_of_every_layout_are_rounded(weights: NetworkWeights) -> None:
    model = network_of(weights)
    rounded = half_precision(model)
    onnx.checker.check_model(rounded, full_check=True)
    types = Counter(tensor.data_type for tensor in rounded.graph.initializer)
    n_convolutions = sum(hasattr(layer, "weight") for layer in weights.layers)
    assert types[TensorProto.FLOAT16] == 2 * n_convolutions
    outputs = on(with_rounded_values, weights).maps(frame()).features
    for name, values in reference(weights).maps(frame()).features.items():
        difference = np.linalg.norm(outputs[name] - values)
        assert 0 < difference < 3e-3 * np.linalg.norm(values)


def test_the_model_itself_is_not_rounded() -> None:
    model = network_of(networks.thin())
    before = model.SerializeToString()
    half_precision(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("by", [1e-8, 1e8])
def test_weights_that_float16_cannot_hold_stay_float32(by: float, caplog) -> None:
    weights = scaled(by)
    with pytest.raises(ModelError, match="do not fit into float16"):
        half_precision(network_of(weights))
    expected = reference()(frame()).positions_px
    with caplog.at_level(logging.WARNING):
        found = on(half(), weights)
        positions = found(frame()).positions_px
    assert "Using float32" in caplog.text
    assert found.engine.name == "gpu"
    np.testing.assert_allclose(positions, expected, atol=1e-3)


# -- sessions of fixed shape -----------------------------------------------------------


@pytest.mark.parametrize("is_half", [True, False])
@pytest.mark.parametrize("takes_uint16", [True, False])
def test_frames_of_any_shape_and_type_in_turn(is_half, takes_uint16) -> None:
    provider = replace(CPU, takes_uint16=takes_uint16)
    found = on(GpuNetworks(provider, is_half=is_half))
    for _ in range(2):
        for shape, dtype in SHAPES.items():
            assert_passes_the_gate(found, frame(shape, dtype))


def test_tiles_find_what_the_frame_has() -> None:
    found, expected = on(half()), reference()
    for n_tiles in (1, 2, 3):
        near = found.near(frame(), SPOTS[:n_tiles])
        np.testing.assert_allclose(
            near.positions_px,
            expected.near(frame(), SPOTS[:n_tiles]).positions_px,
            atol=MAX_SHIFT_PX,
        )
    assert found.engine.name == "gpu"


def test_numbers_of_tiles_share_sessions() -> None:
    networks_kept = half()
    network = networks_kept(network_of(networks.thin()), 1)
    rng = np.random.default_rng(0)
    level = np.ones((1, 1, 1, 1), np.float32)
    for n_tiles in (5, 6, 7, 8):
        pixels = rng.normal(size=(n_tiles, 1, 32, 32)).astype(np.float32)
        features, contrast = network(
            {"pixels": pixels, "background": level, "scale": level}
        )
        assert len(features) == len(contrast) == n_tiles
        alone = network({"pixels": pixels[-1:], "background": level, "scale": level})
        np.testing.assert_allclose(features[-1:], alone[0], atol=1e-2)
    assert len(networks_kept._kept) == 2  # eight tiles, and one


def test_sessions_are_bounded_and_the_least_recently_used_goes() -> None:
    networks_kept = half(max_kept=2)
    found = on(networks_kept)
    first, second, third = [frame(shape) for shape in list(SHAPES)[:3]]
    for pixels in (first, second, first, third):
        found(pixels)
        assert len(networks_kept._kept) <= 2
    shapes = {key[1][2:] for key in networks_kept._kept}
    assert shapes == {first.shape, third.shape}
    assert_passes_the_gate(found, second)


def test_a_later_frame_leaves_earlier_results_alone() -> None:
    found = on(half())
    features = found.maps(frame()).features["dy"]
    np.testing.assert_allclose(
        features, reference().maps(frame()).features["dy"], atol=MAX_SHIFT_PX
    )
    before = features.copy()
    found.maps(frame()[::-1].copy())
    np.testing.assert_array_equal(features, before)


def test_pixels_that_are_no_numbers_do_not_stop_it() -> None:
    pixels = frame(dtype=np.float32)
    pixels[100:110, 5:15] = np.nan
    found = on(half())
    np.testing.assert_allclose(
        found(pixels).positions_px, reference()(pixels).positions_px, atol=MAX_SHIFT_PX
    )
    assert found.engine.name == "gpu"


@pytest.mark.parametrize(
    ("level", "error", "is_like"),
    [(0, 1e-5, True), (10, 0.1, True), (10, 10, False), (10, np.inf, False)],
)
def test_maps_are_compared_with_the_cpus(level, error, is_like) -> None:
    """A flat frame's maps are nothing but rounding: any error is large, relatively."""
    expected = [np.full((1, 3, 8, 8), level, np.float32)] * 2
    found = [values + np.float32(error) for values in expected]
    with nullcontext() if is_like else pytest.raises(ModelError, match="differs"):
        gpu._check(found, expected)


@pytest.mark.parametrize(
    "weights", [networks.spot_finder(), networks.thin(), networks.paper_like()]
)
def test_nothing_of_a_fixed_session_is_left_to_find_out(weights, tmp_path) -> None:
    """What computes sizes would run on the CPU, and a GPU could not replay it."""
    level = np.ones((1, 1, 1, 1), np.float32)
    feeds = {"pixels": frame()[None, None], "background": level, "scale": level}
    fixed = gpu._with_shapes(half_precision(network_of(weights)), feeds)
    options = session_options(1)
    basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.graph_optimization_level = basic
    options.optimized_model_filepath = str(tmp_path / "fixed.onnx")
    onnxruntime.InferenceSession(
        fixed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(tmp_path / "fixed.onnx").graph.node
    assert {"Conv", "Pad"} <= {node.op_type for node in nodes}
    assert not {"Shape", "Concat"} & {node.op_type for node in nodes}


# -- what is missing, refused or broken ------------------------------------------------


def test_without_graph_capture_if_it_is_refused(monkeypatch, caplog) -> None:
    class Session(onnxruntime.InferenceSession):
        def __init__(self, model, options, providers, **others) -> None:
            if (CPU.name, {**CPU.capture}) in providers:
                raise RuntimeError("cannot use the graph capture feature")
            super().__init__(model, options, providers=providers, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    found = on(half())
    with caplog.at_level(logging.WARNING):
        for shape, dtype in SHAPES.items():
            assert_passes_the_gate(found, frame(shape, dtype))
    assert caplog.text.count("cannot use the graph capture feature") == 1


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_load_becomes_cpu(provider, caplog) -> None:
    found = on(GpuNetworks(provider, is_half=True))
    assert_becomes_cpu(found, caplog, "Are CUDA 12 and cuDNN 9")


def test_a_run_that_fails_later_becomes_cpu(monkeypatch, caplog) -> None:
    def run_with_iobinding(self, *_) -> None:
        raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("device lost")

    found = on(half())
    assert_passes_the_gate(found, frame())
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run_with_iobinding", run_with_iobinding
    )
    assert_becomes_cpu(found, caplog, "device lost")


def test_a_device_that_computes_nonsense_becomes_cpu(monkeypatch, caplog) -> None:
    def run_with_iobinding(self, binding) -> None:
        for value in binding.get_outputs():
            value.update_inplace(np.zeros(value.shape(), np.float32))

    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run_with_iobinding", run_with_iobinding
    )
    assert_becomes_cpu(on(half()), caplog, "differs from the CPU's")


def assert_becomes_cpu(found: Detector, caplog, reason: str) -> None:
    expected = reference()
    with caplog.at_level(logging.WARNING):
        for pixels in (frame(), frame((97, 90))):
            np.testing.assert_array_equal(
                found(pixels).positions_px, expected(pixels).positions_px
            )
    np.testing.assert_array_equal(
        found.near(frame(), SPOTS).positions_px,
        expected.near(frame(), SPOTS).positions_px,
    )
    assert found.engine.name == "cpu"
    assert reason in caplog.text
    assert caplog.text.count("engine = 'gpu' failed; using 'cpu'") == 1


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_auto_does_not_choose_an_engine_that_failed(monkeypatch) -> None:
    names = ["cpu", "cuda", "tensorrt"]
    monkeypatch.setattr(accelerators, "available", lambda: names)
    found = Detector(
        networks.model(networks.spot_finder(), threshold=-1.5),
        n_threads=1,
        engine="auto",
    )
    trials = found.warm_up(frame())
    assert [trial.engine for trial in trials] == ["cpu"]
    assert found.engine.name == "cpu"
