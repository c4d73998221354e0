"""Where a run's model comes from: given, trained on its first frame, or retrained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lodestar_live import events
from lodestar_live.commands import RetrainArgs
from lodestar_live.data import Event, Frame, Tracks, Update
from lodestar_live.errors import InputError, ModelError
from lodestar_live.live.first_model import TrainingProcess
from lodestar_live.live.retrain import Retrainer
from lodestar_live.pipeline.detect import PixelDetector
from lodestar_live.settings import Settings

_RETRY_S = 2.0
_ROOM_BYTES = 32 * 2**20  # a model, its picture and the snapshot, and to spare
_TOO_SHORT = (
    "the run ended before its model was trained, so no frame was tracked. Take more "
    "frames, wait with LiveTracker.wait_until_tracking() or .events(), or train "
    "beforehand (lodestar-live train) and name the model."
)


class Models:
    """Give a run its detector, and another one on request.

    Parameters
    ----------
    settings
        The run's; models of holograms are trained beforehand and stay as they are.
    folder
        The run's folder; every training writes into it.
    load
        Opens a model's file as the run is set up to.
    use
        Called with a detector and its version (0: the first), on any thread; makes it
        the one used from the next frame on.
    tell
        Takes the events of trainings.
    note_error
        Takes (kind, text) of a first training that failed.
    clock
        Seconds since the run's start.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        load: Callable[[Path], PixelDetector],
        use: Callable[[PixelDetector, int], None],
        tell: Callable[[Event], None],
        note_error: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._folder = settings, folder
        self._load, self._use = load, use
        self._tell, self._note_error, self._clock = tell, note_error, clock
        self._training: TrainingProcess | None = None
        self._snapshot: Frame | None = None
        self._has_failed = self._is_closed = False
        self._next_try_s = 0.0  # of a first training that met a full disk
        self._newest = (-1, Tracks.empty())  # without pixels, which are reused
        self._retrainer: Retrainer | None = None

    def begin(self, detect: PixelDetector) -> None:
        """Start with a detector."""
        if self._settings.holography is None:
            self._retrainer = Retrainer(
                self._settings,
                self._folder,
                detect=detect,
                swap=self._use,
                tell=self._tell,
                clock=self._clock,
            )
        self._use(detect, 0)

    def wait_with(self, frame: Frame) -> None:
        """Take a frame while there is no model yet: the first one is trained on."""
        if self._is_closed:
            if not self._has_failed:
                self._on_failure(ModelError(_TOO_SHORT))
        elif self._snapshot is None and self._clock() >= self._next_try_s:
            self._train(frame)
        elif self._has_failed:
            self._snapshot = frame

    def remember(self, update: Update) -> None:
        """Keep what a retraining may be asked to start from."""
        self._newest = (update.frame.index, update.tracks)
        if self._retrainer is not None:
            self._retrainer.remember(update.frame.pixels, update.frame.index)

    def retrain(self, args: RetrainArgs) -> Mapping[str, Any]:
        """Train on a particle.

        A track is taken from the newest frame, and so is a place without ``frame``. A
        better model is kept. After a first training that failed, tracking begins with
        this one.

        Raises
        ------
        InputError
            A training is under way, the track or the frame is gone, or the model is one
            for holograms.
        """
        at_px, frame_index = self._position_of(args)
        if self._retrainer is not None:
            self._retrainer.retrain(at_px, args.size_px, frame_index=frame_index)
        elif self._has_failed and self._snapshot is not None:
            self._train(self._snapshot, at_px=at_px, size_px=args.size_px)
        else:
            raise InputError(
                "retrain: not possible now; expected a running detector of camera "
                "images (models of holograms are trained beforehand), and no training "
                "under way."
            )
        return {"training": True}

    def rollback(self) -> Mapping[str, Any]:
        """Use the model before the last swap again; return its version.

        Raises
        ------
        InputError
            No model was swapped in.
        """
        if self._retrainer is None:
            raise InputError("rollback: no model was swapped in; nothing to undo.")
        return {"version": self._retrainer.rollback()}

    @property
    def has_failed(self) -> bool:
        """Whether the first training failed and no other is under way."""
        return self._has_failed

    def close(self) -> None:
        """End every training under way; nothing is swapped afterwards."""
        self._is_closed = True
        if self._training is not None and self._training.cancel():
            self._on_failure(ModelError(_TOO_SHORT))
        if self._retrainer is not None:
            self._retrainer.close()

    def _position_of(self, args: RetrainArgs) -> tuple[tuple[float, float], int | None]:
        """Return (y, x) of the particle and its frame; of a track: in the newest."""
        if args.y_px is not None and args.x_px is not None:
            return (args.y_px, args.x_px), args.frame
        frame_index, tracks = self._newest
        mine = tracks.rows[tracks.rows["track_id"] == args.track_id]
        if not len(mine):
            raise InputError(f"retrain: track {args.track_id} is gone; choose another.")
        return (float(mine["y_px"][0]), float(mine["x_px"][0])), frame_index

    def _train(self, frame: Frame, **where: Any) -> None:
        self._snapshot, self._has_failed = frame, False
        self._tell(events.TrainingStarted().at(self._clock(), frame.index))
        try:
            self._training = TrainingProcess(
                frame.pixels,
                self._settings.training.model_copy(update=where),
                self._folder,
                detection=self._settings.detection,
                on_ready=self._on_ready,
                on_failure=self._on_failure,
            )
        except OSError as error:  # no room for the snapshot, say
            self._on_failure(ModelError(f"{self._folder}: {error}"), is_disk=True)

    def _on_ready(self, path: Path) -> None:
        try:
            detect = self._load(path)
        except Exception as error:
            self._on_failure(ModelError(str(error)))
            return
        self.begin(detect)
        self._tell(events.TrainingFinished(model=path.name).at(self._clock()))

    def _has_no_room(self) -> bool:
        """Tell whether the disk is the likely reason of a failure."""
        try:
            return shutil.disk_usage(self._folder).free < _ROOM_BYTES
        except OSError:
            return True

    def _on_failure(self, error: ModelError, *, is_disk: bool = False) -> None:
        """Say it; a disk without room is tried again with a later frame."""
        waits = not self._is_closed and (is_disk or self._has_no_room())
        if waits:
            self._snapshot, self._next_try_s = None, self._clock() + _RETRY_S
        self._has_failed = not waits
        self._note_error("training", str(error))
        self._tell(events.TrainingFailed(why=str(error)).at(self._clock()))
