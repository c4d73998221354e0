"""One run of the whole loop on small frames; ``python _khz_child.py JSON`` prints JSON.

Run by path, so that it measures whatever checkout ``PYTHONPATH`` names: the interleaved
comparison of `khz` with an older one depends on nothing else.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = list[npt.NDArray[np.uint16]]
_DISTINCT = 60  # frames, shown to and fro
_WARM = 200
_AHEAD = 8  # frames in flight, of a checkout without inline processing


def particles(side_px: int, n: int, n_frames: int, seed: int) -> Frames:
    """Return frames of `n` Gaussian particles that wander about their places."""
    rng = np.random.default_rng(seed)
    across = int(np.ceil(np.sqrt(n)))
    places = np.indices((across, across)).reshape(2, -1).T[:n]
    home = (places + 0.5) * side_px / across
    y, x = np.ogrid[:side_px, :side_px]
    at, frames = home, []
    for _ in range(n_frames):
        at = np.clip(at + rng.normal(0, 0.3, at.shape), home - 5, home + 5)
        image = np.full((side_px, side_px), 20.0)
        for cy, cx in at:
            image += 100 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 12.5)
        frames.append(rng.poisson(image).astype(np.uint16))
    return frames


def run(
    model: str, side_px: int, n: int, n_frames: int, seed: int, *, subscribed: bool
) -> dict[str, Any]:
    """Track `n_frames` frames from memory, recorded and streamed."""
    from lodestar_live import LiveTracker, Subscriber
    from lodestar_live.settings import parse_settings

    frames = particles(side_px, n, _DISTINCT, seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = parse_settings(
            {
                "live": {"mode": "every", "hand_on_frames": False},
                "detection": {"model": model, "engine": "cpu"},
                "streams": {
                    "stream": "tcp://127.0.0.1:0",
                    "latest": "tcp://127.0.0.1:0",
                },
                "recording": {"folder": folder},
            }
        )
        with LiveTracker(settings) as tracker:
            received: list[int] = []
            if subscribed:
                reader = Subscriber(tracker.endpoints["stream"], topics=("tracks",))
                reader.call(lambda message: received.append(message.frame))
                time.sleep(0.3)
            facts = _measure(tracker, frames, n_frames)
    return facts | {"received": len(received)}


def _measure(tracker: Any, frames: Frames, n_frames: int) -> dict[str, Any]:
    from lodestar_live.data import Frame

    try:
        reception, waits = tracker.reception(threading.Event(), waits=True), True
    except TypeError:  # before 0.2
        reception, waits = tracker.reception(threading.Event()), False
    memory_mb: list[float] = []
    begin_s = cpu_s = 0.0
    for k in range(_WARM + n_frames):
        if k == _WARM:
            begin_s, cpu_s = time.perf_counter(), time.process_time()
        if k % 1000 == 0:
            memory_mb.append(_resident_mb())
        there, place = divmod(k, _DISTINCT)
        now_s = reception.clock()
        pixels = frames[place if there % 2 == 0 else _DISTINCT - 1 - place]
        frame = Frame(
            -1, pixels, now_s, now_s, exposure_ms=0.4, camera="memory", source_number=k
        )
        reception.take(frame)
        if not waits:
            tracker.wait_for_room(_AHEAD)
    while tracker.counts.in_flight:
        time.sleep(1e-4)
    spent_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    summary = tracker.summary()
    counts = summary.counts
    return {
        "fps": n_frames / spent_s,
        "cpu_us": 1e6 * cpu_s / n_frames,
        "steps_us": {
            name: [1e3 * step.p50_ms, 1e3 * step.p99_ms]
            for name, step in summary.latencies.items()
        },
        "processed": counts.processed - _WARM,
        "not_processed": counts.received - counts.processed,
        "frames_lost": summary.frames_lost,
        "tracks": summary.n_tracks,
        "memory_mb": memory_mb,
        "imports_torch": "torch" in sys.modules,
    }


def _resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
