"""The whole live path on the real MMCore: camera to a ZeroMQ subscriber.

The DemoCamera's beads, acquired through pycro-manager without and with tracking: by our
detector, and by trackpy's or deeplay's in its place. Every measurement runs in a
process of its own, as does the training, so that memory is that of a live process
without torch.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.bench._bead_model import train_on_beads
from lodestar_live.bench._deeplay import Deeplay, is_named, open_deeplay
from lodestar_live.bench._timing import measure_peak, peak_table, resident_mb
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Detections, Pixels
from lodestar_live.detection.engines.cpu import physical_cores
from lodestar_live.detection.model.model_file import read_model
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import Microscope, acquire, open_demo
from lodestar_live.settings import Settings, parse_settings
from lodestar_live.streams import Message, Subscriber

_OURS = "lodestar-live"
_EXPOSURE_MS = 10.0
_BEAD_PX = 7  # trackpy's diameter
_CROP_PX, _THEIR_STEPS = 33, 200  # deeplay's training, which only has to find beads


def run(
    *, quick: bool = False, seed: int = 0, model: Path | None = None
) -> BenchReport:
    """Measure rate, latency, drops, processor share and memory at several sizes."""
    report = BenchReport("live")
    table = Table(
        f"DemoCamera at {_EXPOSURE_MS:g} ms exposure, latest-frame mode",
        [
            "frame", "detector", "fps without", "fps with", "share", "share, 2nd half",
            "tracked fps", "dropped", "latency p50 ms", "p99", "p99.9",
            "detect p50 ms", "floor ms", "CPU share of a core", "resident MB",
            "growth MB", "tracks",
        ],
    )  # fmt: skip
    blocks = 1 if quick else 4
    peak = measure_peak(physical_cores(), blocks=blocks)
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            with open_demo(exposure_ms=_EXPOSURE_MS) as microscope:
                snapshot = microscope.snap()
            model = train_on_beads(snapshot, Path(folder), seed=seed, quick=quick)
        flop_per_px = read_model(model).card.flop_per_px or float("nan")
        n_frames = 40 if quick else 400
        for side in (512,) if quick else (512, 1024, 2048):
            floor_ms = flop_per_px * side**2 / max(peak.values()) / 1e6
            for name in _detectors():
                with _fresh_process() as process:
                    job = process.submit(
                        _measure, side, n_frames, model, Path(folder), name
                    )
                    row = job.result()
                floor = floor_ms if name == _OURS else None
                row.insert(table.columns.index("floor ms"), floor)
                table.rows.append(row)
    report.tables = [table, peak_table(peak, blocks=blocks)]
    report.notes = [
        "Latency: from the frame's arrival in the hook to the `tracks` message in a "
        "subscriber in the same process, every processed frame.",
        "`share`: acquisition rate with tracking over the rate with a hook that only "
        "counts. The DemoCamera draws its images on the same cores. In the first half "
        "the engines are tried beside the run.",
        "`floor`: the network's multiplications and additions at the best float32 rate "
        "of the second table, on an idle machine.",
        f"`trackpy`: `locate` (numba, diameter {_BEAD_PX}) as the detector of the same "
        "live loop. `deeplay`, if LODESTAR_DEEPLAY names its interpreter: likewise, "
        "in a process of its own, whose share of a core is not in the table.",
        "Nothing is stored by pycro-manager; recording and streaming are on. No "
        "process that tracks imports torch.",
    ]
    return report


def _detectors() -> list[str]:
    return [_OURS, "trackpy", *(["deeplay"] if is_named() else [])]


def _fresh_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _measure(
    side: int, n_frames: int, model: Path, folder: Path, detector: str
) -> list[Any]:
    """Return one row of the table, but for the floor."""
    with ExitStack() as stack:
        microscope = stack.enter_context(open_demo(side, exposure_ms=_EXPOSURE_MS))
        settings = _settings(n_frames, model, folder)
        fps_without = _rate_without(microscope, settings)
        detect: Callable[[Pixels], Detections] | None = None
        if detector == "trackpy":
            detect = _trackpy
            warnings.simplefilter("ignore")  # pandas deprecations inside
            detect(microscope.snap())  # compiles
        elif detector == "deeplay":
            peer = stack.enter_context(open_deeplay())
            detect = _deeplay(peer, microscope.snap())
        row = _track(microscope, settings, fps_without, detect)
    if "torch" in sys.modules:
        raise RuntimeError("the live process has imported torch.")
    return [side, detector, fps_without, *row]


def _trackpy(pixels: Pixels) -> Detections:
    import trackpy

    trackpy.quiet()
    found = trackpy.locate(pixels, _BEAD_PX, engine="numba", characterize=False)
    return Detections.from_positions(np.asarray(found[["y", "x"]], dtype=float))


def _deeplay(peer: Deeplay, snapshot: Pixels) -> Callable[[Pixels], Detections]:
    """Train deeplay on the brightest bead of a frame; return its detector."""
    half = _CROP_PX // 2
    inner = snapshot[half:-half, half:-half]
    top, left = np.unravel_index(np.argmax(inner), inner.shape)
    crop = snapshot[top : top + _CROP_PX, left : left + _CROP_PX]
    peer.ask("train", crop.astype(np.float32), steps=_THEIR_STEPS, seed=0)
    peer.find(snapshot)  # its threads wake up
    return lambda pixels: Detections.from_positions(peer.find(pixels))


def _settings(n_frames: int, model: Path, folder: Path) -> Settings:
    return parse_settings(
        {
            "acquisition": {"n_frames": n_frames},
            "live": {"hand_on_frames": False},
            "detection": {"model": str(model)},
            "streams": {"stream": "tcp://127.0.0.1:*", "latest": "tcp://127.0.0.1:*"},
            "recording": {"folder": str(folder / "runs")},
        }
    )


def _rate_without(microscope: Microscope, settings: Settings) -> float:
    """Frames per second into a hook that only counts."""
    arrivals: list[float] = []

    def count(image: Any, metadata: Any) -> None:
        arrivals.append(time.perf_counter())

    _acquire(microscope, settings, count)
    return _rate(arrivals)


def _track(
    microscope: Microscope,
    settings: Settings,
    fps_without: float,
    detect: Callable[[Pixels], Detections] | None,
) -> list[Any]:
    arrivals: list[float] = []
    latencies_ms: list[float] = []
    tracker = LiveTracker(settings, microscope=microscope, detect=detect)

    def take(image: Any, metadata: Any) -> Any:
        arrivals.append(time.perf_counter())
        return tracker(image, metadata)

    def receive(message: Message) -> None:
        arrived_s = message.header["t_arrival_s"]
        latencies_ms.append((tracker.clock() - arrived_s) * 1e3)

    with tracker:
        stream = tracker.endpoints["stream"]
        with Subscriber(stream, topics=("tracks",)) as subscriber:
            subscriber.call(receive)
            before_mb, cpu, start = resident_mb(), time.process_time(), time.time()
            _acquire(microscope, settings, take)
            share = (time.process_time() - cpu) / (time.time() - start)
            after_mb = resident_mb()
            while tracker.counts.in_flight:
                time.sleep(0.001)
            summary = tracker.summary()
    fps = _rate(arrivals)
    counts = summary.counts
    later = _rate(arrivals[len(arrivals) // 2 :])
    return [
        fps, fps / fps_without, later / fps_without,
        fps * counts.processed / max(counts.received, 1),
        counts.dropped, *np.quantile(latencies_ms or [np.nan], [0.5, 0.99, 0.999]),
        summary.latencies["detect"].p50_ms, share, after_mb, after_mb - before_mb,
        summary.n_tracks,
    ]  # fmt: skip


def _acquire(
    microscope: Microscope,
    settings: Settings,
    processor: Callable[[Any, Any], Any],
) -> None:
    acquire(
        microscope,
        processor,
        settings.acquisition,
        stop=threading.Event(),
    )


def _rate(arrivals_s: list[float]) -> float:
    """Frames per second, start-up left out."""
    if len(arrivals_s) < 12:
        return float("nan")
    return (len(arrivals_s) - 11) / (arrivals_s[-1] - arrivals_s[10])
