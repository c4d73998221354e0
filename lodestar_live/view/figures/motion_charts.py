"""Charts of how particles moved: MSD, speed, histograms of what was measured."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from lodestar_live.data import FloatArray
from lodestar_live.diffusion import (
    Diffusion,
    ensemble_msd,
    fit_diffusion,
    mean_squared_displacement,
)
from lodestar_live.view.figures import run_data, style
from lodestar_live.view.figures.run_data import RunSource


def draw_msd(axes: Axes, source: RunSource, *, max_lag: int = 40) -> None:
    """Draw each track's MSD, their mean, and the diffusion fitted to it."""
    axes.set_title("Mean squared displacement")
    known = run_data.trajectories(source.tracks(), min_frames=8)
    if not known:
        style.say_nothing_here(axes, "No track is 8 frames long.")
        return
    scale, unit = run_data.length_unit(source)
    longest = max(int(np.ptp(rows["frame"])) for rows in known.values())
    max_lag = max(min(max_lag, longest // 3), 2)
    each = [
        mean_squared_displacement(
            run_data.frame_numbers(source, rows),
            run_data.positions_px(source, rows) * scale,
            max_lag,
        )
        for rows in known.values()
    ]
    msds, n_pairs = (np.array(part) for part in zip(*each, strict=True))
    lag_s = np.arange(1, max_lag + 1) * run_data.frame_interval_s(source)
    for msd in msds[:300]:
        axes.plot(lag_s, msd, color=style.MUTED, lw=0.5, alpha=0.2)
    axes.plot(lag_s, ensemble_msd(msds, n_pairs), "o-", ms=3.5, color=style.BLUE,
              label=f"mean of {len(known)} tracks")  # fmt: skip
    time = run_data.time_unit(source)
    fit = fit_diffusion(msds, n_pairs, lag_s)
    _draw_fit(axes, fit, lag_s, f"{unit}²/{time}")
    axes.set(
        xscale="log", yscale="log", xlabel=f"lag ({time})", ylabel=f"MSD ({unit}²)"
    )
    style.plain_log_labels(axes.xaxis)
    axes.legend(loc="upper left")


def _draw_fit(axes: Axes, fit: Diffusion | None, lag_s: FloatArray, unit: str) -> None:
    if fit is None:
        return
    label = (
        f"D = {fit.coefficient:.3g} ± {fit.error:.1g} {unit} "
        f"(first {fit.n_lags} lags)\nslope of all lags {fit.exponent:.2f}"
    )
    shown_s = lag_s[: 3 * fit.n_lags]
    axes.plot(
        shown_s, 4 * fit.coefficient * shown_s + fit.offset, "--", lw=1.8,
        color=style.ACCENT, label=label,
    )  # fmt: skip


def draw_speed(axes: Axes, source: RunSource) -> None:
    """Draw the histogram of speeds between successive frames."""
    axes.set_title("Speed between frames")
    scale, unit = run_data.length_unit(source)
    interval_s = run_data.frame_interval_s(source)
    speeds = []
    for rows in run_data.trajectories(source.tracks()).values():
        step = np.diff(run_data.positions_px(source, rows), axis=0)
        gap = np.diff(run_data.frame_numbers(source, rows))
        speeds.append(np.hypot(step[:, 0], step[:, 1])[gap == 1])
    every = np.concatenate(speeds) * scale / interval_s if speeds else np.empty(0)
    _draw_histogram(
        axes,
        every,
        f"speed ({unit}/{run_data.time_unit(source)})",
        style.GREEN,
        from_zero=True,
    )


def draw_column(
    axes: Axes, source: RunSource, *, name: str, label: str, title: str
) -> None:
    """Draw the histogram of one measured column of all tracks."""
    axes.set_title(label[0].upper() + label[1:].split(" (")[0])
    tracks = source.tracks()
    seen = tracks[~(run_data.column(tracks, "missed_frames") > 0)]
    _draw_histogram(axes, run_data.column(seen, name), label, style.PURPLE)


def _draw_histogram(
    axes: Axes, values: FloatArray, label: str, colour: str, *, from_zero: bool = False
) -> None:
    values = values[np.isfinite(values)]
    if not len(values):
        style.say_nothing_here(axes, f"{label}: not measured.")
        return
    low, high = np.percentile(values, [0.2, 99.8])
    low, high = (0.0 if from_zero else low), max(high, low + 1e-9)
    axes.hist(values, np.linspace(low, high, 60).tolist(), color=colour, alpha=0.75)
    median = float(np.median(values))
    axes.axvline(median, color=style.INK, lw=1, ls="--")
    axes.annotate(
        f"median {median:.3g}", (median, 0.95), xycoords=("data", "axes fraction"),
        xytext=(5, 0), textcoords="offset points", fontsize=8, va="top",
    )  # fmt: skip
    axes.set(xlabel=label, ylabel="positions", xlim=(low, high))
