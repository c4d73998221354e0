"""A whole holographic frame through the live pipeline: counts to tracks."""

from __future__ import annotations

import itertools
import time

import numpy as np
from threadpoolctl import threadpool_limits

from lodestar_live.bench.report import Table
from lodestar_live.data import Detections, Frame, Tracks
from lodestar_live.detection import Detector
from lodestar_live.detection.model.weights import Conv, Layer, MaxPool, NetworkWeights
from lodestar_live.detection.model.writer import write_model
from lodestar_live.holography import HologramPreparer, ParticleRefiner
from lodestar_live.linking import Linker
from lodestar_live.model_card import CardDraft
from lodestar_live.pipeline.pipeline import Pipeline
from lodestar_live.resources import find
from lodestar_live.settings import HolographySettings
from lodestar_live.simulation.holograms import OffAxisCamera, Sphere, render_field
from tests.bench._spheres import OPTICS

FACTOR, CARRIER = 2, (0.26, 0.27)
APART_PX = 20.0


def pipeline_table(
    *, quick: bool, seed: int, counts_px: int = 512, n_particles: int = 50
) -> Table:
    """Time off-axis holograms of `counts_px`² pixels and of twice that side.

    The field of a camera's N² counts is N/2 wide, all that its optics resolve.

    Nobody has trained the paper's network on a field with z and scale here: its
    weights are random, what it finds is replaced by the live network's detections, and
    only its time counts.
    """
    rng = np.random.default_rng(seed)
    if quick:
        counts_px, n_particles = 256, 3
    settings = HolographySettings(
        wavelength_um=OPTICS.wavelength_um,
        pixel_size_um=OPTICS.pixel_size_um / FACTOR,
        carrier=CARRIER,
    )
    live = Detector(find("models", "beads_hologram.onnx"))
    table = Table(
        f"Whole pipeline, {n_particles} spheres: median per frame",
        ["camera counts", "field", "network", "found", "prepare (ms)",
         "detect, refine (ms)", "link (ms)", "frames/s", "bar"],
    )  # fmt: skip
    paper = _paper_network()
    for size, (name, network, bar) in itertools.product(
        (counts_px // FACTOR, counts_px),
        (("live", None, 25), ("paper's", paper, 10)),
    ):
        holograms = _holograms(rng, size, n_particles, n=2 if quick else 6)
        known = live(HologramPreparer(settings)(Frame(0, holograms[0])).pixels)
        refine = ParticleRefiner.from_card(settings, live.card)
        detect = _Detect(live, refine, paper=network, known=known)
        linker = Linker(search_radius_px=8.0)

        def link(found: Detections, frame: Frame, linker: Linker = linker) -> Tracks:
            return linker(found, frame.index)

        pipeline = Pipeline(detect, link, prepare=HologramPreparer(settings))
        with threadpool_limits(limits=1, user_api="blas"):  # as in a live run
            row = _timed(pipeline, holograms, repeats=2 if quick else 40)
        sides = f"{FACTOR * size}²", f"{size}²"
        table.rows.append([*sides, name, *row, f">= {bar}"])
    return table


class _Detect:
    """Detect and refine; with the paper's network, its time and what is known."""

    def __init__(
        self,
        live: Detector,
        refine: ParticleRefiner,
        *,
        paper: Detector | None,
        known: Detections,
    ) -> None:
        self.live, self.refine, self.paper, self.known = live, refine, paper, known

    def __call__(self, frame: Frame) -> Detections:
        if self.paper is None:
            return self.refine(frame, self.live(frame.pixels))
        self.paper(frame.pixels)
        return self.refine(frame, self.known)


def _timed(
    pipeline: Pipeline, holograms: list[np.ndarray], *, repeats: int
) -> list[float]:
    steps: list[tuple[float, float, float]] = []
    seconds, n_found = [], 0
    for index in range(repeats):
        frame = Frame(index, holograms[index % len(holograms)])
        start = time.perf_counter()
        update = pipeline.process(frame)
        seconds.append(time.perf_counter() - start)
        timings = update.timings_ms
        steps.append((timings["prepare"], timings["detect"], timings["link"]))
        n_found = len(update.detections)
    skipped = min(5, repeats // 2)  # buffers and kernels are made in the first frames
    return [
        n_found,
        *(float(v) for v in np.median(steps[skipped:], axis=0)),
        1 / float(np.median(seconds[skipped:])),
    ]


def _holograms(
    rng: np.random.Generator, size: int, n_particles: int, *, n: int
) -> list[np.ndarray]:
    """Return camera frames of the same spheres, each moved a little."""
    places: list[np.ndarray] = []
    while len(places) < n_particles:
        place = rng.uniform(20, size - 20, 2)
        if all(np.hypot(*(place - other)) > APART_PX for other in places):
            places.append(place)
    z_um = rng.uniform(-4, 4, n_particles)
    camera = OffAxisCamera(factor=FACTOR, carrier=CARRIER)
    frames = []
    for _ in range(n):
        moved = np.array(places) + rng.normal(0, 0.5, (n_particles, 2))
        spheres = [Sphere(y, x, z) for (y, x), z in zip(moved, z_um, strict=True)]
        field = render_field(spheres, (size, size), OPTICS)
        frames.append(camera.expose(field, rng))
    return frames


def _paper_network() -> Detector:
    """Return the paper's layers for two input and five output channels, untrained."""
    rng = np.random.default_rng(0)

    def conv(before: int, after: int, kernel: int, *, relu: bool = True) -> Conv:
        weight = rng.normal(0, 0.05, (after, before, kernel, kernel))
        return Conv(weight.astype("f4"), np.zeros(after, "f4"), relu=relu)

    layers: list[Layer] = [conv(2, 32, 3), conv(32, 32, 3), conv(32, 32, 3), MaxPool(2)]
    layers += [conv(32, 32, 3) for _ in range(8)]
    layers.append(conv(32, 5, 1, relu=False))
    channels = ("dy", "dx", "z_um", "ln_scale", "rho")
    card = CardDraft(input="field", threshold=1e6, network="paper")
    return Detector(write_model(NetworkWeights(tuple(layers), 2, channels), card))
