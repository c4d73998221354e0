"""Overlays and pictures: report, plots, browser page, napari.

Public names are loaded on first use: drawing needs no server, and the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "RUN_TRACK_DTYPE": "run_data",
    "RunArrays": "run_data",
    "RunSource": "run_data",
    "pick_crop": "pick",
    "write_control": "control_charts",
    "write_hologram_report": "hologram_report",
    "write_plots": "plots",
    "write_report": "report",
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
    from lodestar_live.view.control_charts import write_control
    from lodestar_live.view.hologram_report import write_hologram_report
    from lodestar_live.view.pick import pick_crop
    from lodestar_live.view.plots import write_plots
    from lodestar_live.view.report import write_report
    from lodestar_live.view.run_data import RUN_TRACK_DTYPE, RunArrays, RunSource


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
