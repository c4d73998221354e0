"""Health: one state per part of a run, changed by events alone.

Whatever goes wrong is told as an event; the table here says what an event means for the
health of which part. So nothing is bad without having been told, and what the stream,
the page, the summary and the run file say of it cannot differ.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lodestar_live.data import Event
from lodestar_live.events import HealthChanged

PARTS = (
    "camera", "detector", "linker", "stage", "focus", "disk", "clock", "clients",
)  # fmt: skip
OK, DEGRADED, FAILED = "ok", "degraded", "failed"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended.

    Parameters
    ----------
    status
        ``completed``, ``stopped`` (by a person or a signal) or ``failed``; ``running``
        while it goes on, and in the file of a run whose program was killed;
        ``unknown`` in files of older versions.
    reason
        Why, in words.
    frames_lost
        Frames that were tracked but could not be recorded.
    """

    status: str
    reason: str = ""
    frames_lost: int = 0


class _Effect(NamedTuple):
    part: str
    state: str


def _of(part: str, state: str) -> Callable[[Event], _Effect]:
    return lambda _event: _Effect(part, state)


def _of_axis(state: str) -> Callable[[Event], _Effect]:
    def effect(event: Event) -> _Effect:
        return _Effect("focus" if event.details.get("axis") == "z" else "stage", state)

    return effect


_EFFECTS: Mapping[str, Callable[[Event], _Effect]] = {
    "recording.degraded": _of("disk", DEGRADED),
    "recording.resumed": _of("disk", OK),
    "run.degraded": _of("detector", DEGRADED),
    "run.resumed": _of("detector", OK),
    "training.failed": _of("detector", FAILED),
    "training.started": _of("detector", OK),
    "control.no_frames": _of("camera", DEGRADED),
    "stage.failed": _of_axis(DEGRADED),
    "stage.move": _of_axis(OK),
    "stage.held": _of("stage", FAILED),
    "stage.allowed": _of("stage", OK),
}


@dataclass(frozen=True, slots=True)
class PartHealth:
    """State of one part: `ok`, `degraded` or `failed`, why, and since when (run time).

    An untouched part is `ok` since 0.
    """

    state: str = OK
    why: str = ""
    since_s: float = 0.0


@dataclass(slots=True)
class Health:
    """The state machine; `take` every event, on any thread."""

    _parts: dict[str, PartHealth] = field(
        default_factory=lambda: dict.fromkeys(PARTS, PartHealth())
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_degraded(self) -> bool:
        """True while any part is not `ok`."""
        return any(part.state != OK for part in self._parts.values())

    def take(self, event: Event) -> Event | None:
        """Return ``health.changed`` if this event changes a state, else None."""
        effect = _EFFECTS.get(event.kind)
        if effect is None:
            return None
        part, state = effect(event)
        why = "" if state == OK else _why(event)
        with self._lock:
            was = self._parts[part]
            if was.state == state:
                return None
            self._parts[part] = PartHealth(state, why, event.t_s)
        changed = HealthChanged(part=part, state=state, was=was.state, why=why)
        return changed.at(event.t_s, event.frame)

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return every part that is not `ok`: its state, why and since when."""
        return {
            name: {"state": part.state, "why": part.why, "since_s": part.since_s}
            for name, part in self._parts.items()
            if part.state != OK
        }


def _why(event: Event) -> str:
    return str(event.details.get("why") or event.details.get("reason") or event.kind)
