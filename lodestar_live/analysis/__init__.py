"""What recorded runs say together: a second channel, a known population."""

from lodestar_live.analysis.colocalise import (
    CO_LOCATED,
    NOT_CO_LOCATED,
    UNDECIDED,
    TrackClasses,
    classify_runs,
    classify_tracks,
)
from lodestar_live.analysis.population import PopulationScale, calibrate_population
from lodestar_live.analysis.register import Registration, register

__all__ = [
    "CO_LOCATED",
    "NOT_CO_LOCATED",
    "UNDECIDED",
    "PopulationScale",
    "Registration",
    "TrackClasses",
    "calibrate_population",
    "classify_runs",
    "classify_tracks",
    "register",
]
