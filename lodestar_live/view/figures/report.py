"""report.png: one picture of a run that a person wants to look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lodestar_live.data import FloatArray, Pixels, Rows
from lodestar_live.view.figures import (
    charts,
    control_charts,
    motion_charts,
    run_data,
    scene,
    style,
)
from lodestar_live.view.figures.run_data import RunSource
from lodestar_live.view.figures.scene import Crop


def write_report(
    recording: RunSource,
    path: str | Path,
    *,
    snapshot: Pixels | None = None,
    crop: Crop | None = None,
    truth: Rows | None = None,
) -> Path:
    """Draw the report of one run and return its path.

    Parameters
    ----------
    recording
        A `Recording`, or `RunArrays` for a run that was not recorded.
    path
        Picture to write; the suffix chooses the format.
    snapshot
        First image, shape (y, x).
    crop
        (y_px, x_px, size_px) of the crop the model was trained on.
    truth
        Structured array with columns `frame`, `y_px`, `x_px`: where particles really
        were, in each frame's own pixels. Adds the truth and the error.
    """
    recording = run_data.loaded(recording)
    with style.styled():
        is_controlled = control_charts.was_controlled(recording)
        figure = style.new_figure(15.5, 13.6 if is_controlled else 10.4)
        followed = run_data.followed_id(recording)
        errors = None if truth is None else charts.errors_px(recording, truth)
        draw_header(figure, recording, errors)
        heights = (1.0, 1.0, 0.85, 0.95) if is_controlled else (1.0, 1.0, 0.85)
        grid = figure.add_gridspec(
            len(heights), 3, left=0.05, right=0.985, top=0.872, bottom=0.06,
            hspace=0.4, wspace=0.24, height_ratios=heights,
        )  # fmt: skip
        big = figure.add_subplot(grid[0:2, 0:2])
        scene.draw_scene(big, recording, snapshot, crop=crop, followed=followed)
        charts.draw_positions(
            figure.add_subplot(grid[0, 2]), recording, track_id=followed, truth=truth
        )
        charts.draw_latency(figure.add_subplot(grid[2, 0]), recording)
        places = [grid[1, 2], grid[2, 2], grid[2, 1]]
        chosen = _charts_for(recording, errors, with_stage=not is_controlled)[:3]
        if is_controlled:
            places += [grid[3, k] for k in range(3)]
            chosen += control_charts.panels(recording, snapshot)
        for place, draw in zip(places, chosen, strict=True):
            draw(figure.add_subplot(place))
        return style.save(figure, path)


def _charts_for(
    source: RunSource, errors: FloatArray | None, *, with_stage: bool
) -> list[Callable[[Axes], None]]:
    """Return what is worth a panel in this run, the most telling first."""
    chosen: list[Callable[[Axes], None]] = []
    if errors is not None:
        chosen.append(partial(charts.draw_errors, errors=errors))
    if with_stage and charts.stage_moved(source):
        chosen.append(partial(charts.draw_stage, source=source))
    return [
        *chosen,
        partial(motion_charts.draw_msd, source=source),
        partial(motion_charts.draw_speed, source=source),
        partial(charts.draw_number, source=source),
    ]


def draw_header(figure: Figure, source: RunSource, errors: FloatArray | None) -> None:
    """Draw the name of the run and its main numbers along the top."""
    info = source.info
    figure.text(0.02, 0.962, "Lodestar Live", fontsize=19, weight="bold")
    name = " · ".join(
        str(part)
        for part in (info.settings.get("name"), info.run[:8], info.started[:19])
        if part
    )
    figure.text(0.02, 0.932, name.replace("T", " "), fontsize=10, color=style.MUTED)
    tiles = _tiles(source, errors)
    for i, (label, value, colour) in enumerate(tiles):
        x = 0.985 - (len(tiles) - i - 0.5) * 0.086
        figure.text(
            x, 0.955, value, fontsize=15, weight="bold", ha="center", color=colour
        )
        figure.text(x, 0.933, label, fontsize=8.5, ha="center", color=style.MUTED)
    rule = Line2D((0.02, 0.985), (0.915, 0.915), color=style.GRID, lw=1.5)
    figure.add_artist(rule)


def _tiles(source: RunSource, errors: FloatArray | None) -> list[tuple[str, str, str]]:
    """Return label, value and colour of the numbers at the top."""
    counts = run_data.frame_counts(source)
    known = run_data.trajectories(source.tracks(), run_data.SHORT_FRAMES)
    tiles = [("frames received", f"{counts['received']}", style.INK)]
    tiles += [("processed", f"{counts['processed']}", style.GREEN)]
    for name in ("dropped", "failed", "waiting"):
        if counts[name] or name != "waiting":
            bad = counts[name] > 0 and name != "waiting"
            tiles.append((name, f"{counts[name]}", style.ACCENT if bad else style.INK))
    tiles.append(("frames / s", f"{run_data.frame_rate_hz(source):.1f}", style.INK))
    latency = run_data.timings_ms(source).get("latency")
    if latency is not None:
        p50, p99 = np.percentile(latency, [50, 99])
        tiles.append(("latency p50 | p99 (ms)", f"{p50:.1f} | {p99:.1f}", style.BLUE))
    tiles.append(
        (f"tracks ({run_data.SHORT_FRAMES}+ frames)", f"{len(known)}", style.PURPLE)
    )
    if errors is not None and len(errors):
        rmse = float(np.sqrt(np.mean(errors**2)))
        tiles.append(("RMSE per axis (px)", f"{rmse:.3f}", style.GREEN))
    return tiles
