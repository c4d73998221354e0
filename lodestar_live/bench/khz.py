"""One particle in a small frame: how many loops a second, and where the time goes.

Frames come from memory, through detection and linking to the recorded and streamed
track, each run in a process of its own. With ``LODESTAR_BASELINE`` naming another
checkout of lodestar-live, that one takes turns with this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.bench import _khz_child as child
from lodestar_live.bench._bead_model import train_on_beads
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Frame, Pixels
from lodestar_live.detection import Detector
from lodestar_live.detection.engines.cpu import OnnxRuntimeCpu, Part
from lodestar_live.detection.frame.prepare import take_in
from lodestar_live.linking import Linker
from lodestar_live.pipeline.series import SeriesLink

_BASELINE = "LODESTAR_BASELINE"
_SCENES = ((64, 1), (128, 1), (128, 26), (256, 5), (512, 30))
_PROFILED = ((64, 1), (128, 1), (256, 5), (512, 30), (1024, 30), (2048, 30))


def run(
    *, quick: bool = False, seed: int = 0, model: Path | None = None
) -> BenchReport:
    """Measure rates and latencies of the loop, a long trace, and each step's cost."""
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            crop = child.particles(48, 1, 1, seed)[0]
            model = train_on_beads(crop, Path(folder), seed=seed, quick=quick)
        model = model.resolve()
        tables = [
            _rates(model, quick=quick, seed=seed),
            _profile(model, quick=quick, seed=seed),
            _trace(model, quick=quick, seed=seed),
        ]
    return BenchReport("khz", tables=tables, notes=_NOTES)


def _rates(model: Path, *, quick: bool, seed: int) -> Table:
    """Return the loop's rate for each scene, of this checkout and of any baseline."""
    here = Path(__file__).resolve().parents[2]
    checkouts = {"this": here}
    if os.environ.get(_BASELINE):
        checkouts = {"baseline": Path(os.environ[_BASELINE]), "this": here}
    scenes, rounds = (_SCENES[:1], 1) if quick else (_SCENES, 3)
    table = Table(
        f"The whole loop, recorded and streamed; median (best) of {rounds} runs",
        [
            "frame", "particles", "subscribed", "checkout", "frames/s", "best",
            "x baseline", "latency p50 us", "p99", "detect p50 us", "link p50 us",
            "CPU us per frame", "not processed",
        ],
    )  # fmt: skip
    for (side, n), subscribed in [*((s, False) for s in scenes), (scenes[0], True)]:
        n_frames = 100 if quick else 2000 if side < 256 else 300
        job = {
            "model": str(model), "side_px": side, "n": n, "n_frames": n_frames,
            "seed": seed, "subscribed": subscribed,
        }  # fmt: skip
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
        for _ in range(rounds):
            for name, root in checkouts.items():
                runs[name].append(_in_process(job, root))
        first = float(np.median([r["fps"] for r in next(iter(runs.values()))]))
        for name, results in runs.items():
            fps = [result["fps"] for result in results]
            steps = {
                key: np.median([r["steps_us"][key] for r in results], axis=0)
                for key in ("latency", "detect", "link")
            }
            table.rows.append(
                [
                    side, n, "yes" if subscribed else "no", name,
                    float(np.median(fps)), max(fps), float(np.median(fps)) / first,
                    *map(float, steps["latency"]), float(steps["detect"][0]),
                    float(steps["link"][0]),
                    float(np.median([r["cpu_us"] for r in results])),
                    sum(r["not_processed"] for r in results),
                ]
            )  # fmt: skip
    return table


def _in_process(job: dict[str, Any], root: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run(  # noqa: S603 - our own file
        [sys.executable, str(Path(child.__file__)), json.dumps(job)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=root,
    )
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts


def _trace(model: Path, *, quick: bool, seed: int) -> Table:
    """Track many frames in one run; return what was lost and how memory grew."""
    n_frames = 2000 if quick else 110_000
    job = {
        "model": str(model), "side_px": 64, "n": 1, "n_frames": n_frames,
        "seed": seed, "subscribed": False,
    }  # fmt: skip
    facts = _in_process(job, Path(__file__).resolve().parents[2])
    memory = np.array(facts["memory_mb"])
    third = max(1, len(memory) // 3)
    growth = float(np.median(memory[-third:]) - np.median(memory[third : 2 * third]))
    return Table(
        "One long run, 64 px, one particle",
        [
            "frames", "frames/s", "not processed", "not recorded", "tracks",
            "latency p50 us", "p99", "peak RSS MiB", "growth, last third MiB",
        ],
        [
            [
                facts["processed"], facts["fps"], facts["not_processed"],
                facts["frames_lost"], facts["tracks"], *facts["steps_us"]["latency"],
                float(memory.max()), growth,
            ]
        ],
    )  # fmt: skip


def _profile(model: Path, *, quick: bool, seed: int) -> Table:
    """Return where the time of a frame goes, step by step, at several sizes."""
    table = Table(
        "Where a frame's time goes, us (median; each step alone, one after the other)",
        [
            "frame", "particles", "hot pixels", "levels", "graph as called",
            "graph alone", "post-processing", "detect, sum", "detect, called", "link",
            "link in the sample's frame",
        ],
    )  # fmt: skip
    for side, n in _PROFILED[:1] if quick else _PROFILED:
        frames = child.particles(side, n, 8, seed)
        table.rows.append([side, n, *_steps(Detector(model, engine="cpu"), frames)])
    return table


def _steps(detector: Detector, frames: list[Pixels]) -> list[float]:
    pixels, threshold = frames[0], detector.threshold
    for frame in frames:
        detector(frame)
    intake = take_in(pixels)
    found = detector.passes.everywhere(intake, threshold)
    runs = 400 if pixels.size < 256**2 else 40
    parts = [
        _median_us(lambda: detector._corrected(pixels), runs),  # noqa: SLF001
        _median_us(lambda: take_in(pixels), runs),
        _median_us(lambda: detector.passes.everywhere(intake, threshold), runs),
        _median_us(_bare(detector, pixels), runs),
        _median_us(
            lambda: detector._finish(found.copy(), pixels, intake),  # noqa: SLF001
            runs,
        ),
    ]
    whole = _median_us(lambda: detector(pixels), runs)
    detections = [detector(frame) for frame in frames]
    linker, step = Linker(), SeriesLink(Linker)
    counts = iter(range(10**9))

    def link() -> None:
        k = next(counts)
        linker(detections[k % 8 if k // 8 % 2 == 0 else 7 - k % 8], k)

    def link_in_sample() -> None:
        k = next(counts)
        one = k % 8 if k // 8 % 2 == 0 else 7 - k % 8
        step(detections[one], Frame(k, frames[one], t_exposure_s=k * 1e-3))

    for _ in range(60):
        link()
    alone = _median_us(link, 400)
    for _ in range(60):
        link_in_sample()
    total = sum(parts) - parts[3]
    return [*parts, total, whole, alone, _median_us(link_in_sample, 400)]


def _bare(detector: Detector, pixels: Pixels) -> Callable[[], object]:
    """Return the run of the whole frame's graph, one thread, with all prepared."""
    engine, passes = detector.engine, detector.passes
    assert isinstance(engine, OnnxRuntimeCpu)  # noqa: S101 - narrows the type
    feeds = {
        "pixels": np.ascontiguousarray(pixels)[None, None],
        **passes._numbers(take_in(pixels), detector.threshold),  # noqa: SLF001
    }
    return engine._call(["detections"], Part(feeds), n_threads=1)  # noqa: SLF001


def _median_us(call: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        begin_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin_s)
    return 1e6 * float(np.median(times))


_NOTES = [
    "Frames come from memory: no camera, no stage and no control are in the loop. "
    "Every run is a process of its own; checkouts take turns within each round.",
    "Latency: from the frame's arrival to its publication. `subscribed`: one "
    "subscriber to `tracks` in the same process.",
    "`graph alone`: the session's run with all prepared, the floor of detection here.",
]
