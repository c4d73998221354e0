"""The picture of a run with holograms: fields, planes, z and polarizability."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lodestar_live.data import Rows
from lodestar_live.view.figures import (
    charts,
    hologram_charts,
    report,
    run_data,
    scene,
    style,
)
from lodestar_live.view.figures.run_data import RunSource
from lodestar_live.view.figures.run_files import KeptField


def write_hologram_report(
    recording: RunSource,
    path: str | Path,
    *,
    kept: KeptField | None = None,
    truth: Rows | None = None,
) -> Path:
    """Draw the report of one run with holograms and return its path.

    Parameters
    ----------
    recording
        A `Recording`, or `RunArrays`.
    path
        Picture to write; the suffix chooses the format.
    kept
        The field kept with the run (`run_files.field_of`): shown as it was recorded
        and refocused on one of its particles.
    truth
        Columns `frame`, `y_px`, `x_px`, `z_um` and `polarizability_um3` (theory):
        where spheres really were, in pixels of the field.
    """
    source = run_data.loaded(recording)
    with style.styled():
        figure = style.new_figure(18.0, 13.0)
        errors = None if truth is None else charts.errors_px(source, truth)
        report.draw_header(figure, source, errors)
        grid = figure.add_gridspec(
            3, 4, left=0.04, right=0.965, top=0.885, bottom=0.05, hspace=0.3,
            wspace=0.32, height_ratios=(1.15, 1.0, 0.9),
        )  # fmt: skip
        if kept is not None:
            fields = [figure.add_subplot(grid[0, i]) for i in range(4)]
            centre = hologram_charts.shown_particle(source, kept)
            hologram_charts.draw_fields(fields, source, kept, centre=centre)
            hologram_charts.draw_found(fields[0], source, kept.frame)
        hologram_charts.draw_z_traces(
            figure.add_subplot(grid[1, :2]), source, truth=truth
        )
        theory = None if truth is None else np.unique(truth["polarizability_um3"])
        hologram_charts.draw_polarizability(
            figure.add_subplot(grid[1, 2]), source, theory_um3=theory
        )
        hologram_charts.draw_agreement(figure.add_subplot(grid[1, 3]), source)
        paths = figure.add_subplot(grid[2, 0])
        scene.draw_snapshot(paths, None if kept is None else np.abs(kept.field), None)
        scene.draw_trajectories(paths, source)
        paths.set_title("Trajectories")
        paths.set_aspect("equal", adjustable="box")
        hologram_charts.draw_axis_msds(figure.add_subplot(grid[2, 1]), source)
        charts.draw_latency(figure.add_subplot(grid[2, 2]), source)
        last = figure.add_subplot(grid[2, 3])
        if truth is None:
            charts.draw_number(last, source)
        else:
            hologram_charts.draw_errors_um(last, source, truth)
        return style.save(figure, path)
