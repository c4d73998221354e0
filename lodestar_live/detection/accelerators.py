"""Run the network elsewhere; the read-out stays in float32 on the CPU.

Low precision costs the network's votes a few thousandths of a pixel, but destroys the
score map, where a variance is a difference of nearly equal numbers. So the graph is cut
at `features`: the network goes to the accelerator, the rest does not.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from lodestar_live.detection.engines import (
    Array,
    Engine,
    OnnxRuntimeCpu,
    Part,
    session_options,
    set_pixel_type,
)
from lodestar_live.detection.layers import LOCAL
from lodestar_live.detection.nodes import cut
from lodestar_live.detection.opening import opened
from lodestar_live.errors import ModelError

logger = logging.getLogger(__name__)

_NET = ("features", "contrast")
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
Network = Callable[[Mapping[str, Array]], list[Array]]
Compile = Callable[[onnx.ModelProto, int], Network]


class SplitEngine:
    """The network through `compile_network`, everything else in ONNX Runtime.

    Parameters
    ----------
    name
        What `Detector.engine.name` says.
    proto
        The model.
    compile_network
        Turns a model (inputs to features and contrast) and a number of threads into
        a function of the inputs.
    n_threads
        For both halves; they run one after the other.
    """

    def __init__(
        self,
        name: str,
        proto: onnx.ModelProto,
        compile_network: Compile,
        *,
        n_threads: int,
    ) -> None:
        self.name = name
        self.n_parallel = 1  # its threads share one part
        self._proto, self._compile, self._n_threads = proto, compile_network, n_threads
        self._cpu = OnnxRuntimeCpu(proto, n_threads=n_threads)
        self._networks: dict[tuple[Any, ...], tuple[Network, list[str]]] = {}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return `outputs`; what is fed is not computed."""
        return self._run(outputs, Part(feeds))

    def run_parts(
        self, outputs: Sequence[str], parts: Sequence[Part]
    ) -> list[list[Array]]:
        """Return `outputs` of every part."""
        return [self._run(outputs, part) for part in parts]

    def _run(self, outputs: Sequence[str], part: Part) -> list[Array]:
        feeds = part.feeds
        if set(outputs) <= set(LOCAL):
            return self._cpu.run(outputs, feeds)
        pixels = feeds.get("pixels")
        key = (tuple(feeds), None if pixels is None else pixels.dtype, part.opening)
        if key not in self._networks:
            model = cut(opened(self._proto, part.opening), key[0], _NET)
            set_pixel_type(model, key[1])
            names = [value.name for value in model.graph.input]
            self._networks[key] = self._compile(model, self._n_threads), names
        network, names = self._networks[key]
        maps = network({name: feeds[name] for name in names})
        rest = {k: v for k, v in feeds.items() if k not in ("pixels", *LOCAL)}
        seen = dict(zip(_NET, maps, strict=True))
        return self._cpu.run(outputs, {**seen, **rest})


def available() -> list[str]:
    """Return the engines that are installed here, `cpu` first."""
    has_openvino = importlib.util.find_spec("openvino") is not None
    providers = set(onnxruntime.get_available_providers())
    gpus = [name for name, provider in _PROVIDERS.items() if provider in providers]
    return ["cpu", *["openvino"] * has_openvino, *gpus]


def open_engine(name: str, proto: onnx.ModelProto, *, n_threads: int) -> Engine:
    """Return an engine by name; `cpu`, with a warning, if it is not installed.

    Raises
    ------
    ModelError
        There is no engine of that name.
    """
    known = ["cpu", "openvino", *_PROVIDERS]
    if name not in known:
        raise ModelError(f"engine = {name!r}: unknown; expected one of {known}.")
    if name not in available():
        extra = "openvino" if name == "openvino" else "gpu"
        logger.warning(
            "engine = %r is not installed here; using 'cpu'. "
            "`pip install lodestar-live[%s]` adds it.",
            name,
            extra,
        )
        name = "cpu"
    if name == "cpu":
        return OnnxRuntimeCpu(proto, n_threads=n_threads)
    compile_network = _openvino if name == "openvino" else _on_provider(name)
    return SplitEngine(name, proto, compile_network, n_threads=n_threads)


def _openvino(model: onnx.ModelProto, n_threads: int) -> Network:
    """Compile for OpenVINO: bfloat16 where the processor has it, else float32."""
    import openvino

    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": n_threads,
            "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 else "f32",
        },
    )

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        results = compiled(dict(feeds), share_inputs=True)
        return [np.asarray(results[name]) for name in _NET]

    return run


def _on_provider(name: str) -> Compile:
    """Compile for a GPU through ONNX Runtime (written from its documentation)."""

    def compile_network(model: onnx.ModelProto, n_threads: int) -> Network:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(n_threads),
            providers=[_PROVIDERS[name], "CPUExecutionProvider"],
        )

        def run(feeds: Mapping[str, Array]) -> list[Array]:
            results: list[Array] = session.run(_NET, dict(feeds))
            return results

        return run

    return compile_network
