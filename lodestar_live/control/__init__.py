"""Feedback: keep a particle centred and in focus, behind one safety gate."""

from lodestar_live.control.calibration import Calibration, load_calibration
from lodestar_live.control.commands import Verdict
from lodestar_live.control.controller import Controller
from lodestar_live.control.driver import PropertyDriver, StageDriver
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.measure import measure_calibration
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
    "measure_calibration",
]
