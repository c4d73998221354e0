"""Detections into tracks, online."""

from lodestar_live.linking.linker import LinkCounts, Linker, Prediction

__all__ = ["LinkCounts", "Linker", "Prediction"]
