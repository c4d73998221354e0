"""How long from camera pixels to positions, beside floors and peers.

Run on an idle machine: ``lodestar-live bench detect``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from lodestar_live.bench._deeplay import Deeplay, deeplay_if_named, time_beside
from lodestar_live.bench._timing import (
    measure_copy,
    measure_peak,
    peak_table,
    resident_mb,
    time_in_blocks,
)
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection import Detector
from lodestar_live.detection.engines.cpu import physical_cores
from lodestar_live.detection.engines.open import available
from lodestar_live.detection.frame.prepare import take_in
from lodestar_live.detection.model.weights import LocalContrast, NetworkWeights
from lodestar_live.detection.model.writer import write_model
from lodestar_live.model_card import CardDraft
from lodestar_live.training import train
from lodestar_live.training.network.network import (
    NetworkName,
    export_weights,
    initialise,
)
from lodestar_live.training.plan import build_network

N_PARTICLES = 100
_SPREAD_PX = 2.5  # of a particle's Gaussian image
_DIAMETER_PX = 11  # trackpy's
_THEIR_STEPS = 300  # of deeplay's training, which only has to find the particles here


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """A network to time; without a card its weights are random."""

    weights: NetworkWeights
    card: CardDraft | None = None

    def to_bytes(self) -> bytes:
        return write_model(self.weights, self.card)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """One simulated frame, with its particles' positions."""

    pixels: npt.NDArray[np.uint16]
    positions_px: FloatArray


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Measure the detector against its floor, trackpy, tiles and large sensors."""
    n_threads = physical_cores()
    models = _networks(quick=quick, seed=seed)
    sides = (128,) if quick else (512, 1024)
    n = 25 if quick else N_PARTICLES
    scenes = {side: _scene((side, side), seed=seed, n=n) for side in sides}
    blocks = 1 if quick else 4
    peak = measure_peak(n_threads, blocks=blocks)
    copied = measure_copy(n_threads, blocks=blocks)
    report = BenchReport("detect")
    with deeplay_if_named() as peer:
        if peer is not None:
            crop, steps = _crop(seed), 20 if quick else _THEIR_STEPS
            peer.ask("train", crop.astype(np.float32), steps=steps, seed=seed)
        peers = _peer_table(models, scenes, blocks, peer)
    report.tables = [
        peak_table(peak, blocks=blocks),
        _floor_table(models, tuple(scenes), max(peak.values()), copied),
        _engine_table(models, scenes, max(peak.values()), blocks),
        peers,
        _tile_table(models["live"], scenes[sides[0]], blocks),
        _large_table(models["live"], quick=quick, seed=seed),
        _steady_table(models["live"], scenes[sides[0]], 50 if quick else 1000),
    ]
    report.notes = _notes(n_threads)
    return report


def _networks(*, quick: bool, seed: int) -> dict[str, _Network]:
    """Train the live network on one particle; the paper's keeps random weights.

    A network's time does not depend on its weights, and the paper's trains for
    minutes.
    """
    contrast = LocalContrast(4, background_cells=9, contrast_cells=3, floor=0.16)
    random: dict[str, _Network] = {}
    names: tuple[NetworkName, ...] = ("live", "paper")
    for name in names:
        network = build_network(name, contrast, particle_radius_px=4.0)
        initialise(network, torch.Generator().manual_seed(seed))
        random[name] = _Network(export_weights(network))
    if quick:
        return random
    model = train(_crop(seed), seed=seed)
    return random | {"live": _Network(model.weights, model.card)}


def _crop(seed: int) -> npt.NDArray[np.uint16]:
    """One particle to train on."""
    return _image(np.array([[23.4, 23.8]]), (48, 48), np.random.default_rng(seed))


def _scene(shape: tuple[int, int], *, seed: int, n: int = N_PARTICLES) -> _Scene:
    """Particles on a jittered grid, shot noise, SNR about 8."""
    rng = np.random.default_rng(seed + 1)
    across = int(np.ceil(np.sqrt(n)))
    step = np.array(shape) / across
    cells = np.indices((across, across)).reshape(2, -1).T[:n]
    yx = (cells + 0.5) * step + rng.uniform(-0.2, 0.2, (n, 2)) * step
    return _Scene(_image(yx, shape, rng), yx)


def _image(
    yx: FloatArray, shape: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    image = np.full(shape, 20.0)
    for cy, cx in yx:
        top, left = (max(0, int(c) - 15) for c in (cy, cx))
        patch = image[top : top + 31, left : left + 31]
        y, x = np.ogrid[: patch.shape[0], : patch.shape[1]]
        square = (y + top - cy) ** 2 + (x + left - cx) ** 2
        patch += 100 * np.exp(-square / (2 * _SPREAD_PX**2))
    return rng.poisson(image).astype(np.uint16)


def _with_n_detections(model: _Network, engine: str, scene: _Scene) -> Detector:
    """Open a model; as many maxima pass its threshold as there are particles."""
    data = model.to_bytes()
    everything = Detector(data, threshold=-1e30)
    everything.max_detections = 10**6
    scores = np.sort(everything(scene.pixels).rows["score"])
    threshold = float(scores[-min(len(scores), len(scene.positions_px) + 1)])
    return Detector(data, threshold=threshold, engine=engine)


def _floor_table(
    models: dict[str, _Network], sides: Sequence[int], peak: float, copied: float
) -> Table:
    """Tell what no implementation of the networks can go below on this machine."""
    table = Table(
        "Floors: ms per frame at the best rates above",
        ["network", "frame", "arithmetic", "frame read once", "every map through RAM"],
    )
    for (name, model), side in product(models.items(), sides):
        flop, moved = model.weights.flop_per_px, model.weights.moved_bytes_per_px
        n_px = side**2
        table.rows.append(
            [
                name, side, flop * n_px / peak / 1e6, 2 * n_px / copied / 1e6,
                moved * n_px / copied / 1e6,
            ]
        )  # fmt: skip
    return table


def _engine_table(
    models: dict[str, _Network], scenes: dict[int, _Scene], peak: float, blocks: int
) -> Table:
    table = Table(
        "uint16 frame in, detections out: ms per frame",
        [
            "network", "frame", "engine", "p50", "p99", "CPU", "floor", "x floor",
            "network alone, CPU", "rest, % of network, CPU",
        ],
    )  # fmt: skip
    for side, scene in scenes.items():
        calls: dict[str, Callable[[], object]] = {}
        for name, model in models.items():
            for engine in available():
                detector = _with_n_detections(model, engine, scene)
                calls[f"{name} {engine}"] = _call(detector, scene.pixels)
                calls[f"{name} {engine} alone"] = _features(detector, scene.pixels)
        times = time_in_blocks(calls, blocks=blocks, runs=3)
        for name, model in models.items():
            floor = model.weights.flop_per_px * side**2 / peak / 1e6
            for engine in available():
                whole = times[f"{name} {engine}"]
                alone = times[f"{name} {engine} alone"].p50_cpu_ms
                cpu, wall = whole.p50_cpu_ms, whole.p50_ms
                row = [name, side, engine, wall, whole.p99_ms, cpu, floor, wall / floor]
                table.rows.append([*row, alone, 100 * (cpu - alone) / alone])
    return table


def _peer_table(
    models: dict[str, _Network],
    scenes: dict[int, _Scene],
    blocks: int,
    peer: Deeplay | None,
) -> Table:
    """Compare with trackpy's numba engine, whose defaults find these particles.

    And with deeplay, where it is installed.
    """
    table = Table(
        "Against peers: ms per frame (median), 100 particles",
        [
            "detector",
            "frame",
            "ms",
            "x faster than trackpy",
            "CPU ms",
            "x less CPU",
            "found + false",
            "RMSE px",
        ],
    )
    for side, scene in scenes.items():
        finders: dict[str, Callable[[], FloatArray]] = {"trackpy": _trackpy(scene)}
        for name, model in models.items():
            detector = (
                Detector(model.to_bytes(), engine="cpu")
                if model.card
                else _with_n_detections(model, "cpu", scene)
            )
            finders[f"lodestar-live, {name}"] = _positions(detector, scene.pixels)
        times, theirs_px = time_beside(peer, finders, scene.pixels, blocks=blocks)
        reference = times["trackpy"]
        for name in times:
            ms, cpu = times[name].p50_ms, times[name].p50_cpu_ms
            positions_px = finders[name]() if name in finders else theirs_px
            found, rmse = _judge(positions_px, scene.positions_px)
            if name.startswith("lodestar") and models[name.split()[-1]].card is None:
                found, rmse = "random weights", float("nan")
            faster, less = reference.p50_ms / ms, reference.p50_cpu_ms / cpu
            table.rows.append([name, side, ms, faster, cpu, less, found, rmse])
    return table


def _trackpy(scene: _Scene) -> Callable[[], FloatArray]:
    import trackpy

    trackpy.quiet()

    def locate() -> FloatArray:
        with warnings.catch_warnings(action="ignore"):  # pandas deprecations inside
            found = trackpy.locate(
                scene.pixels,
                _DIAMETER_PX,
                minmass=600,
                engine="numba",
                characterize=False,
            )
        return np.asarray(found[["y", "x"]], dtype=float)

    return locate


def _judge(found: FloatArray, truth: FloatArray) -> tuple[Any, float]:
    """Return "true + false" counts, and the RMSE per axis after the median offset."""
    tree = cKDTree(found)
    distances = np.atleast_1d(tree.query(truth)[0])
    nearest = np.atleast_1d(tree.query(truth)[1])
    is_hit = np.asarray(distances) < _DIAMETER_PX / 2
    if not is_hit.any():
        return f"0 + {len(found)}", float("nan")
    error = found[nearest[is_hit]] - truth[is_hit]
    error = error - np.median(error, axis=0)
    text = f"{is_hit.sum()} + {len(found) - is_hit.sum()}"
    return text, float(np.sqrt((error**2).mean()))


def _tile_table(model: _Network, scene: _Scene, blocks: int) -> Table:
    """Follow mode: tiles around predicted positions, against the full pass."""
    detector = Detector(model.to_bytes())
    pixels, levels = scene.pixels, take_in(scene.pixels).levels
    counts = tuple(n for n in (1, 10, 25, 50) if n <= len(scene.positions_px))
    calls: dict[str, Callable[[], object]] = {"full": _call(detector, pixels)}
    for reach_px, n in product((4.0, 8.0), counts):
        near = scene.positions_px[:: len(scene.positions_px) // n][:n]
        look = partial(detector.near, pixels, near, reach_px=reach_px, levels=levels)
        (tile,) = detector.tiles_near(pixels.shape, near[:1], reach_px=reach_px)
        name = f"{n} of {tile.shape[0]} px"
        calls[name] = look
    times = time_in_blocks(calls, blocks=blocks)
    full = times["full"]
    table = Table(
        f"Follow mode, live network, {pixels.shape[0]} px frame: particles at most "
        "2 or 6 px from their predictions",
        ["tiles", "p50 ms", "p99 ms", "share of a full pass", "share of its CPU"],
    )
    for name, values in times.items():
        share, cpu = values.p50_ms / full.p50_ms, values.p50_cpu_ms / full.p50_cpu_ms
        table.rows.append([name, values.p50_ms, values.p99_ms, share, cpu])
    return table


def _large_table(model: _Network, *, quick: bool, seed: int) -> Table:
    """Large sensors: tiled, memory bounded."""
    table = Table(
        "Large sensors, live network",
        ["frame", "tiles", "ms per frame", "frames per s", "more memory, MB", "found"],
    )
    detector = Detector(model.to_bytes())
    for shape in ((256, 384),) if quick else ((2048, 2048), (3000, 4096)):
        scene = _scene(shape, seed=seed, n=1000)
        before = resident_mb()
        times = time_in_blocks({"": _call(detector, scene.pixels)}, blocks=2, runs=2)
        ms = times[""].p50_ms
        text, _ = _judge(detector(scene.pixels).positions_px, scene.positions_px)
        n_tiles = len(detector.layout.whole(shape, detector.passes.max_tile_px))
        size = f"{shape[1]} x {shape[0]}"
        table.rows.append(
            [size, n_tiles, ms, 1e3 / ms, resident_mb() - before, f"{text} of 1000"]
        )
    return table


def _steady_table(model: _Network, scene: _Scene, n_frames: int) -> Table:
    """Many frames in a row: tails of the latency, start-up, memory."""
    data = model.to_bytes()
    start = time.perf_counter()
    detector = Detector(data)
    opened = time.perf_counter()
    detector.warm_up(scene.pixels)
    warm = time.perf_counter()
    before, times = resident_mb(), []
    for _ in range(n_frames):
        begin = time.perf_counter()
        detector(scene.pixels)
        times.append((time.perf_counter() - begin) * 1e3)
    p50, p99, p999 = np.quantile(times, [0.5, 0.99, 0.999])
    return Table(
        f"{n_frames} frames in a row, live network, {scene.pixels.shape[0]} px, "
        f"engine {detector.engine.name}",
        [
            "open ms", "first frame and choice of engine ms", "p50 ms", "p99 ms",
            "p99.9 ms", "p99 / p50", "memory growth MB",
        ],
        [
            [
                (opened - start) * 1e3, (warm - opened) * 1e3, p50, p99, p999,
                p99 / p50, resident_mb() - before,
            ]
        ],
    )  # fmt: skip


def _call(detector: Detector, pixels: Pixels) -> Callable[[], object]:
    return lambda: detector(pixels)


def _positions(detector: Detector, pixels: Pixels) -> Callable[[], FloatArray]:
    return lambda: detector(pixels).positions_px


def _features(detector: Detector, pixels: Pixels) -> Callable[[], object]:
    intake = take_in(pixels)
    return lambda: detector.features(intake)


def _notes(n_threads: int) -> list[str]:
    return [
        f"{n_threads} threads; engines available here: {', '.join(available())}; "
        "medians of interleaved blocks; p99 of few runs is nearly the worst run.",
        "Floor: the network's multiplications and additions at the best float32 rate "
        "of the first table. `network alone` includes the local normalisation. "
        "`every map through RAM`: as if no cache held what a layer hands to the next.",
        "bfloat16 needs a processor with AVX512-BF16 or AMX; OpenVINO computes in "
        "float32 on others. CUDA and TensorRT are not measured unless listed.",
        "deeplay needs an environment of its own, and is in the table of peers if "
        "LODESTAR_DEEPLAY names its interpreter: the network's time does not depend "
        f"on its training, here {_THEIR_STEPS} mini-batches.",
    ]
