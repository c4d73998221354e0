"""The only room that knows pycro-manager and MMCore."""

from lodestar_live.microscope.acquire import acquire, acquire_sequence
from lodestar_live.microscope.core import (
    Microscope,
    MicroscopeError,
    active_core,
    has_active_core,
    open_demo,
    open_microscope,
)
from lodestar_live.microscope.frames import FrameReader
from lodestar_live.microscope.metadata import ImageFacts, read_facts
from lodestar_live.microscope.stage import CoreStage, StageWatch
from lodestar_live.microscope.substitute import read_stage, substitute_pixels

__all__ = [
    "CoreStage",
    "FrameReader",
    "ImageFacts",
    "Microscope",
    "MicroscopeError",
    "StageWatch",
    "acquire",
    "acquire_sequence",
    "active_core",
    "has_active_core",
    "open_demo",
    "open_microscope",
    "read_facts",
    "read_stage",
    "substitute_pixels",
]
