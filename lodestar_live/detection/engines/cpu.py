"""Run the model's graph: ONNX Runtime on the CPU is the default and the reference."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto

from lodestar_live.detection.frame.halo import surrounded
from lodestar_live.detection.model.nodes import cut
from lodestar_live.detection.model.valid_sides import CLOSED, Opening, opened, unpadded
from lodestar_live.priority import is_lowered, use_idle_time

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Network = Callable[[Feeds], list[Array]]  # a part's feeds to `NET`
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.25, 16.0  # without helpers after they starved
_PATIENCE, _PATIENCE_S = 1.0, 0.005  # with helpers, in times of the own work, and more
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


class Part(NamedTuple):
    """A part of a frame.

    Parameters
    ----------
    feeds
        What the graph is fed for it.
    opening
        Where the frame goes on around it.
    is_tiles
        Whether it is tiles, of which each frame has others.
    fits
        Whether its pixels are whole cells, so that nothing has to be padded.
    """

    feeds: Mapping[str, Array]
    opening: Opening = CLOSED
    is_tiles: bool = False
    fits: bool = False


class Engine(Protocol):
    """Computes parts of the model's graph.

    Attributes
    ----------
    n_parallel
        How many parts of a frame it computes side by side.
    n_strips
        Into how many a whole frame is best cut.
    """

    name: str
    n_parallel: int
    n_strips: int

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return `outputs`; what is fed is not computed."""

    def run_parts(
        self, outputs: Sequence[str], parts: Sequence[Part]
    ) -> list[list[Array]]:
        """Return `outputs` of every part."""


class OnnxRuntimeCpu:
    """The graph, or any part of it, in float32 on the CPU.

    A session is made when a combination of inputs, outputs and pixel type is first
    needed: uint8 and uint16 frames are cast inside the graph, tiles bring a surround
    for the local normalisation, other engines hand over `features`.

    Parts of a frame run side by side, each on one thread from pixels to positions:
    threads that share every operator wait for each other a hundred times a frame. If
    the calling thread was lowered, its helpers give way to whoever wants their core.
    """

    name = "cpu"

    def __init__(self, proto: onnx.ModelProto, *, n_threads: int) -> None:
        self.n_parallel = self.n_strips = n_threads
        self._proto = proto
        self._sessions: dict[tuple[Any, ...], _Session] = {}
        self._helpers = _Helpers(n_threads)
        self._modest_helpers = _Helpers(n_threads, give_way=True)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Return `outputs`; what is fed is not computed."""
        return self._call(outputs, Part(feeds), self.n_parallel)()

    def run_parts(
        self, outputs: Sequence[str], parts: Sequence[Part]
    ) -> list[list[Array]]:
        """Return `outputs` of every part."""
        calls = [self._call(outputs, part, n_threads=1) for part in parts]
        if len(calls) == 1:
            return [calls[0]()]
        results: list[list[Array]] = [[]] * len(parts)
        waiting = deque(range(len(parts)))

        def work() -> None:
            while waiting:
                try:
                    index = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                results[index] = calls[index]()

        def finish() -> None:
            for index, result in enumerate(results):
                if not result:
                    results[index] = calls[index]()

        helpers = self._modest_helpers if is_lowered() else self._helpers
        helpers.share(work, finish, min(self.n_parallel, len(parts)) - 1)
        return results

    def _call(
        self, outputs: Sequence[str], part: Part, n_threads: int
    ) -> Callable[[], list[Array]]:
        """Return what computes a part; sessions are made here, by one thread."""
        pixels = part.feeds.get("pixels")
        pixel_type = None if pixels is None else pixels.dtype
        key = (
            tuple(part.feeds), tuple(outputs), pixel_type, part.opening, part.fits,
            n_threads,
        )  # fmt: skip
        if key not in self._sessions:
            model = cut_for(self._proto, part, outputs)
            self._sessions[key] = self._session(model, pixel_type, n_threads)
        session, names = self._sessions[key]
        return partial(session.run, outputs, {name: part.feeds[name] for name in names})

    @staticmethod
    def _session(
        model: onnx.ModelProto, pixel_type: np.dtype[Any] | None, n_threads: int
    ) -> _Session:
        set_pixel_type(model, pixel_type)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            session_options(n_threads),
            providers=["CPUExecutionProvider"],
        )
        return session, [value.name for value in model.graph.input]


class _Helpers:
    """Threads that share the work of the calling one.

    Parameters
    ----------
    give_way
        To every other thread of the machine. The caller does not wait for helpers that
        others leave too little; it works alone for a while then, and longer each time.
    """

    def __init__(self, n_threads: int, *, give_way: bool = False) -> None:
        self._gives_way = give_way
        self._alone_until_s, self._pause_s = 0.0, _LEAST_PAUSE_S
        self._pool = ThreadPoolExecutor(
            n_threads,
            thread_name_prefix="detect",
            initializer=use_idle_time if give_way else None,
        )

    def share(
        self, work: Callable[[], None], finish: Callable[[], None], n_helpers: int
    ) -> None:
        """Do `work` here and in `n_helpers` threads; `finish` what those leave."""
        begin_s = time.perf_counter()
        if begin_s < self._alone_until_s:
            n_helpers = 0
        others = [self._pool.submit(work) for _ in range(n_helpers)]
        work()
        took_s = time.perf_counter() - begin_s
        patience_s = _PATIENCE * took_s + _PATIENCE_S if self._gives_way else None
        try:
            for other in others:
                other.result(patience_s)
        except TimeoutError:
            self._alone_until_s = time.perf_counter() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)
            for other in others:
                other.cancel()
            finish()
            return
        if others:
            self._pause_s = max(self._pause_s / 2, _LEAST_PAUSE_S)


def cut_for(
    proto: onnx.ModelProto, part: Part, outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return what computes `outputs` of a part of a frame, of the model's graph."""
    if "surround" in part.feeds:
        proto = surrounded(proto)
    if part.fits:
        proto = unpadded(proto)
    return cut(opened(proto, part.opening), tuple(part.feeds), outputs)


def set_pixel_type(model: onnx.ModelProto, pixel_type: np.dtype[Any] | None) -> None:
    """Let `pixels` and `surround` take uint8, uint16 or float32; the graph casts."""
    for value in model.graph.input:
        if value.name in ("pixels", "surround") and pixel_type is not None:
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
