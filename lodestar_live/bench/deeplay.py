"""Side by side with deeplay's LodeSTAR, which needs a virtual environment of its own.

``LODESTAR_DEEPLAY`` names the interpreter of one (``pip install deeplay==0.1.4``). Both
learn the same images and locate the same test images in one run; detection times are
taken in turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from lodestar_live.bench import _deeplay_child
from lodestar_live.bench._timing import time_in_blocks
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import FloatArray
from lodestar_live.detection import Detector
from lodestar_live.detection.accelerators import candidates
from lodestar_live.errors import SettingsError
from lodestar_live.lodestar import train
from lodestar_live.simulation import shapes

VARIABLE = "LODESTAR_DEEPLAY"
SNRS = (2, 5, 10, 20)
_SIDE_PX, _PITCH_PX, _GATE_PX = 512, 48, 5.0
_THEIRS, _RUNS = "deeplay detect()", 3


class Deeplay:
    """deeplay in a child process."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def ask(self, what: str, array: FloatArray, **more: object) -> dict[str, Any]:
        """Send a request about an array; return the answer."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        assert self._process.stdout is not None  # noqa: S101
        path = self._folder / "array.npy"
        np.save(path, array)
        name = "images" if what == "locate" else "image"
        request = {"do": what, name: str(path), **more}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SettingsError(
                f"{VARIABLE} = {os.environ[VARIABLE]!r}: its interpreter ended while "
                f"asked to {what}; expected one with deeplay 0.1.4 installed."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def open_deeplay() -> Iterator[Deeplay]:
    """Start the interpreter that `LODESTAR_DEEPLAY` names.

    Raises
    ------
    SettingsError
        The variable is not set.
    """
    python = os.environ.get(VARIABLE)
    if not python:
        raise SettingsError(
            f"{VARIABLE} is not set: expected the Python interpreter of a virtual "
            "environment with deeplay (pip install deeplay==0.1.4)."
        )
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(  # noqa: S603 - the user's own interpreter
            [python, "-P", _deeplay_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        yield Deeplay(process, Path(folder))
        if process.stdin is not None:
            process.stdin.close()


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Train, locate and detect with both."""
    names = ("sphere",) if quick else shapes.SHAPES
    steps, n_images = (20, 16) if quick else (1000, 300)
    report = BenchReport("deeplay")
    errors = Table(
        f"Error / Cramér-Rao bound at SNR {' / '.join(map(str, SNRS))}, pooled",
        ["shape", "ours", "deeplay", "training: ours, s", "deeplay, s"],
    )
    with open_deeplay() as peer:
        for name in names:
            errors.rows.append(_shape_row(peer, name, steps, n_images, seed))
        detection = _detection_table(peer, steps, seed, 2 if quick else 10)
    report.tables = [errors, detection]
    report.notes = [
        f"deeplay: its default network, {steps} mini-batches of {_deeplay_child.BATCH} "
        "views, Adam 1e-3; one training image per shape (SNR 10), the same for both.",
        "The paper's network has deeplay's layers, and here its mini-batches, too; "
        "openvino computes in bfloat16 where the processor has it.",
        "Its `detect` returns the vote of one cell and has no local average; its "
        "detections are counted inside the frame only, as it leaves 6 px of border.",
    ]
    return report


def _shape_row(
    peer: Deeplay, name: str, steps: int, n_images: int, seed: int
) -> list[object]:
    image = shapes.sample(name, 1, snr=10, seed=seed + 1).images[0]
    start = time.perf_counter()
    model = train(image, seed=seed)
    seconds = time.perf_counter() - start
    detector = Detector(model.to_bytes())
    theirs_s = peer.ask("train", image, steps=steps, seed=seed)["seconds"]
    ours: list[float] = []
    theirs: list[float] = []
    for snr in SNRS:
        truth = shapes.sample(name, n_images, snr=snr, seed=800_000 + snr)
        bound = shapes.cramer_rao_bound_px(name, snr)
        answer = peer.ask("locate", truth.images)["positions_px"]
        for ratios, found in ((ours, detector.locate(truth.images)), (theirs, answer)):
            error = shapes.position_errors_px(name, np.asarray(found), truth)
            ratios.append(shapes.rmse_px(error) / bound)
    return [name, _joined(ours), _joined(theirs), seconds, theirs_s]


def _detection_table(peer: Deeplay, steps: int, seed: int, blocks: int) -> Table:
    """Find spheres of a whole frame with both, in turns."""
    crop = shapes.sample("sphere", 1, snr=10, seed=seed + 1).images[0]
    frame, places = _field(seed)
    ours = {
        "ours": train(crop, seed=seed),
        "ours, paper's network": train(crop, seed=seed, network="paper", steps=steps),
    }
    detectors = {
        name if engine == "cpu" else f"{name}, {engine}": Detector(
            model.to_bytes(), engine=engine
        )
        for name, model in ours.items()
        for engine in candidates()
    }
    calls = {name: partial(detector, frame) for name, detector in detectors.items()}
    peer.ask("train", crop, steps=steps, seed=seed)
    wall_ms: dict[str, list[float]] = {name: [] for name in [*calls, _THEIRS]}
    for _ in range(blocks):
        for name, times in time_in_blocks(calls, blocks=1).items():
            wall_ms[name] += times.wall_ms.tolist()
        answer = peer.ask("detect", frame, repeats=_RUNS)
        wall_ms[_THEIRS] += [1e3 * seconds for seconds in answer["seconds"]]
    found = {name: call().positions_px for name, call in calls.items()}
    found[_THEIRS] = np.array(answer["positions_px"]).reshape(-1, 2)
    median_ms = {name: float(np.median(times)) for name, times in wall_ms.items()}
    rows: list[list[object]] = [
        [name, ms, median_ms[_THEIRS] / ms, *_score(found[name], places)]
        for name, ms in median_ms.items()
    ]
    return Table(
        f"{len(places)} spheres in {_SIDE_PX}x{_SIDE_PX} px, SNR 10, camera pixels to "
        "positions",
        ["detector", "p50 ms", "times deeplay", "found", "false", "rmse px per axis"],
        rows,
    )


def _field(seed: int) -> tuple[FloatArray, FloatArray]:
    """One frame of spheres on a grid, each at its own sub-pixel place, in tiles."""
    n = _SIDE_PX // _PITCH_PX
    sample = shapes.sample("sphere", n * n, snr=10, seed=seed + 700)
    middle = (sample.images.shape[1] - 1) / 2
    frame = np.empty((n * _PITCH_PX, n * _PITCH_PX))
    places = np.empty((n * n, 2))
    for index, (image, centre) in enumerate(
        zip(sample.images, sample.centres_px, strict=True)
    ):
        # cut around the particle, so that it lies well inside its tile
        top, left = np.round(centre - (_PITCH_PX - 1) / 2).astype(int)
        top, left = (
            int(np.clip(c, 0, 2 * middle + 1 - _PITCH_PX)) for c in (top, left)
        )
        row, column = (_PITCH_PX * k for k in divmod(index, n))
        frame[row : row + _PITCH_PX, column : column + _PITCH_PX] = image[
            top : top + _PITCH_PX, left : left + _PITCH_PX
        ]
        places[index] = centre - (top, left) + (row, column)
    pad = _SIDE_PX - len(frame)
    return np.pad(frame, ((0, pad), (0, pad)), mode="reflect"), places


def _score(found: FloatArray, places: FloatArray) -> list[object]:
    """Return particles found, false detections inside the grid, and the error."""
    last = places.max() + _PITCH_PX / 2
    found = found[(found < last).all(axis=1)]
    if not len(found):
        return [0, 0, float("nan")]
    distance = cdist(places, found)
    best = distance.min(axis=1)
    hit = best < _GATE_PX
    n_false = int((distance.min(axis=0) >= _GATE_PX).sum())
    rmse = float(np.sqrt((best[hit] ** 2).mean() / 2)) if hit.any() else float("nan")
    return [int(hit.sum()), n_false, rmse]


def _joined(values: list[float]) -> str:
    return " / ".join(f"{v:.2f}" for v in values)
