"""Feedback: keep a particle centred and in focus, behind one safety gate."""

import warnings
from importlib import import_module
from typing import Any

from lodestar_live.control.calibration import Calibration, load_calibration
from lodestar_live.control.commands import Verdict
from lodestar_live.control.controller import Controller
from lodestar_live.control.driver import PropertyDriver, StageDriver
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.moves import MoveLog, StageResponse

__all__ = [
    "Calibration",
    "Controller",
    "MoveLog",
    "PropertyDriver",
    "SafetyGate",
    "StageDriver",
    "StageResponse",
    "Verdict",
    "load_calibration",
]


def __getattr__(name: str) -> Any:
    if name != "measure_calibration":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "lodestar_live.control.measure_calibration is now "
        "lodestar_live.calibration.measure_calibration.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("lodestar_live.calibration"), name)
