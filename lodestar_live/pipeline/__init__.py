"""The way of a frame: source, prepare, detect, link, sinks."""

from lodestar_live.pipeline.pipeline import Pipeline, Sink

__all__ = ["Pipeline", "Sink"]
