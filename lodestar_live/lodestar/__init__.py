"""The former name of `lodestar_live.training`; it goes with version 0.3."""

import warnings
from importlib import import_module
from typing import Any

__all__ = [
    "Model",
    "NetworkName",
    "Progress",
    "Quality",
    "Start",
    "TrainingStep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"lodestar_live.lodestar.{name} is now lodestar_live.training.{name}.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("lodestar_live.training"), name)
