"""The run file, its exports, and recorded movies as frame sources."""

from lodestar_live.recording.recorder import Recorder
from lodestar_live.recording.recording import Recording
from lodestar_live.recording.region import RegionRecorder

__all__ = ["Recorder", "Recording", "RegionRecorder"]
