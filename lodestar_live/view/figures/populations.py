"""Histograms over tracks: diffusion and polarizability of a run's particles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lodestar_live.data import FloatArray, Rows
from lodestar_live.errors import InputError
from lodestar_live.recording import Recording
from lodestar_live.recording.summary import track_summary
from lodestar_live.recording.trajectories import units_of
from lodestar_live.view.figures import style

KINDS = ("diffusion", "polarizability")


def write_populations(
    recording: Recording, path: str | Path, kinds: Sequence[str]
) -> Path:
    """Draw what tracks are like, one panel a kind, each track one entry.

    Parameters
    ----------
    path
        Picture to write; the suffix chooses the format.
    kinds
        Out of `KINDS`.

    Raises
    ------
    InputError
        No track is long enough, or nothing of a kind was measured.
    """
    table = track_summary(recording)
    if not len(table):
        raise InputError(f"{recording.path}: no track was measured in 5 frames.")
    units = units_of(recording)
    drawers = {
        "diffusion": partial(_draw_diffusion, table=table, units=units),
        "polarizability": partial(_draw_polarizability, table=table),
    }
    with style.styled():
        figure = style.new_figure(7.0 * len(kinds), 5.0)
        figure.set_layout_engine("constrained")
        for number, kind in enumerate(kinds):
            drawers[kind](figure.add_subplot(1, len(kinds), number + 1))
        return style.save(figure, path)


def _draw_diffusion(axes: Axes, table: Rows, units: tuple[str, str]) -> None:
    length, time = units
    axes.set_title("Diffusion of each track (covariance estimator)")
    values, errors = table["diffusion"], table["diffusion_error"]
    unit = f"{length.replace('um', 'µm')}²/{time.replace('frames', 'frame')}"
    _draw(axes, values, errors, f"D ({unit})", style.BLUE)


def _draw_polarizability(axes: Axes, table: Rows) -> None:
    axes.set_title("Polarizability of each track")
    values, errors = table["polarizability_um3"], table["polarizability_error_um3"]
    _draw(axes, values, errors, "polarizability (µm³)", style.PURPLE)


def _draw(
    axes: Axes, values: FloatArray, errors: FloatArray, label: str, colour: str
) -> None:
    is_known = np.isfinite(values) & (errors > 0)
    values, errors = values[is_known], errors[is_known]
    if not len(values):
        style.say_nothing_here(axes, f"{label}: not measured.")
        return
    low, high = np.percentile(values, [0.5, 99.5])
    n_bins = int(np.clip(2 * np.sqrt(len(values)), 8, 60))
    axes.hist(
        values,
        np.linspace(low, max(high, low + 1e-12), n_bins).tolist(),
        color=colour,
        alpha=0.75,
    )
    # Not weighted by the errors: they grow with the value, so small ones would rule.
    median, of_the_mean = float(np.median(values)), values.std() / np.sqrt(len(values))
    axes.axvline(median, color=style.INK, lw=1, ls="--")
    axes.annotate(
        f"median {median:.3g}, mean {values.mean():.3g} ± {of_the_mean:.1g}\n"
        f"{len(values)} tracks, median error of one {np.median(errors):.1g}",
        (median, 0.97), xycoords=("data", "axes fraction"), xytext=(6, 0),
        textcoords="offset points", fontsize=8, va="top",
    )  # fmt: skip
    axes.set(xlabel=label, ylabel="tracks")
