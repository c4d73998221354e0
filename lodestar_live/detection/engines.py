"""Run the model's graph: ONNX Runtime on the CPU is the default and the reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto

from lodestar_live.detection.nodes import cut

Array = npt.NDArray[Any]
_Session = tuple[onnxruntime.InferenceSession, list[str]]
_TYPES = {
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.uint16): TensorProto.UINT16,
    np.dtype(np.float32): TensorProto.FLOAT,
}


def physical_cores() -> int:
    """Return the cores this process may use, hyper-threads counted once."""
    allowed = (
        os.sched_getaffinity(0)
        if hasattr(os, "sched_getaffinity")
        else set(range(os.cpu_count() or 1))
    )
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, len(cores))


def _siblings(cpu: int) -> str:
    path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return str(cpu)


class Engine(Protocol):
    """Computes parts of the model's graph."""

    name: str

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return `outputs`; what is fed is not computed."""


class OnnxRuntimeCpu:
    """The graph, or any part of it, in float32 on the CPU.

    A session is made when a combination of inputs, outputs and pixel type is first
    needed: uint8 and uint16 frames are cast inside the graph, tiles enter behind the
    local normalisation, other engines hand over `features`.
    """

    name = "cpu"

    def __init__(self, proto: onnx.ModelProto, *, n_threads: int) -> None:
        self._proto, self._n_threads = proto, n_threads
        self._sessions: dict[tuple[Any, ...], _Session] = {}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return `outputs`; what is fed is not computed."""
        pixels = feeds.get("pixels")
        key = (tuple(feeds), tuple(outputs), None if pixels is None else pixels.dtype)
        if key not in self._sessions:
            self._sessions[key] = self._session(*key)
        session, names = self._sessions[key]
        results: list[Array] = session.run(
            outputs, {name: feeds[name] for name in names}
        )
        return results

    def _session(
        self,
        feeds: Sequence[str],
        outputs: Sequence[str],
        pixel_type: np.dtype[Any] | None,
    ) -> _Session:
        model = cut(self._proto, feeds, outputs)
        set_pixel_type(model, pixel_type)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(self._n_threads),
            providers=["CPUExecutionProvider"],
        )
        return session, [value.name for value in model.graph.input]


def set_pixel_type(model: onnx.ModelProto, pixel_type: np.dtype[Any] | None) -> None:
    """Let the input `pixels` take uint8, uint16 or float32; the graph casts."""
    for value in model.graph.input:
        if value.name == "pixels" and pixel_type is not None:
            value.type.tensor_type.elem_type = _TYPES[pixel_type]


def session_options(n_threads: int) -> onnxruntime.SessionOptions:
    """Return options for a pool of `n_threads` that sleeps between runs.

    Idle pools spin by default, for some 16 ms after each run: they would take the
    camera's and the other libraries' share of the cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
