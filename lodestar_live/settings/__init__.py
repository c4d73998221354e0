"""Settings: frozen, validated, unknown keys refused with a suggestion; TOML on disk."""

from lodestar_live.settings.control import Choice, ControlSettings, TravelLimits
from lodestar_live.settings.holography import HolographySettings
from lodestar_live.settings.microscope import (
    AcquisitionSettings,
    LiveSettings,
    MicroscopeSettings,
)
from lodestar_live.settings.modulation import ModulationSettings
from lodestar_live.settings.outputs import RecordingSettings, StreamSettings
from lodestar_live.settings.run import Settings, load_settings, parse_settings
from lodestar_live.settings.tracking import (
    DetectionSettings,
    LinkingSettings,
    TrainingSettings,
)

__all__ = [
    "AcquisitionSettings",
    "Choice",
    "ControlSettings",
    "DetectionSettings",
    "HolographySettings",
    "LinkingSettings",
    "LiveSettings",
    "MicroscopeSettings",
    "ModulationSettings",
    "RecordingSettings",
    "Settings",
    "StreamSettings",
    "TrainingSettings",
    "TravelLimits",
    "load_settings",
    "parse_settings",
]
