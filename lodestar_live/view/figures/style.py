"""One look for all pictures: colours, figure, axes."""

from __future__ import annotations

import colorsys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK = "#1b2733"
MUTED = "#6b7a89"
GRID = "#e3e8ed"
ACCENT = "#e4572e"  # the followed particle, the crop
BLUE = "#2274a5"
GREEN = "#3a9d6e"
GOLD = "#e0a100"
PURPLE = "#7b5ea7"
SERIES = (BLUE, GOLD, GREEN, PURPLE, ACCENT, "#4fb3bf", "#9c6644", MUTED)

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.3,
}


def styled() -> AbstractContextManager[None]:
    """Return the context in which figures are made."""
    return rc_context(_RC)


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return a figure that needs no display and no global state."""
    figure = Figure(figsize=(width_in, height_in), dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` as PNG (or what the suffix says); folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def track_colour(track_id: int) -> tuple[float, float, float]:
    """Return a track's own bright colour; neighbours in number differ most."""
    hue = (track_id * 0.6180339887) % 1.0
    return colorsys.hsv_to_rgb(hue, 0.62, 0.98)


def say_nothing_here(axes: Axes, why: str) -> None:
    """Turn an empty panel into one line of explanation."""
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, why, ha="center", va="center", color=MUTED, transform=axes.transAxes
    )


def plain_log_labels(axis: Axis) -> None:
    """Label a logarithmic axis 0.1 1 10 and, if there is room, 2 and 5 of each.

    matplotlib's own labels (2 x 10^-2 ...) run into each other here.
    """
    low, high = axis.get_view_interval()
    has_room = high / max(low, 1e-300) < 300
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if has_room else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def contrast(pixels: np.ndarray) -> tuple[float, float]:
    """Return the counts shown as black and white (0.5 and 99.8 percentiles)."""
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [0.5, 99.8])
    return float(low), float(max(high, low + 1e-6))
