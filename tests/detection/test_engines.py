"""Engines: same detections, honest fall-backs, and a gate against imprecise ones."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lodestar_live.detection import Detector
from lodestar_live.detection.engines.cpu import physical_cores, session_options
from lodestar_live.detection.engines.open import SplitEngine, available
from lodestar_live.detection.engines.trial import (
    MAX_SHIFT_PX,
    Trial,
    choose,
    try_engines,
    typical_part,
)
from lodestar_live.errors import ModelError
from tests.detection import networks

SPOTS = np.array([[20.0, 30.0], [60.25, 44.5], [90.5, 100.75]])
FRAME = np.random.default_rng(0).poisson(networks.spots(SPOTS, (128, 136)))
FRAME = FRAME.astype(np.uint16)


def spot_detector(**options: object) -> Detector:
    model = networks.model(networks.spot_finder(), threshold=-1.5)
    return Detector(model, n_threads=1, **options)


def shifted(by_px: float):
    """A network elsewhere whose votes come out shifted."""

    def compile_network(model: onnx.ModelProto, n_threads: int):
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), session_options(n_threads)
        )

        def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            fed = {node.name: feeds[node.name] for node in session.get_inputs()}
            features, contrast = session.run(None, fed)
            features[:, :2] += by_px
            return [features, contrast]

        return run

    return compile_network


def with_shift(by_px: float) -> Detector:
    detector = spot_detector()
    detector.passes.engine = SplitEngine(
        "elsewhere", detector._proto, shifted(by_px), n_threads=1
    )
    return detector


def test_split_engine_finds_what_the_whole_graph_finds() -> None:
    reference, split = spot_detector(), with_shift(0)
    for name in ("y_px", "x_px", "score", "intensity", "consistency_px"):
        np.testing.assert_allclose(
            split(FRAME).rows[name], reference(FRAME).rows[name], rtol=1e-5
        )
    near, expected = (d.near(FRAME, SPOTS[:1]) for d in (split, reference))
    np.testing.assert_allclose(near.positions_px, expected.positions_px, rtol=1e-5)
    np.testing.assert_allclose(split.locate(FRAME[None]), reference.locate(FRAME[None]))


def test_openvino_passes_the_gate_here() -> None:
    assert "openvino" in available(), "pip install lodestar-live[test]"
    expected = spot_detector()(FRAME).positions_px
    openvino = spot_detector(engine="openvino")
    assert openvino.engine.name == "openvino"
    (trial,) = try_engines({"openvino": lambda: openvino(FRAME).positions_px}, expected)
    assert trial.is_accepted
    # Without bfloat16 in hardware it computes in float32.
    assert trial.p95_shift_px < MAX_SHIFT_PX


def test_openvino_sends_no_statistics_and_forks_nobody() -> None:
    code = (
        "import sys, numpy as np, psutil\n"
        "from tests.detection.test_engines import FRAME, spot_detector\n"
        "assert len(spot_detector(engine='openvino')(FRAME))\n"
        "assert 'openvino' in sys.modules\n"
        "assert not [m for m in sys.modules if 'openvino_telemetry' in m]\n"
        "assert not psutil.Process().children(recursive=True)\n"
        "print('alone')\n"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.stdout.strip() == "alone", result.stderr


def test_openvino_agrees_far_above_zero_and_around_predictions() -> None:
    # Block means of 50 000 counts would be off by a hundred in bfloat16.
    frame = FRAME.astype(np.uint16) + np.uint16(50_000)
    reference, openvino = (spot_detector(engine=e) for e in ("cpu", "openvino"))
    expected = reference(frame).positions_px
    assert len(expected) == len(SPOTS)
    np.testing.assert_allclose(openvino(frame).positions_px, expected, atol=0.02)
    # Tiles stay in float32: they are small, and of ever new shapes.
    near, expected = (d.near(frame, SPOTS[:2]) for d in (openvino, reference))
    np.testing.assert_array_equal(near.positions_px, expected.positions_px)


@pytest.mark.parametrize(("by_px", "is_accepted"), [(0.001, True), (0.05, False)])
def test_gate_measures_the_shift(by_px: float, is_accepted: bool) -> None:
    expected = spot_detector()(FRAME).positions_px
    detector = with_shift(by_px)
    (trial,) = try_engines(
        {"elsewhere": lambda: detector(FRAME).positions_px}, expected
    )
    assert trial.p95_shift_px == pytest.approx(by_px * np.sqrt(2), rel=0.05)
    assert trial.is_accepted == is_accepted


def test_auto_keeps_the_fastest_that_agrees() -> None:
    detector = spot_detector(engine="auto")
    assert detector.engine.name == "cpu"
    trials = detector.warm_up(FRAME)
    assert [t.engine for t in trials] == available()
    assert detector.engine.name == choose(trials).engine
    assert len(detector(FRAME)) == 3


@pytest.mark.parametrize(
    ("best_ms", "shift_px", "chosen"),
    [
        (5.0, 0.001, "other"),
        (9.5, 0.001, "cpu"),  # gains too little to be worth a change
        (5.0, 0.5, "cpu"),  # finds other positions
        (20.0, 0.001, "cpu"),
    ],
)
def test_another_engine_must_agree_and_gain(best_ms, shift_px, chosen) -> None:
    cpu = Trial("cpu", 10.0, 0.0, 3, 3)
    assert choose([cpu, Trial("other", best_ms, shift_px, 3, 3)]).engine == chosen


def test_auto_stays_with_the_reference_when_nothing_can_be_compared() -> None:
    detector = spot_detector(engine="auto")
    detector.warm_up(np.zeros((64, 64), np.uint8))
    assert detector.engine.name == "cpu"


def test_engines_that_are_not_installed_become_cpu_with_a_message(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        detector = spot_detector(engine="cuda")
    assert detector.engine.name == "cpu"
    assert "lodestar-live[gpu]" in caplog.text


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(ModelError, match="expected one of"):
        spot_detector(engine="npu")


def test_threads_are_counted_in_physical_cores() -> None:
    assert 1 <= physical_cores() <= len(os.sched_getaffinity(0))


def test_a_large_frame_is_tried_in_a_part_with_particles() -> None:
    frame = np.zeros((900, 1400), np.uint16)
    places = np.array([[20.0, 30.0], [700.5, 1380.0], [850.0, 1390.5]])
    part = typical_part(frame, places)
    assert part.shape == (512, 512)
    frame[700, 1380] = 9  # the detection nearest to their median
    assert typical_part(frame, places).max() == 9
    assert typical_part(frame, np.empty((0, 2))).shape == (512, 512)
    small = frame[:100, :200]
    assert typical_part(small, places[:1]).shape == small.shape
