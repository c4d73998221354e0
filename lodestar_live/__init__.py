"""Click one particle in one frame and follow every such particle live.

Public names are loaded on first use: ``import lodestar_live`` costs nothing and
the live path never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Detector": "lodestar_live.detection",
    "Linker": "lodestar_live.linking",
    "LiveTracker": "lodestar_live.live",
    "Publisher": "lodestar_live.streams",
    "Recording": "lodestar_live.recording",
    "Settings": "lodestar_live.settings",
    "Subscriber": "lodestar_live.streams",
    "load_settings": "lodestar_live.settings",
    "train": "lodestar_live.training",
    "Detections": "lodestar_live.data",
    "Event": "lodestar_live.data",
    "Frame": "lodestar_live.data",
    "Tracks": "lodestar_live.data",
    "Update": "lodestar_live.data",
}

__all__ = [
    "Detections",
    "Detector",
    "Event",
    "Frame",
    "Linker",
    "LiveTracker",
    "Publisher",
    "Recording",
    "Settings",
    "Subscriber",
    "Tracks",
    "Update",
    "__version__",
    "load_settings",
    "train",
]

if TYPE_CHECKING:
    from lodestar_live.data import Detections, Event, Frame, Tracks, Update
    from lodestar_live.detection import Detector
    from lodestar_live.linking import Linker
    from lodestar_live.live import LiveTracker
    from lodestar_live.recording import Recording
    from lodestar_live.settings import Settings, load_settings
    from lodestar_live.streams import Publisher, Subscriber
    from lodestar_live.training.trainer import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
