"""Thresholds and error bars from synthetic calibration frames."""
