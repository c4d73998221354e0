"""A fault that is made to happen, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened, with its figure, and whether that is what was expected."""

    text: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One fault; `make` takes the seed."""

    fault: str
    expected: str
    make: Callable[[int], Seen]
    is_slow: bool = False
