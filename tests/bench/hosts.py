"""Rates of each source with the tracker, beside the same source without it.

Interleaved, plain first: the machine's other work hits both alike. The detector finds
nothing at once, so that what is measured is what the tracker costs its host. The Java
rows run on the stand-in (`tests.microscope.stand_in`), its bridge included.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Detections
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import (
    AcquisitionSource,
    Microscope,
    WatchSource,
    acquire,
    open_demo,
    open_microscope,
)
from lodestar_live.settings import AcquisitionSettings, MicroscopeSettings, Settings
from tests.microscope.stand_in import Running

_EXPOSURE_MS = 20.0


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Measure every source at several frame sizes; nothing is drawn from `seed`."""
    n_frames, n_rounds = (60, 1) if quick else (300, 3)
    sizes = (256,) if quick else (512, 1024, 2048)
    report = BenchReport("hosts", notes=[str(__doc__).replace("\n", " ")])
    rates = Table(
        f"Frames per second at {_EXPOSURE_MS:g} ms",
        ["host", "px", "plain", "tracker", "ratio", "processed", "p50 ms", "p99 ms"],
    )
    for size_px in sizes:
        for name, sequence in (("snaps", False), ("sequence", True)):
            settings = AcquisitionSettings(
                n_frames=n_frames, exposure_ms=_EXPOSURE_MS, sequence=sequence
            )
            for host, hold in (("Python", _python), ("Java stand-in", _java)):
                with hold(size_px) as microscope:
                    rounds = [_compare(microscope, settings) for _ in range(n_rounds)]
                rates.rows.append([f"{host}, {name}", size_px, *_medians(rounds)])
    watching = Table("Watching Live", ["px", "camera", "seen", "share", "age p50 ms"])
    for size_px in sizes:
        watching.rows.append([size_px, *_watch(size_px, 2.0 if quick else 6.0)])
    report.tables = [rates, watching]
    return report


def _nothing(pixels: Any) -> Detections:
    return Detections.empty()


@contextmanager
def _python(size_px: int) -> Iterator[Microscope]:
    with open_demo(size_px, _EXPOSURE_MS) as microscope:
        microscope.core.set_property("Camera", "FastImage", "1")
        yield microscope


@contextmanager
def _java(size_px: int) -> Iterator[Microscope]:
    with Running(size_px=size_px, exposure_ms=_EXPOSURE_MS) as running:
        running.core("setProperty", "Camera", "FastImage", "1")
        settings = MicroscopeSettings(port=running.port)
        with open_microscope(settings) as microscope:
            yield microscope


def _compare(microscope: Microscope, settings: AcquisitionSettings) -> list[float]:
    plain = _rate(
        lambda note: acquire(
            microscope, lambda image, tags: note(), settings, stop=threading.Event()
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        live = {"mode": "latest", "hand_on_frames": False}
        tracker = LiveTracker(
            Settings(
                recording={"folder": folder}, streams={"enabled": False}, live=live
            ),
            microscope=microscope,
            detect=_nothing,
        )
        with tracker:
            rate = _rate(lambda note: _deliver(microscope, settings, tracker, note))
        summary = tracker.summary()
    counts, latency = summary.counts, summary.latencies["latency"]
    share = counts.processed / counts.received
    return [plain, rate, rate / plain, share, latency.p50_ms, latency.p99_ms]


def _deliver(microscope, settings, tracker: LiveTracker, note) -> None:
    from dataclasses import replace

    reception = tracker.reception(threading.Event())

    def take(frame) -> None:
        note()
        reception.take(frame)

    AcquisitionSource(microscope, settings).deliver(replace(reception, take=take))


def _rate(go: Callable[[Callable[[], None]], None]) -> float:
    """Return frames per second between the first and the last."""
    times_s: list[float] = []
    go(lambda: times_s.append(time.perf_counter()))
    return (len(times_s) - 1) / (times_s[-1] - times_s[0])


def _medians(rounds: list[list[float]]) -> list[str]:
    digits = (1, 1, 3, 3, 1, 1)
    values = np.median(np.array(rounds), axis=0)
    return [f"{v:.{d}f}" for v, d in zip(values, digits, strict=True)]


def _watch(size_px: int, seconds: float) -> list[str]:
    from lodestar_live.sources import Reception

    frames: list[Any] = []
    start_s = time.perf_counter()
    stop = threading.Event()
    with Running(size_px=size_px, exposure_ms=_EXPOSURE_MS) as running:
        running.core("setProperty", "Camera", "FastImage", "1")
        running.do("live", True)
        settings = MicroscopeSettings(port=running.port)
        with open_microscope(settings) as microscope:
            source = WatchSource(microscope)
            source.open()
            threading.Timer(seconds, stop.set).start()
            source.deliver(
                Reception(
                    take=frames.append,
                    refuse=lambda error, t_s: None,
                    clock=lambda: time.perf_counter() - start_s,
                    stop=stop,
                )
            )
            source.close()
    numbers = [f.source_number for f in frames]
    span_s = frames[-1].t_arrival_s - frames[0].t_arrival_s
    n_camera = numbers[-1] - numbers[0]
    ages_ms = [
        (f.t_arrival_s - f.t_exposure_s) * 1e3 - _EXPOSURE_MS / 2 for f in frames
    ]
    return [
        f"{n_camera / span_s:.1f}",
        f"{(len(frames) - 1) / span_s:.1f}",
        f"{(len(frames) - 1) / n_camera:.3f}",
        f"{np.median(ages_ms):.1f}",
    ]
