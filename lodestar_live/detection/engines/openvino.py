"""The network in OpenVINO: bfloat16 where the processor has it, else float32."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from lodestar_live.detection.engines.cpu import Array, set_pixel_type
from lodestar_live.detection.model.nodes import NET

MAX_KEPT = 8  # shapes of frames
_STATISTICS = "openvino_telemetry"


def import_openvino() -> Any:
    """Import OpenVINO without its usage statistics; it has a stub for that.

    They fork a child of the process that may hold a stage, which keeps its pipes open
    and delays its end by ten seconds, and send what nobody asked to be sent.
    """
    is_there = _STATISTICS in sys.modules
    if not is_there:
        sys.modules[_STATISTICS] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if not is_there:
            del sys.modules[_STATISTICS]


class OpenVino:
    """A network for whole frames.

    Each shape is compiled by itself: a tenth faster than one model for any shape.

    Parameters
    ----------
    model
        From pixels to `NET`.
    n_threads
        Of OpenVINO.
    """

    def __init__(self, model: onnx.ModelProto, n_threads: int) -> None:
        openvino = import_openvino()
        self._core = openvino.Core()
        can_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": n_threads,
            "INFERENCE_PRECISION_HINT": "bf16" if can_bf16 else "f32",
        }
        set_pixel_type(model, np.dtype(np.float32))
        self._bytes = model.SerializeToString()
        self._inputs = [value.name for value in model.graph.input]
        self._kept: dict[tuple[tuple[int, ...], ...], Any] = {}
        self._lock = threading.Lock()  # a compiled model serves one call at a time

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the maps; the caller's from then on."""
        fed = {name: feeds[name] for name in self._inputs} | self._pixels(feeds)
        key = tuple(array.shape for array in fed.values())
        with self._lock:
            compiled = self._kept.pop(key, None) or self._compile(fed)
            self._kept[key] = compiled  # the last one is the most recently used
            if len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            results = compiled(fed, share_inputs=True)
            return [np.asarray(results[name]) for name in NET]

    def _pixels(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the pixels, above the frame's background if the network allows it.

        Bfloat16 holds two to three digits: of 40 000 counts they would be off by a
        hundred. A local normalisation subtracts what is left, and so loses nothing.
        """
        if "background" in self._inputs:
            return {"pixels": feeds["pixels"].astype(np.float32)}
        above = np.subtract(feeds["pixels"], feeds["background"], dtype=np.float32)
        return {"pixels": above}

    def _compile(self, feeds: Mapping[str, Array]) -> Any:
        model = self._core.read_model(self._bytes)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        return self._core.compile_model(model, "CPU", self._options)
