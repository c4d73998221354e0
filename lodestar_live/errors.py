"""Every error this package raises on purpose.

LodestarError
├── SettingsError      a setting is unknown, missing or impossible
├── InputError         an image, crop or file cannot be used
├── ModelError         a model file or its training cannot be used
├── CalibrationError   the pixel-to-stage calibration is missing or contradicted
├── StageError         the stage refused or left its limits
├── StreamError        a socket cannot be opened or a message is not ours
└── RecordingError     a run file cannot be written or read

A message names the thing, its value, what was expected and the remedy.
"""

import reprlib
from typing import Any


class LodestarError(Exception):
    """Base class: something the user can understand and put right."""


class SettingsError(LodestarError):
    """A setting is unknown, missing or impossible."""


class InputError(LodestarError, ValueError):
    """An image, crop or file cannot be used."""


class ModelError(LodestarError):
    """A model file or its training cannot be used."""


class CalibrationError(LodestarError):
    """The pixel-to-stage calibration is missing, stale or contradicted."""


class StageError(LodestarError):
    """The stage refused a command or one would leave its limits."""


class StreamError(LodestarError):
    """A socket cannot be opened, or a message is not one of ours."""


class RecordingError(LodestarError):
    """A run file cannot be written or read."""


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, whatever it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 80, 80
    try:
        return short.repr(value)
    except Exception:  # an integer of 5000 digits, a hostile __repr__
        return f"a {type(value).__name__}"
