"""Does memory stay flat? A live run on the real MMCore, watched for a minute."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from lodestar_live.bench._bead_model import train_on_beads
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.live.session import run_session
from lodestar_live.microscope import open_demo
from lodestar_live.settings import parse_settings

_MIB = 2**20
_WARM_SHARE = 0.15  # of the run: sessions, queues and pools fill once


def run(
    *, quick: bool = False, seed: int = 0, model: Path | None = None
) -> BenchReport:
    """Track live at 512x512 for 60 s (quick: 8 s) and follow the resident memory."""
    duration_s = 8.0 if quick else 60.0
    stop, samples_mib = threading.Event(), [[0.0, resident_mib()]]
    with tempfile.TemporaryDirectory() as folder, open_demo() as microscope:
        if model is None:
            snapshot = microscope.snap()
            model = train_on_beads(snapshot, Path(folder), seed=seed, quick=quick)
        settings = parse_settings(
            {
                "acquisition": {"exposure_ms": 10.0},
                "detection": {"model": str(model)},
                "recording": {"folder": folder},
                "streams": {
                    "stream": "tcp://127.0.0.1:0",
                    "latest": "tcp://127.0.0.1:0",
                },
            }
        )
        watcher = threading.Thread(
            target=_watch, args=(samples_mib, duration_s, stop), daemon=True
        )
        watcher.start()
        summary = run_session(settings, microscope, stop=stop).summary()
        watcher.join()
    t_s, rss = np.array(samples_mib[1:]).T
    warm = rss[t_s > _WARM_SHARE * duration_s]
    third = max(1, len(warm) // 3)
    growth = float(np.median(warm[-third:]) - np.median(warm[:third]))
    rows = [[duration_s, summary.counts.processed, summary.fps]]
    rows[0] += [float(rss.max()), growth]
    columns = ["seconds", "frames", "frames/s", "peak RSS MiB", "growth MiB"]
    return BenchReport(
        "soak",
        tables=[
            Table(
                "Live run, 512x512, 100 beads, streaming and recording", columns, rows
            )
        ],
        notes=[
            f"torch imported in the live process: {'torch' in sys.modules}",
            "growth: median of the last third less the first, after the warm-up",
        ],
    )


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return float(psutil.Process().memory_info().rss) / _MIB


def _watch(
    samples: list[list[float]], duration_s: float, stop: threading.Event
) -> None:
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < duration_s:
        samples.append([elapsed, resident_mib()])
        time.sleep(0.2)
    stop.set()
