"""Detections into tracks, online."""

from lodestar_live.linking.linker import LinkCounts, Linker

__all__ = ["LinkCounts", "Linker"]
