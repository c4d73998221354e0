"""The way of a frame: source, prepare, detect, link, sinks.

`lodestar_live.sources` brings frames, `Pipeline` passes each through the steps, and
`lodestar_live.sinks` take the updates.
"""

from lodestar_live.pipeline.detect import DetectStep
from lodestar_live.pipeline.link import LinkStep
from lodestar_live.pipeline.pipeline import Detect, Link, Pipeline, Prepare
from lodestar_live.sinks import Sink

__all__ = ["Detect", "DetectStep", "Link", "LinkStep", "Pipeline", "Prepare", "Sink"]
