"""The only room that knows pycro-manager and MMCore."""

from lodestar_live.microscope.acquire import (
    AcquisitionSource,
    acquire,
    acquire_sequence,
)
from lodestar_live.microscope.bridge import make_patient
from lodestar_live.microscope.buffer import BufferSource
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
from lodestar_live.microscope.pymmcore_plus import PymmcorePlusSource
from lodestar_live.microscope.reach import Access, reach
from lodestar_live.microscope.snaps import note_snaps
from lodestar_live.microscope.stage import CoreStage, StageWatch
from lodestar_live.microscope.substitute import read_stage, substitute_pixels
from lodestar_live.microscope.watch import WatchSource

__all__ = [
    "Access",
    "AcquisitionSource",
    "BufferSource",
    "CoreStage",
    "FrameReader",
    "ImageFacts",
    "Microscope",
    "MicroscopeError",
    "PymmcorePlusSource",
    "StageWatch",
    "WatchSource",
    "acquire",
    "acquire_sequence",
    "active_core",
    "has_active_core",
    "make_patient",
    "note_snaps",
    "open_demo",
    "open_microscope",
    "reach",
    "read_facts",
    "read_stage",
    "substitute_pixels",
]
