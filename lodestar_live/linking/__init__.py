"""Detections into tracks, online."""
