"""Measuring the microscope: stage map, focus response, z sweep."""

from lodestar_live.calibration.stage import measure_calibration

__all__ = ["measure_calibration"]
