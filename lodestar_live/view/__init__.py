"""Overlays and pictures: report, plots, browser page, napari.

Public names are loaded on first use: drawing needs no server, and the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "RUN_TRACK_DTYPE": "figures.run_data",
    "RunArrays": "figures.run_data",
    "RunSource": "figures.run_data",
    "pick_crop": "web.pick",
    "write_control": "figures.control_charts",
    "write_hologram_report": "figures.hologram_report",
    "write_plots": "figures.plots",
    "write_report": "figures.report",
}

__all__ = [
    "RUN_TRACK_DTYPE",
    "RunArrays",
    "RunSource",
    "pick_crop",
    "write_control",
    "write_hologram_report",
    "write_plots",
    "write_report",
]

if TYPE_CHECKING:
    from lodestar_live.view.figures.control_charts import write_control
    from lodestar_live.view.figures.hologram_report import write_hologram_report
    from lodestar_live.view.figures.plots import write_plots
    from lodestar_live.view.figures.report import write_report
    from lodestar_live.view.figures.run_data import (
        RUN_TRACK_DTYPE,
        RunArrays,
        RunSource,
    )
    from lodestar_live.view.web.pick import pick_crop


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
