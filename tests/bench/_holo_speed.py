"""Speed of the holographic steps against bare transforms and the known libraries."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import fft

from lodestar_live.bench.report import Table
from lodestar_live.data import Detections, Frame
from lodestar_live.holography import (
    OffAxis,
    ParticleRefiner,
    Propagator,
    Reference,
    autofocus_classical,
)
from lodestar_live.settings import HolographySettings
from lodestar_live.simulation.holograms import complex_noise
from tests.bench._spheres import OPTICS, Z_UM, training_crop

Task = Callable[[], Any]


def speed_table(*, quick: bool, seed: int) -> Table:
    """Time each step and its baseline in turns; medians, so that load cancels."""
    rng = np.random.default_rng(seed)
    sizes = (256,) if quick else (512, 1024)
    repeats = 3 if quick else 9
    table = Table(
        "Speed, median of alternating runs (2 threads)",
        ["step", "ours (ms)", "baseline", "baseline (ms)", "times", "bar"],
    )
    for size in sizes:
        for row in (*_retrieval_rows(size, rng), *_refocus_rows(size, rng)):
            name, ours, baselines = row
            timed = interleaved([ours, *(task for _, task, _ in baselines)], repeats)
            for (label, _, bar), seconds in zip(baselines, timed[1:], strict=True):
                shown = (
                    timed[0] / seconds if bar.startswith("<=") else seconds / timed[0]
                )
                table.rows.append(
                    [
                        f"{name}, {size}²",
                        1e3 * timed[0],
                        label,
                        1e3 * seconds,
                        shown,
                        bar,
                    ]
                )
    table.rows.append(_particle_row(rng, repeats))
    return table


def interleaved(tasks: Sequence[Task], repeats: int) -> list[float]:
    """Return the median seconds of each task, run in turns."""
    for task in tasks:
        task()
    seconds: list[list[float]] = [[] for _ in tasks]
    for _ in range(repeats):
        for task, times in zip(tasks, seconds, strict=True):
            start = time.perf_counter()
            task()
            times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in seconds]


Row = tuple[str, Task, list[tuple[str, Task, str]]]


def _retrieval_rows(size: int, rng: np.random.Generator) -> list[Row]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import qpretrieve
    camera = OPTICS.with_pixel_size(OPTICS.pixel_size_um / 4)
    y, x = np.arange(size)[:, None], np.arange(size)
    fringes = 1000 * (1 + 0.5 * np.cos(2 * np.pi * (0.26 * y + 0.27 * x)))
    raw = rng.poisson(fringes).astype(np.uint16)
    as_float = raw.astype(np.float32)
    retrieve = OffAxis(camera, raw.shape, carrier=(0.26, 0.27))
    retrieve.learn_background([raw])
    frequency = np.array([0.26, 0.27])

    def oracle() -> Any:
        hologram = qpretrieve.OffAxisHologram(raw, padding=0)
        return hologram.run_pipeline(
            filter_name="disk", filter_size=1 / 3, sideband_freq=frequency
        )

    def bare() -> Any:
        return fft.rfft2(as_float, workers=2)

    return [
        (
            "off-axis field, background and drift removed",
            lambda: retrieve(raw),
            [("bare rfft2 (scipy)", bare, "<= 2.2"), ("qpretrieve", oracle, ">= 5")],
        ),
    ]


def _refocus_rows(size: int, rng: np.random.Generator) -> list[Row]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nrefocus
    field = 1 + complex_noise((size, size), OPTICS, rng, std=0.02)
    single = field.astype(np.complex64)
    propagator = Propagator(field.shape, OPTICS)
    distances = np.linspace(-Z_UM, Z_UM, 32)
    options = {
        "nm": OPTICS.n_medium,
        "res": OPTICS.wavelength_um / OPTICS.pixel_size_um,
    }

    def bare() -> Any:
        return fft.ifft2(fft.fft2(single, workers=2), workers=2)

    def oracle() -> Any:
        return nrefocus.refocus(field, d=3.0 / OPTICS.pixel_size_um, **options)

    def oracle_stack() -> Any:
        reused = nrefocus.RefocusNumpy(
            field,
            wavelength=OPTICS.wavelength_um,
            pixel_size=OPTICS.pixel_size_um,
            medium_index=OPTICS.n_medium,
            padding=False,
        )
        return [reused.propagate(distance=d) for d in distances]

    rows: list[Row] = [
        (
            "refocus, one plane",
            lambda: propagator(single, 3.0),
            [
                ("bare FFT pair (scipy, complex64)", bare, "<= 1.6"),
                ("nrefocus, its defaults", oracle, ">= 15"),
            ],
        )
    ]
    if size <= 512:
        rows.append(
            (
                "refocus, 32 planes",
                lambda: propagator.prepare(single).stack(distances),
                [("nrefocus, one object, no padding", oracle_stack, ">= 5")],
            )
        )
    return rows


def _particle_row(rng: np.random.Generator, repeats: int) -> list[Any]:
    shape, n = (512, 512), 50
    field = (1 + complex_noise(shape, OPTICS, rng, std=0.01)).astype(np.complex64)
    positions = rng.uniform(20, 490, (n, 2))
    detections = Detections.from_positions(positions)
    refine = ParticleRefiner(
        HolographySettings(wavelength_um=0.633, z_range_um=(-6, 6)),
        reference=Reference(training_crop(0), OPTICS.pixel_size_um),
    )
    frame = Frame(0, field, pixel_size_um=OPTICS.pixel_size_um)

    def classical() -> Any:
        return autofocus_classical(field, positions[:1], OPTICS, z_range_um=(-6, 6))

    ours, one = interleaved([lambda: refine(frame, detections), classical], repeats)
    return [
        "z and polarizability of 50 particles, 512²", 1e3 * ours,
        "classical stack of 121 planes, 50 particles", 1e3 * one * n,
        one * n / ours, "ours <= 30 ms",
    ]  # fmt: skip
