"""Histograms over tracks: diffusion and polarizability of a run's particles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_CLASSES = (
    (1, "co-located", style.GOLD),
    (0, "not co-located", style.BLUE),
    (-1, "undecided", style.MUTED),
)


def write_populations(
    recording: Recording,
    path: str | Path,
    kinds: Sequence[str],
    *,
    by_class: bool = False,
) -> Path:
    """Draw what tracks are like, one panel a kind, each track one entry.

    Parameters
    ----------
    path
        Picture to write; the suffix chooses the format.
    kinds
        Out of `KINDS`.
    by_class
        One histogram per class (`lodestar_live.analysis.classify_runs`).

    Raises
    ------
    InputError
        No track is long enough, or nothing of a kind was measured.
    """
    table = track_summary(recording)
    if not len(table):
        raise InputError(f"{recording.path}: no track was measured in 5 frames.")
    if by_class and not np.isfinite(table["class"]).any():
        raise InputError(
            f"{recording.path}: its tracks have no classes; run `classify` first."
        )
    units = units_of(recording)
    drawers: dict[str, Callable[..., None]] = {
        "diffusion": partial(_draw_diffusion, units=units),
        "polarizability": _draw_polarizability,
    }
    with style.styled():
        figure = style.new_figure(7.0 * len(kinds), 5.0)
        figure.set_layout_engine("constrained")
        for number, kind in enumerate(kinds):
            axes = figure.add_subplot(1, len(kinds), number + 1)
            drawers[kind](axes, table, by_class=by_class)
        return style.save(figure, path)


def _draw_diffusion(
    axes: Axes, table: Rows, *, by_class: bool, units: tuple[str, str]
) -> None:
    length, time = units
    axes.set_title("Diffusion of each track (covariance estimator)")
    unit = f"{length.replace('um', 'µm')}²/{time.replace('frames', 'frame')}"
    label, names = f"D ({unit})", ("diffusion", "diffusion_error")
    _draw_kind(axes, table, names, label, style.BLUE, by_class=by_class)


def _draw_polarizability(axes: Axes, table: Rows, *, by_class: bool) -> None:
    axes.set_title("Polarizability of each track")
    names = "polarizability_um3", "polarizability_error_um3"
    label = "polarizability (µm³)"
    _draw_kind(axes, table, names, label, style.PURPLE, by_class=by_class)


def _draw_kind(
    axes: Axes,
    table: Rows,
    names: tuple[str, str],
    label: str,
    colour: str,
    *,
    by_class: bool,
) -> None:
    values, errors = table[names[0]], table[names[1]]
    if by_class:
        _draw_classes(axes, values, table["class"], label)
    else:
        _draw(axes, values, errors, label, colour)


def _draw_classes(
    axes: Axes, values: FloatArray, kinds: FloatArray, label: str
) -> None:
    """Draw one histogram per class over common bins, with mean and standard error."""
    is_known = np.isfinite(values) & np.isfinite(kinds)
    if not is_known.any():
        style.say_nothing_here(axes, f"{label}: not measured.")
        return
    bins = _bins(values[is_known])
    for kind, name, colour in _CLASSES:
        chosen = values[is_known & (kinds == kind)]
        if not len(chosen):
            continue
        error = chosen.std(ddof=1) / np.sqrt(len(chosen)) if len(chosen) > 1 else np.nan
        said = f"{name}: {len(chosen)} tracks, mean {chosen.mean():.3g} ± {error:.1g}"
        axes.hist(chosen, bins, color=colour, alpha=0.65, label=said)
    axes.legend(fontsize=8)
    axes.set(xlabel=label, ylabel="tracks")


def _draw(
    axes: Axes, values: FloatArray, errors: FloatArray, label: str, colour: str
) -> None:
    is_known = np.isfinite(values) & (errors > 0)
    values, errors = values[is_known], errors[is_known]
    if not len(values):
        style.say_nothing_here(axes, f"{label}: not measured.")
        return
    axes.hist(values, _bins(values), color=colour, alpha=0.75)
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


def _bins(values: FloatArray) -> list[float]:
    low, high = np.percentile(values, [0.5, 99.5])
    n_bins = int(np.clip(2 * np.sqrt(len(values)), 8, 60))
    edges: list[float] = np.linspace(low, max(high, low + 1e-12), n_bins).tolist()
    return edges
