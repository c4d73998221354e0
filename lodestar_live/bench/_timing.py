"""Fair timing on a shared machine, and what the machine can do at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import TensorProto, helper

from lodestar_live.bench.report import Table
from lodestar_live.detection.engines.cpu import physical_cores, session_options

_PAUSE_S = 0.03
_SETTLE_S = 0.06
_SIDE = 1024
_COPIED_BYTES = 64 * 2**20


class Times(NamedTuple):
    """Milliseconds of each timed run.

    `cpu_ms` adds up all threads of this process: on a machine that others use as
    well, it is what the work costs, while `wall_ms` includes waiting for a core.
    """

    wall_ms: npt.NDArray[np.float64]
    cpu_ms: npt.NDArray[np.float64]

    @property
    def p50_ms(self) -> float:
        """Median wall time."""
        return float(np.median(self.wall_ms))

    @property
    def p99_ms(self) -> float:
        """99th percentile of the wall time."""
        return float(np.quantile(self.wall_ms, 0.99))

    @property
    def p50_cpu_ms(self) -> float:
        """Median processor time, all threads."""
        return float(np.median(self.cpu_ms))


def time_in_blocks(
    candidates: Mapping[str, Callable[[], object]], *, blocks: int = 5, runs: int = 5
) -> dict[str, Times]:
    """Time candidates in turns, so that a busy moment hits all of them.

    Each block pauses (thread pools of other libraries spin after a run and would
    slow the next candidate), runs untimed for a moment, then `runs` times. The moment:
    a virtual machine's core that idled is not woken for a second thread at once.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(blocks):
        for name, call in candidates.items():
            time.sleep(_PAUSE_S)
            settled = time.perf_counter() + _SETTLE_S
            call()
            while time.perf_counter() < settled:
                call()
            for _ in range(runs):
                start, start_cpu = time.perf_counter(), time.process_time()
                call()
                wall, cpu = time.perf_counter(), time.process_time()
                times[name].append(((wall - start) * 1e3, (cpu - start_cpu) * 1e3))
    return {name: Times(*np.array(values).T) for name, values in times.items()}


def measure_peak(n_threads: int, *, blocks: int) -> dict[str, float]:
    """Return the best GFLOP/s of float32 kernels here: the machine's practical peak.

    A matrix product and a convolution in ONNX Runtime with `n_threads`, best of many
    runs. It is a lower bound of what the silicon can do, and what libraries reach.
    """
    rng = np.random.default_rng(0)
    square = rng.random((_SIDE, _SIDE), np.float32)
    image = rng.random((1, 64, 128, 128), np.float32)
    product = _session("MatMul", [_SIDE, _SIDE], [_SIDE, _SIDE], n_threads)
    convolution = _session("Conv", [1, 64, 128, 128], [64, 64, 3, 3], n_threads)
    work = {
        "matrix product": (product, square, square, 2.0 * _SIDE**3),
        "convolution": (
            convolution,
            image,
            rng.random((64, 64, 3, 3), np.float32),
            2.0 * 126**2 * 64 * 64 * 9,
        ),
    }
    best = {}
    for name, (session, a, b, flop) in work.items():
        feeds = {"a": a, "b": b}
        call = partial(session.run, None, feeds)
        times = time_in_blocks({name: call}, blocks=blocks)
        best[name] = flop / times[name].wall_ms.min() / 1e6
    return best


def measure_copy(n_threads: int, *, blocks: int) -> float:
    """Return the best GB/s at which memory is copied here, read and written bytes both.

    Each thread copies 64 MB of its own, which no cache holds.
    """
    sources = [np.ones(_COPIED_BYTES, np.uint8) for _ in range(n_threads)]
    targets = [np.empty_like(source) for source in sources]
    with ThreadPoolExecutor(n_threads) as pool:
        times = time_in_blocks(
            {"copy": lambda: list(pool.map(np.copyto, targets, sources))},
            blocks=blocks,
        )
    best_ms = float(times["copy"].wall_ms.min())
    return 2 * n_threads * _COPIED_BYTES / best_ms / 1e6


def peak_table(all_threads: dict[str, float], *, blocks: int) -> Table:
    """Return what this machine can do at best, with one thread and with all."""
    one, n_threads = measure_peak(1, blocks=blocks), physical_cores()
    rows = [[f"{name}, GFLOP/s", one[name], all_threads[name]] for name in one]
    copies = [measure_copy(n, blocks=blocks) for n in (1, n_threads)]
    rows.append(["memory copied, GB/s", *copies])
    return Table(
        "Peak of this machine: float32 in ONNX Runtime, and memory (best run)",
        ["kernel", "1 thread", f"{n_threads} threads"],
        rows,
    )


def resident_mb() -> float:
    """Return the resident memory of this process, MB; NaN where /proc is missing."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return float("nan")
    return int(pages) * 4096 / 1e6


def _session(
    op: str, a: list[int], b: list[int], n_threads: int
) -> onnxruntime.InferenceSession:
    real = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "peak",
        [
            helper.make_tensor_value_info("a", real, a),
            helper.make_tensor_value_info("b", real, b),
        ],
        [helper.make_tensor_value_info("c", real, None)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        session_options(n_threads),
        providers=["CPUExecutionProvider"],
    )
