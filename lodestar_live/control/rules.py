"""Rules on tracks: ``when n_tracks > 20: set Camera Exposure 5``.

The grammar is all there is; nothing is evaluated::

    when QUANTITY OPERATOR NUMBER [for N frames]: set DEVICE PROPERTY VALUE

A device whose name has blanks is put in double quotes. A rule acts when its condition
becomes true, not while it stays true, and passes the safety gate like every command.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lodestar_live.control.gate import SafetyGate
from lodestar_live.data import Update
from lodestar_live.errors import SettingsError

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
QUANTITIES: dict[str, Callable[[Update], float]] = {
    "n_tracks": lambda update: float(len(update.tracks)),
    "n_detections": lambda update: float(len(update.detections)),
    "max_intensity": lambda update: _largest(update, "intensity"),
    "max_speed_px_per_frame": lambda update: _fastest(update),
    "max_age_frames": lambda update: _largest(update, "age_frames"),
}
_WORD = r'(?:"[^"]+"|\S+)'
_RULE = re.compile(
    r"\s*when\s+(?P<quantity>\w+)\s*(?P<operator>>=|<=|>|<)\s*(?P<number>\S+?)"
    r"(?:\s+for\s+(?P<frames>\d+)\s+frames)?\s*:"
    rf"\s*set\s+(?P<device>{_WORD})\s+(?P<name>{_WORD})\s+(?P<value>{_WORD})\s*"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One parsed rule; `text` is what the user wrote."""

    text: str
    quantity: str
    operator: str
    number: float
    n_frames: int
    device: str
    name: str
    value: str

    def holds(self, update: Update) -> bool:
        """Return whether the condition is true for this update."""
        value = QUANTITIES[self.quantity](update)
        return OPERATORS[self.operator](value, self.number)


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises
    ------
    SettingsError
        With the part that was not understood and what was expected.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"rule {text!r}: not understood; expected e.g. "
            "'when n_tracks > 20 for 3 frames: set Camera Exposure 5'."
        )
    if found["quantity"] not in QUANTITIES:
        raise SettingsError(
            f"rule {text!r}: unknown quantity {found['quantity']!r}; expected one of "
            f"{', '.join(QUANTITIES)}."
        )
    try:
        number = float(found["number"])
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise SettingsError(f"rule {text!r}: {found['number']!r} is not a number.")
    return Rule(
        text=text,
        quantity=found["quantity"],
        operator=found["operator"],
        number=number,
        n_frames=int(found["frames"] or 1),
        device=found["device"].strip('"'),
        name=found["name"].strip('"'),
        value=found["value"].strip('"'),
    )


class Rules:
    """Applies rules to every update.

    Parameters
    ----------
    texts
        As in the settings.
    gate
        Takes what the rules ask for.
    """

    def __init__(self, texts: tuple[str, ...], gate: SafetyGate) -> None:
        self._rules = [parse_rule(text) for text in texts]
        self._gate = gate
        self._frames_true = [0] * len(self._rules)

    def apply(self, update: Update) -> None:
        """Set what the rules whose condition just became true ask for."""
        for k, rule in enumerate(self._rules):
            self._frames_true[k] = self._frames_true[k] + 1 if rule.holds(update) else 0
            if self._frames_true[k] == rule.n_frames:
                self._gate.set_property(rule.device, rule.name, rule.value)


def _largest(update: Update, column: str) -> float:
    values = update.tracks.rows[column]
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0


def _fastest(update: Update) -> float:
    rows = update.tracks.rows
    speed = np.hypot(rows["vy_px_per_frame"], rows["vx_px_per_frame"])
    return float(np.nanmax(speed)) if np.isfinite(speed).any() else 0.0
