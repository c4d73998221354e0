"""``lodestar-live plot RUN``: how the particles of a run moved, as one picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lodestar_live.data import Pixels
from lodestar_live.view.figures import charts, motion_charts, run_data, scene, style
from lodestar_live.view.figures.run_data import RunSource

_MEASURED = (
    ("z_um", "z (µm)", "Distance from the focal plane"),
    ("polarizability_um3", "polarizability (µm³)", "Polarizability"),
    ("sigma_px", "1-sigma uncertainty (px)", "Localisation uncertainty"),
)


def write_plots(
    recording: RunSource, path: str | Path, *, snapshot: Pixels | None = None
) -> Path:
    """Draw trajectories, MSD, speed, what was measured and latency.

    Parameters
    ----------
    recording
        A `Recording`, or `RunArrays`.
    path
        Picture to write; the suffix chooses the format.
    snapshot
        Background of the trajectories, shape (y, x).
    """
    recording = run_data.loaded(recording)
    draw_scene = partial(
        scene.draw_scene,
        source=recording,
        snapshot=snapshot,
        followed=run_data.followed_id(recording),
    )
    drawn: list[Callable[[Axes], None]] = [
        draw_scene,
        partial(motion_charts.draw_msd, source=recording),
        partial(motion_charts.draw_speed, source=recording),
        *_measured(recording)[:2],
        partial(charts.draw_latency, source=recording),
    ]
    with style.styled():
        figure = style.new_figure(16.0, 9.0)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        for i, draw in enumerate(drawn):
            draw(figure.add_subplot(2, 3, i + 1))
        return style.save(figure, path)


def _measured(source: RunSource) -> list[Callable[[Axes], None]]:
    """Return histograms of what this run measured, the most telling first."""
    tracks = source.tracks()
    return [
        *(
            partial(
                motion_charts.draw_column,
                source=source,
                name=name,
                label=label,
                title=title,
            )
            for name, label, title in _MEASURED
            if np.isfinite(run_data.column(tracks, name)).any()
        ),
        partial(charts.draw_number, source=source),
        partial(charts.draw_positions, source=source),
    ]
