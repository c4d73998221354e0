"""Run the network elsewhere; the read-out stays in float32 on the CPU.

Low precision costs the network's votes a few thousandths of a pixel, but destroys the
score map, where a variance is a difference of nearly equal numbers. So the graph is cut
at `features`: the network goes to the accelerator, the rest does not.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import onnx
import onnxruntime

from lodestar_live.detection.engines.cpu import (
    Array,
    Engine,
    Network,
    OnnxRuntimeCpu,
    Part,
    cut_for,
    set_pixel_type,
)
from lodestar_live.detection.frame.halo import SURROUND
from lodestar_live.detection.model.nodes import NET
from lodestar_live.errors import ModelError

logger = logging.getLogger(__name__)

Compile = Callable[[onnx.ModelProto, int], Network]
_Result = TypeVar("_Result")


class _Gpu(NamedTuple):
    provider: str  # of ONNX Runtime
    is_half: bool


_GPUS = {
    "cuda": _Gpu("CUDAExecutionProvider", is_half=True),
    "cuda-float32": _Gpu("CUDAExecutionProvider", is_half=False),
    "tensorrt": _Gpu("TensorrtExecutionProvider", is_half=True),
}


class SplitEngine:
    """The network through `compile_network`, everything else in ONNX Runtime.

    If the network fails, whatever the reason, it is "cpu" from then on: a live run
    goes on.

    Parameters
    ----------
    name
        What `Detector.engine.name` says.
    proto
        The model.
    compile_network
        Turns a model (inputs to features and contrast) and a number of threads into
        a function of a part's feeds.
    n_threads
        For both halves; they run one after the other.
    takes_tiles
        Else tiles stay in ONNX Runtime: little work each time, and ever new shapes.
    """

    def __init__(
        self,
        name: str,
        proto: onnx.ModelProto,
        compile_network: Compile,
        *,
        n_threads: int,
        takes_tiles: bool = True,
    ) -> None:
        self.name = name
        self._takes_tiles = takes_tiles
        self.n_strips = 1  # its threads share one part
        self.n_parallel = 1 if takes_tiles else n_threads
        self._proto, self._compile, self._n_threads = proto, compile_network, n_threads
        self._cpu = OnnxRuntimeCpu(proto, n_threads=n_threads)
        self._networks: dict[tuple[Any, ...], Network] = {}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return `outputs`; what is fed is not computed."""
        return self._or_cpu(
            lambda: self._run(outputs, Part(feeds)),
            partial(self._cpu.run, outputs, feeds),
        )

    def run_parts(
        self, outputs: Sequence[str], parts: Sequence[Part]
    ) -> list[list[Array]]:
        """Return `outputs` of every part."""
        if not self._takes_tiles and any(part.is_tiles for part in parts):
            return self._cpu.run_parts(outputs, parts)
        return self._or_cpu(
            lambda: [self._run(outputs, part) for part in parts],
            partial(self._cpu.run_parts, outputs, parts),
        )

    def _or_cpu(
        self, split: Callable[[], _Result], whole: Callable[[], _Result]
    ) -> _Result:
        """Return what `split` does; what `whole` does once that has failed."""
        if self.name == self._cpu.name:
            return whole()
        try:
            return split()
        except Exception:  # a driver's, of any class
            logger.warning("engine = %r failed; using 'cpu'.", self.name, exc_info=True)
        self.name, self.n_strips = self._cpu.name, self._cpu.n_strips
        self.n_parallel = self._cpu.n_parallel
        self._networks.clear()
        return whole()

    def _run(self, outputs: Sequence[str], part: Part) -> list[Array]:
        feeds = part.feeds
        pixels = feeds.get("pixels")
        pixel_type = None if pixels is None else pixels.dtype
        key = (tuple(feeds), pixel_type, part.opening, part.fits)
        if key not in self._networks:
            model = cut_for(self._proto, part, NET)
            set_pixel_type(model, pixel_type)
            self._networks[key] = self._compile(model, self._n_threads)
        values = dict(zip(NET, self._networks[key](feeds), strict=True))
        # Not through the CPU's session: some versions return what they were fed as a
        # view of memory that nobody holds.
        missing = [name for name in outputs if name not in values]
        if missing:
            used = ("pixels", *SURROUND)
            given = {k: v for k, v in feeds.items() if k not in used}
            found = self._cpu.run(missing, {**values, **given})
            values.update(zip(missing, found, strict=True))
        return [values[name] for name in outputs]


def available() -> list[str]:
    """Return the engines that are installed here, `cpu` first."""
    has_openvino = importlib.util.find_spec("openvino") is not None
    providers = set(onnxruntime.get_available_providers())
    gpus = [name for name, gpu in _GPUS.items() if gpu.provider in providers]
    return ["cpu", *["openvino"] * has_openvino, *gpus]


def candidates() -> list[str]:
    """Return the engines among which "auto" chooses.

    TensorRT takes seconds to minutes for a new shape of frame or tiles, each time: who
    wants it says so.
    """
    return [name for name in available() if name != "tensorrt"]


def preload() -> None:
    """Import what the candidates need: better before the first frame than beside it.

    It holds the interpreter for a tenth of a second.
    """
    if "openvino" in candidates():
        from lodestar_live.detection.engines.openvino import import_openvino

        import_openvino()


def open_engine(name: str, proto: onnx.ModelProto, *, n_threads: int) -> Engine:
    """Return an engine by name; `cpu`, with a warning, if it is not installed.

    Raises
    ------
    ModelError
        There is no engine of that name.
    """
    known = ["cpu", "openvino", *_GPUS]
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
    # What a machine does not have is not imported either.
    if name == "openvino":
        from lodestar_live.detection.engines.openvino import OpenVino

        return SplitEngine(
            name, proto, OpenVino, n_threads=n_threads, takes_tiles=False
        )
    from lodestar_live.detection.engines.gpu import PROVIDERS, GpuNetworks

    onnxruntime.preload_dlls()  # finds CUDA where pip, e.g. torch's, has put it
    provider, is_half = _GPUS[name]
    networks = GpuNetworks(PROVIDERS[provider], is_half=is_half)
    return SplitEngine(name, proto, networks, n_threads=n_threads)
