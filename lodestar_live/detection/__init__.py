"""The exported model at run time: ONNX session, maps, maxima, positions; torch-free."""

from lodestar_live.detection.detector import Detector, Maps
from lodestar_live.detection.follow import Follower

__all__ = ["Detector", "Follower", "Maps"]
