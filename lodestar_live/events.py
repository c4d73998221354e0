"""Every kind of event: its name, its fields, and one sentence.

A class here is the only way to make an event of its kind, so that an undeclared kind or
a field of the wrong type is an error of the type checker. PROTOCOL.md's table, the JSON
Schema and the tests are made from these classes.

Examples
--------
>>> TrainingFailed(why="no particle found").at(2.5)
Event(kind='training.failed', t_s=2.5, frame=-1, details={'why': 'no particle found'})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from lodestar_live.data import Event


@dataclass(frozen=True, kw_only=True)
class Details:
    """The fields of one kind of event; JSON-safe values only.

    A field with the default None is left out of the event when it is None.
    """

    kind: ClassVar[str] = ""

    def at(self, t_s: float, frame: int = -1) -> Event:
        """Return the event.

        Parameters
        ----------
        t_s
            When it happened, seconds since the run's start.
        frame
            The frame it is about; -1: none.
        """
        return Event(self.kind, t_s, frame, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, as `Event.details` holds them."""
        values = self.__dict__
        optional = _optional(type(self))
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in optional
        }


def _optional(kind: type[Details]) -> frozenset[str]:
    found = _OPTIONAL.get(kind)
    if found is None:
        found = frozenset(f.name for f in fields(kind) if f.default is not MISSING)
        _OPTIONAL[kind] = found
    return found


_OPTIONAL: dict[type[Details], frozenset[str]] = {}


# ---- tracks ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrackNews(Details):
    """Parallel lists: one entry per track."""

    track_ids: list[int]
    y_px: list[float]
    x_px: list[float]
    last_seen: list[int]  # frame


@dataclass(frozen=True, kw_only=True)
class TrackBirth(TrackNews):
    """Tracks are confirmed in this frame."""

    kind = "track.birth"


@dataclass(frozen=True, kw_only=True)
class TrackLost(TrackNews):
    """Confirmed tracks end in this frame."""

    kind = "track.lost"


@dataclass(frozen=True, kw_only=True)
class TrackReacquired(TrackNews):
    """Tracks are measured again after missed frames."""

    kind = "track.reacquired"


@dataclass(frozen=True, kw_only=True)
class TrackSuspectedSwap(Details):
    """Two tracks may have exchanged their particles; `odds` is how unlikely that is."""

    kind = "track.suspected_swap"
    track_ids: list[int]
    odds: float


@dataclass(frozen=True, kw_only=True)
class MotionChanged(Details):
    """Particles move by another law than before; one entry per track in each list."""

    kind = "motion.changed"
    track_ids: list[int]
    was: list[str]  # "still", "brownian", "directed", ...
    now: list[str]
    probability: list[float]  # of the new law


# ---- control -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ControlTarget(Details):
    """The controller follows this track from now on."""

    kind = "control.target"
    track_id: int
    was: int | None
    why: str


@dataclass(frozen=True, kw_only=True)
class ControlLost(Details):
    """The followed track was missed for more than `coast_frames`."""

    kind = "control.lost"
    track_id: int | None
    missed_frames: int


@dataclass(frozen=True, kw_only=True)
class ControlState(Details):
    """The controller's state changes."""

    kind = "control.state"
    state: str
    was: str | None = None
    track_id: int | None = None
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class ControlNoFrames(Details):
    """No frame arrived for several frame periods; the stage stands still."""

    kind = "control.no_frames"
    silence_s: float
    typical_s: float


@dataclass(frozen=True, kw_only=True)
class _Command(Details):
    """A command to the stage or the focus drive, and what it rests on."""

    axis: str  # "xy" or "z"
    t_data_s: float | None  # exposure of the newest frame used
    y_um: float | None = None
    x_um: float | None = None
    z_um: float | None = None
    why: str | None = None
    track_id: int | None = None
    frame: int | None = None
    error_um: float | None = None
    predicted_y_um: float | None = None
    predicted_x_um: float | None = None


@dataclass(frozen=True, kw_only=True)
class StageMove(_Command):
    """A move passed the safety gate and was sent."""

    kind = "stage.move"


@dataclass(frozen=True, kw_only=True)
class StageDryRun(_Command):
    """A move passed the safety gate; the run is not armed, so nothing was sent."""

    kind = "stage.dry_run"


@dataclass(frozen=True, kw_only=True)
class StageRefused(_Command):
    """The safety gate refused a move."""

    kind = "stage.refused"
    reason: str


@dataclass(frozen=True, kw_only=True)
class StageFailed(Details):
    """The driver raised an error on a move, a property or a stop."""

    kind = "stage.failed"
    reason: str
    axis: str | None = None
    y_um: float | None = None
    x_um: float | None = None
    z_um: float | None = None
    device: str | None = None
    name: str | None = None
    value: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageStopped(Details):
    """The stage was told to stand still; every command is refused from now on."""

    kind = "stage.stopped"
    reason: str


@dataclass(frozen=True, kw_only=True)
class StageHeld(Details):
    """Every command is refused from now on; a move under way may end."""

    kind = "stage.held"
    reason: str


@dataclass(frozen=True, kw_only=True)
class StageAllowed(Details):
    """Commands are taken again after the halt named in `after`."""

    kind = "stage.allowed"
    after: str


@dataclass(frozen=True, kw_only=True)
class StageMovedByOther(Details):
    """The stage stands elsewhere, and nobody here sent it: (y, x) or (z,), µm."""

    kind = "stage.moved_by_other"
    axis: str  # "xy" or "z"
    from_um: list[float]
    to_um: list[float]


@dataclass(frozen=True, kw_only=True)
class FocusState(Details):
    """The focus lock sees a signal again ("ok"), or sees none and rests."""

    kind = "focus.state"
    state: str  # "ok" or "no signal"
    measure: float  # of sharpness; 0: nothing but noise


@dataclass(frozen=True, kw_only=True)
class _Property(Details):
    """A device property and its value."""

    device: str
    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class PropertySet(_Property):
    """A rule set a device property."""

    kind = "property.set"


@dataclass(frozen=True, kw_only=True)
class PropertyDryRun(_Property):
    """A property passed the safety gate; the run is not armed, so nothing was sent."""

    kind = "property.dry_run"


@dataclass(frozen=True, kw_only=True)
class PropertyRefused(_Property):
    """The safety gate refused to set a property."""

    kind = "property.refused"
    reason: str


# ---- the run -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunDegraded(Details):
    """Many frames in a row failed; the controller stops the stage."""

    kind = "run.degraded"
    why: str


@dataclass(frozen=True, kw_only=True)
class RunResumed(Details):
    """A frame was processed again after many that failed."""

    kind = "run.resumed"


@dataclass(frozen=True, kw_only=True)
class RunEnded(Details):
    """The run ends: `completed`, `stopped` or `failed`, and why."""

    kind = "run.end"
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class HealthChanged(Details):
    """A part of the run changes its state: `ok`, `degraded` or `failed`."""

    kind = "health.changed"
    part: str
    state: str
    was: str
    why: str


@dataclass(frozen=True, kw_only=True)
class RecordingDegraded(Details):
    """The run file cannot be written; tracking goes on."""

    kind = "recording.degraded"
    why: str
    n_lost: int  # frames given up so far
    n_waiting: int  # items kept in memory until there is room


@dataclass(frozen=True, kw_only=True)
class RecordingResumed(Details):
    """The run file is written again."""

    kind = "recording.resumed"
    n_lost: int
    n_waiting: int


@dataclass(frozen=True, kw_only=True)
class _FrameLoss(Details):
    """A frame that is never processed."""

    t_arrival_s: float
    why: str


@dataclass(frozen=True, kw_only=True)
class FrameDropped(_FrameLoss):
    """A frame was dropped by policy, because the detector lags."""

    kind = "frame.dropped"


@dataclass(frozen=True, kw_only=True)
class FrameFailed(_FrameLoss):
    """The processing of a frame raised an error."""

    kind = "frame.failed"


@dataclass(frozen=True, kw_only=True)
class FrameWaiting(_FrameLoss):
    """A frame arrived before there was a model."""

    kind = "frame.waiting"


@dataclass(frozen=True, kw_only=True)
class FrameLate(Details):
    """A frame older than the newest one was not linked."""

    kind = "frame.late"
    newest: int  # frame


@dataclass(frozen=True, kw_only=True)
class FrameLost(_FrameLoss):
    """Frames never came; the source's own numbers leave a gap."""

    kind = "frame.lost"


@dataclass(frozen=True, kw_only=True)
class CameraError(Details):
    """The camera or the acquisition failed and was asked again."""

    kind = "camera.error"
    why: str


@dataclass(frozen=True, kw_only=True)
class EngineChosen(Details):
    """The fastest exact inference engine was chosen by a trial."""

    kind = "engine.chosen"
    engine: str
    best_ms: Mapping[str, float]
    refused: list[str]


@dataclass(frozen=True, kw_only=True)
class ModelUsed(Details):
    """A model is in use from the next frame on; `card` is its card as JSON."""

    kind = "model.used"
    version: int
    file: str
    sha256: str
    card: str


@dataclass(frozen=True, kw_only=True)
class TrainingStarted(Details):
    """The first training began, on the image of this frame."""

    kind = "training.started"


@dataclass(frozen=True, kw_only=True)
class TrainingFinished(Details):
    """The first model is in use."""

    kind = "training.finished"
    model: str


@dataclass(frozen=True, kw_only=True)
class TrainingFailed(Details):
    """The first training failed; another particle may be chosen."""

    kind = "training.failed"
    why: str


@dataclass(frozen=True, kw_only=True)
class RetrainStarted(Details):
    """A training beside the run began."""

    kind = "retrain.started"
    at_px: tuple[float, float] | None
    size_px: int | None


@dataclass(frozen=True, kw_only=True)
class _Judged(Details):
    """Both models on the same recent frames; numbers are per pair of frames."""

    old: Mapping[str, float | None]
    new: Mapping[str, float | None]
    is_better: bool
    why: str
    version: int
    model: str


@dataclass(frozen=True, kw_only=True)
class RetrainSwapped(_Judged):
    """The new model is better and in use."""

    kind = "retrain.swapped"


@dataclass(frozen=True, kw_only=True)
class RetrainKept(_Judged):
    """The new model is no better; the old one stays in use."""

    kind = "retrain.kept"


@dataclass(frozen=True, kw_only=True)
class RetrainFailed(Details):
    """The training beside the run failed; the model in use stays."""

    kind = "retrain.failed"
    why: str


@dataclass(frozen=True, kw_only=True)
class RetrainRolledBack(Details):
    """The model before the last swap is in use again."""

    kind = "retrain.rolled_back"
    version: int
    dropped: int


def _declared(parent: type[Details]) -> list[type[Details]]:
    below = [kind for child in parent.__subclasses__() for kind in _declared(child)]
    return ([parent] if parent.kind else []) + below


KINDS: Mapping[str, type[Details]] = {kind.kind: kind for kind in _declared(Details)}


def sentence(kind: str) -> str:
    """Return what an event of this kind says, in one sentence."""
    return (KINDS[kind].__doc__ or "").strip().splitlines()[0]
