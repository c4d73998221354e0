"""The paper's Figs. 3d, 4c and 4d on simulated spheres, as one picture.

Drawn by ``python -m tests.bench holography --out FOLDER`` with the shipped model.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lodestar_live.data import Frame
from lodestar_live.detection import Detector
from lodestar_live.holography import (
    ParticleRefiner,
    autofocus_classical,
    clausius_mossotti_um3,
)
from lodestar_live.holography.focus import Criterion
from lodestar_live.resources import find
from lodestar_live.settings import HolographySettings
from lodestar_live.simulation.holograms import Sphere, brownian_movie
from tests.bench._spheres import INDICES, OPTICS, Condition, draw_sample

_SETTINGS = HolographySettings(wavelength_um=0.633, z_range_um=(-6, 6))
_FRAME_S = 1 / 30
_CRITERIA: tuple[Criterion, ...] = ("gradient", "amplitude")


def draw_figures(*, n_frames: int = 90, n_each: int = 3, seed: int = 0) -> bytes:
    """Return a PNG: traces of z, polarizability against theory, two sizes mixed."""
    rng = np.random.default_rng(seed)
    detector = Detector(find("models", "beads_hologram.onnx"), n_threads=1)
    refine = ParticleRefiner.from_card(_SETTINGS, detector.card)
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    traces, theory, two = figure.subplots(1, 3)
    _draw_traces(traces, detector, refine, rng, n_frames)
    _draw_theory(theory, detector, refine, rng, n_each)
    _draw_two_sizes(two, detector, refine, rng, 8 * n_each)
    png = BytesIO()
    figure.savefig(png, dpi=110)
    return png.getvalue()


def _measure(
    detector: Detector, refine: ParticleRefiner, field: np.ndarray, place: Sphere
) -> tuple[float, float, float, float]:
    """Return z and polarizability: of the network, refined."""
    found = detector(field.astype(np.complex64))
    away = np.hypot(found.rows["y_px"] - place.y_px, found.rows["x_px"] - place.x_px)
    if not len(found) or away.min() > 4:
        return (float("nan"),) * 4
    best = int(np.argmin(away))
    frame = Frame(0, field.astype(np.complex64), pixel_size_um=OPTICS.pixel_size_um)
    fine = refine(frame, found).rows[best]
    rough = found.rows[best]
    return (
        float(rough["z_um"]),
        float(rough["polarizability_um3"]),
        float(fine["z_um"]),
        float(fine["polarizability_um3"]),
    )


def _draw_traces(
    axes: Axes,
    detector: Detector,
    refine: ParticleRefiner,
    rng: np.random.Generator,
    n_frames: int,
) -> None:
    movie = brownian_movie(
        [Sphere(64, 64)], (128, 128), OPTICS, rng, n_frames=n_frames, coherent=0.01
    )
    z = []
    for index in range(n_frames):
        (sphere,) = movie.truth(index)
        field = movie.wave(index)
        network, _, refined, _ = _measure(detector, refine, field, sphere)
        gradient, amplitude = (
            autofocus_classical(
                field, [(sphere.y_px, sphere.x_px)], OPTICS, z_range_um=(-6, 6),
                criterion=criterion,
            ).z_um[0]
            for criterion in _CRITERIA
        )  # fmt: skip
        z.append((sphere.z_um, network, refined, gradient, amplitude))
    t_s = np.arange(n_frames) * _FRAME_S
    truth, network, refined, gradient, amplitude = np.array(z).T
    axes.plot(t_s, gradient, ".", color="0.75", label="classical, gradient of crop")
    axes.plot(t_s, amplitude, "x", color="0.4", label="classical, peak at particle")
    axes.plot(t_s, network, "o", ms=4, mfc="none", label="LodeSTAR alone")
    axes.plot(t_s, refined, ".", ms=5, label="refined")
    axes.plot(t_s, truth, "k-", lw=0.8, label="truth")
    axes.set(xlabel="time (s)", ylabel="z (µm)", title="Brownian sphere (Fig. 3d)")
    axes.legend(fontsize=8)


def _draw_theory(
    axes: Axes,
    detector: Detector,
    refine: ParticleRefiner,
    rng: np.random.Generator,
    n_each: int,
) -> None:
    points = []
    for radius_um in (0.15, 0.2, 0.25, 0.3):
        for n_particle in INDICES:
            theory = clausius_mossotti_um3(
                radius_um, n_particle=n_particle, n_medium=OPTICS.n_medium
            )
            for _ in range(n_each):
                sample = draw_sample(
                    rng, Condition(""), radius_um=radius_um, n_particle=n_particle,
                    z_um=3.0,
                )  # fmt: skip
                _, scale, _, phase = _measure(
                    detector, refine, sample.field, sample.truth
                )
                points.append((theory, scale, phase))
    theory_um3, scale_um3, phase_um3 = np.array(points).T
    axes.loglog(theory_um3, scale_um3, "o", ms=4, mfc="none", label="scale channel")
    axes.loglog(theory_um3, phase_um3, ".", ms=5, label="integrated phase")
    line = np.array([theory_um3.min(), theory_um3.max()])
    axes.loglog(line, line, "k-", lw=0.8, label="Clausius-Mossotti")
    axes.set(
        xlabel="theory (µm³)",
        ylabel="measured (µm³)",
        title="150-300 nm, n 1.4-1.6 (Fig. 4d)",
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)


def _draw_two_sizes(
    axes: Axes,
    detector: Detector,
    refine: ParticleRefiner,
    rng: np.random.Generator,
    n_each: int,
) -> None:
    bins = [float(edge) for edge in np.linspace(0, 0.025, 51)]
    for radius_um, colour in ((0.15, "C0"), (0.228, "C1")):
        name = f"{1e3 * radius_um:.0f} nm"
        alphas = []
        for _ in range(n_each):
            sample = draw_sample(rng, Condition(""), radius_um=radius_um)
            _, scale, _, phase = _measure(detector, refine, sample.field, sample.truth)
            alphas.append((phase, scale))
        phase, scale = np.array(alphas).T
        axes.hist(phase, bins, label=f"{name}, phase", alpha=0.7, color=colour)
        axes.hist(
            scale, bins, label=f"{name}, scale", histtype="step", color=colour, lw=2
        )
        theory = clausius_mossotti_um3(radius_um, n_particle=1.58, n_medium=1.33)
        axes.axvline(theory, color="k", lw=0.8)
    axes.set(
        xlabel="polarizability (µm³)",
        ylabel="spheres",
        title="two sizes, theory as lines (Fig. 4c)",
    )
    axes.legend(fontsize=8)
