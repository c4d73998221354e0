"""What the image processor costs the acquisition, on the real MMCore.

Interleaved in one run: the same acquisition without any processor, with an empty one,
and with `LiveTracker` and a really trained model behind it, as the last reader of the
frames and as one that hands them on.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.bench._bead_model import train_on_beads
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import acquire_sequence, open_demo
from lodestar_live.settings import Settings, parse_settings

_SIDE_PX = 512
_EXPOSURE_MS = 5.0
_WAYS = {"LiveTracker": False, "LiveTracker, frame handed on": True}


def run(
    *, quick: bool = False, seed: int = 0, model: Path | None = None
) -> BenchReport:
    """Measure hook time and acquisition rate with and without the tracker."""
    n_frames, n_rounds = (60, 2) if quick else (400, 5)
    with tempfile.TemporaryDirectory() as folder, open_demo(_SIDE_PX) as microscope:
        microscope.core.set_exposure(_EXPOSURE_MS)
        if model is None:
            snapshot = microscope.snap()
            model = train_on_beads(snapshot, Path(folder), seed=seed, quick=quick)
        settings = _settings(model, Path(folder))
        rates: dict[str, list[float]] = defaultdict(list)
        hook_us: dict[str, list[float]] = defaultdict(list)
        for _ in range(n_rounds):
            rates["none"].append(_rate(n_frames, None))
            rates["empty"].append(_rate(n_frames, lambda image, metadata: None))
            for name, hands_on in _WAYS.items():
                live = settings.live.model_copy(update={"hand_on_frames": hands_on})
                tracker = LiveTracker(
                    settings.model_copy(update={"live": live}), microscope=microscope
                )
                with tracker:
                    hook = _timed(tracker, hook_us[name])
                    rates[name].append(_rate(n_frames, hook))
        share = tracker.counts.processed / tracker.counts.received
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    return _report(medians, hook_us, share, quick=quick)


def _settings(model: Path, folder: Path) -> Settings:
    return parse_settings(
        {
            "detection": {"model": str(model)},
            "recording": {"folder": str(folder)},
            "streams": {"stream": "tcp://127.0.0.1:0", "latest": "tcp://127.0.0.1:0"},
        }
    )


def _timed(tracker: LiveTracker, hook_us: list[float]) -> Callable[[Any, Any], Any]:
    def hook(image: Any, metadata: Any) -> Any:
        start = time.perf_counter()
        tracker(image, metadata)
        hook_us.append((time.perf_counter() - start) * 1e6)
        return None  # handed on or not, nothing is stored

    return hook


def _rate(n_frames: int, processor: Callable[[Any, Any], Any] | None) -> float:
    """Acquire one hardware sequence; return frames per second."""
    start = time.perf_counter()
    acquire_sequence(n_frames, processor)
    return n_frames / (time.perf_counter() - start)


def _report(
    medians: dict[str, float],
    hook_us: dict[str, list[float]],
    share: float,
    *,
    quick: bool,
) -> BenchReport:
    rows = [[name, rate, rate / medians["none"]] for name, rate in medians.items()]
    calls = [
        [name, *(float(q) for q in np.percentile(times, (50, 95, 99))), len(times)]
        for name, times in hook_us.items()
    ]
    return BenchReport(
        "hook",
        tables=[
            Table(
                f"Acquisition, {_SIDE_PX}x{_SIDE_PX} 16 bit, {_EXPOSURE_MS:g} ms, "
                "one hardware sequence",
                ["processor", "frames/s", "of none"],
                rows,
            ),
            Table(
                "One call; a frame that is handed on is copied, as it may be changed",
                ["processor", "p50 us", "p95 us", "p99 us", "calls"],
                calls,
            ),
        ],
        notes=[
            f"{share:.0%} of the frames of the last round were processed, the others "
            "dropped by policy and counted.",
            *(["quick run: a smoke test, not a measurement"] if quick else []),
        ],
    )
