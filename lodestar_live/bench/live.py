"""The whole live path on the real MMCore: camera to a ZeroMQ subscriber.

The DemoCamera's beads, acquired through pycro-manager without and with tracking. The
model is trained in a process of its own, so that this one never imports torch.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.bench._bead_model import train_on_beads
from lodestar_live.bench._timing import resident_mb
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import Microscope, acquire, open_demo
from lodestar_live.settings import Settings, parse_settings
from lodestar_live.streams import Message, Subscriber

_EXPOSURE_MS = 10.0


def run(
    *, quick: bool = False, seed: int = 0, model: Path | None = None
) -> BenchReport:
    """Measure rate, latency, drops, processor share and memory at several sizes."""
    report = BenchReport("live")
    table = Table(
        f"DemoCamera at {_EXPOSURE_MS:g} ms exposure, latest-frame mode",
        [
            "frame", "fps without", "fps with", "share", "share, 2nd half",
            "tracked fps", "dropped",
            "latency p50 ms", "p99", "p99.9", "detect p50 ms", "CPU share of a core",
            "resident MB", "growth MB", "tracks",
        ],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            with open_demo(exposure_ms=_EXPOSURE_MS) as microscope:
                snapshot = microscope.snap()
            model = train_on_beads(snapshot, Path(folder), seed=seed, quick=quick)
        for side in (512,) if quick else (512, 1024, 2048):
            n_frames = 40 if quick else 400
            row = _measure(side, n_frames, model, Path(folder))
            table.rows.append(row)
    report.tables = [table]
    report.notes = [
        "Latency: from the frame's arrival in the hook to the `tracks` message in a "
        "subscriber in the same process, every processed frame.",
        "`share`: acquisition rate with tracking over the rate with a hook that only "
        "counts. The DemoCamera draws its images on the same cores. In the first half "
        "the engines are tried beside the run.",
        "Nothing is stored by pycro-manager; recording and streaming are on.",
        f"torch imported: {'torch' in sys.modules}.",
    ]
    return report


def _measure(side: int, n_frames: int, model: Path, folder: Path) -> list[Any]:
    """Return one row of the table."""
    with open_demo(side, exposure_ms=_EXPOSURE_MS) as microscope:
        settings = _settings(n_frames, model, folder)
        fps_without = _rate_without(microscope, settings)
        return [side, fps_without, *_track(microscope, settings, fps_without)]


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


def _track(microscope: Microscope, settings: Settings, fps_without: float) -> list[Any]:
    arrivals: list[float] = []
    latencies_ms: list[float] = []
    tracker = LiveTracker(settings, microscope=microscope)

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
