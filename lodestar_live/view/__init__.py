"""Overlays and pictures: report, plots, browser page, napari."""

from lodestar_live.view.plots import write_plots
from lodestar_live.view.report import write_report
from lodestar_live.view.run_data import RUN_TRACK_DTYPE, RunArrays, RunSource

__all__ = ["RUN_TRACK_DTYPE", "RunArrays", "RunSource", "write_plots", "write_report"]
