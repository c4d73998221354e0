"""The exported model at run time: ONNX session, maps, maxima, positions; torch-free."""

from lodestar_live.detection.detector import Detector, Maps

__all__ = ["Detector", "Maps"]
