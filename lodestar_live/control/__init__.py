"""Stage following, focus lock, calibration, and the gate every command passes."""
