"""Learn from a later frame while tracking goes on, and keep the better model.

Training runs in a process of its own (see `first_model`). The new model is judged
against the one in use on the frames of the last moments; only if it does better is it
swapped in, between two frames. The one before stays at hand for a rollback.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from lodestar_live import events
from lodestar_live.data import Detections, Event, Flag, Pixels
from lodestar_live.errors import InputError, LodestarError, ModelError
from lodestar_live.live.assemble import open_detector
from lodestar_live.live.first_model import TrainingProcess
from lodestar_live.live.frame_pool import FramePool
from lodestar_live.settings import Settings

logger = logging.getLogger(__name__)
Detect = Callable[[Pixels], Detections]

N_RECENT = 12
_ALIKE = 0.03  # models whose worth differs less are judged by their uncertainty
_GATE_PX = 10.0


@dataclass(frozen=True, slots=True)
class Worth:
    """What a detector makes of a few frames in a row; numbers are per pair of frames.

    `n_kept`: detections seen in both frames of a pair, near the same place. `n_lost`:
    seen in one only: flicker. `sigma_px`: median predicted error (NaN: not known).
    """

    n_kept: float
    n_lost: float
    sigma_px: float

    @property
    def total(self) -> float:
        """Kept minus lost: a particle counts for, a false alarm against."""
        return self.n_kept - self.n_lost


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict on a new model."""

    old: Worth
    new: Worth
    is_better: bool
    why: str


def judge(detect: Detect, frames: Sequence[Pixels], *, gate_px: float) -> Worth:
    """Measure how steadily a detector sees the particles of consecutive frames.

    Nothing tells a live run which detections are true, but particles stay from one
    frame to the next and false alarms do not. What is flagged as unlike the training
    particle does not count.

    Parameters
    ----------
    frames
        At least two, in order, each (y, x).
    gate_px
        Largest movement between two frames.
    """
    found, sigmas = [], []
    for pixels in frames:
        rows = detect(pixels).rows
        rows = rows[rows["flags"] & Flag.UNLIKE == 0]
        found.append(np.column_stack([rows["y_px"], rows["x_px"]]))
        sigmas.append(rows["sigma_px"])
    kept = [_n_pairs(a, b, gate_px) for a, b in itertools.pairwise(found)]
    seen = [(len(a) + len(b)) / 2 for a, b in itertools.pairwise(found)]
    known = np.concatenate(sigmas)
    known = known[np.isfinite(known)]
    n_kept = float(np.mean(kept))
    sigma = float(np.median(known)) if len(known) else float("nan")
    return Worth(n_kept, float(np.mean(seen)) - n_kept, sigma)


def compare(
    old: Detect, new: Detect, frames: Sequence[Pixels], *, gate_px: float = _GATE_PX
) -> Comparison:
    """Say whether a new detector beats the old one on recent frames."""
    before = judge(old, frames, gate_px=gate_px)
    after = judge(new, frames, gate_px=gate_px)
    step = after.total - before.total
    if after.n_kept == 0:
        return Comparison(before, after, False, "the new model keeps no particle")
    if abs(step) > _ALIKE * max(before.n_kept, after.n_kept):
        word = "more" if step > 0 else "fewer"
        why = f"{abs(step):.1f} {word} particles kept per frame"
        return Comparison(before, after, step > 0, why)
    better = bool(after.sigma_px < before.sigma_px)
    why = (
        f"the same particles with a predicted error of {after.sigma_px:.3f} px "
        f"instead of {before.sigma_px:.3f} px"
    )
    return Comparison(before, after, better, why)


def _n_pairs(a: Any, b: Any, gate_px: float) -> int:
    """Count mutual nearest neighbours within the gate."""
    if len(a) == 0 or len(b) == 0:
        return 0
    distance = cdist(a, b)
    there, back = distance.argmin(axis=1), distance.argmin(axis=0)
    index = np.arange(len(a))
    near = distance[index, there] <= gate_px
    return int(((back[there] == index) & near).sum())


class Retrainer:
    """Train on a later frame, swap the model if it is better, roll back on request.

    Parameters
    ----------
    settings
        The run's; its `training` section says how to train, except where.
    folder
        Each training gets ``retrain_<n>`` in it.
    detect
        The detector in use at the start: model version 0.
    swap
        Called with a detector and its version, on the training's or the caller's
        thread; must make it the one used from the next frame on (one assignment).
    tell
        Takes the events ``retrain.started``, ``.swapped``, ``.kept``, ``.failed``
        and ``.rolled_back``.
    clock
        Seconds since the run's start.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        detect: Detect,
        swap: Callable[[Detect, int], None],
        tell: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._folder = settings, folder
        self._swap, self._tell, self._clock = swap, tell, clock
        self._recent: deque[tuple[int, Pixels]] = deque(maxlen=N_RECENT)
        self._pool = FramePool(can_wait=True)
        self._models: list[tuple[int, Detect]] = [(0, detect)]
        self._n_trainings = 0
        self._lock = threading.Lock()
        self._training: TrainingProcess | None = None

    @property
    def version(self) -> int:
        """Version of the model in use."""
        return self._models[-1][0]

    @property
    def is_training(self) -> bool:
        """Whether a training is under way."""
        return self._training is not None

    def remember(self, pixels: Pixels, frame_index: int = -1) -> None:
        """Keep a copy of a processed frame for the comparison; the oldest is let go.

        A copy: if the engine's own arrays were kept, it would need fresh memory for the
        next ones, and stall the camera while that is made.
        """
        self._recent.append((frame_index, self._pool.keep(pixels)))

    def retrain(
        self,
        at_px: tuple[float, float] | None = None,
        size_px: int | None = None,
        *,
        frame_index: int | None = None,
    ) -> None:
        """Start to train on a recent frame; returns at once.

        Parameters
        ----------
        at_px
            (y, x) of the particle. None: a good one is chosen.
        size_px
            Side of the crop. None: estimated.
        frame_index
            The frame in which it is there, one of the last 12. None: the newest.

        Raises
        ------
        InputError
            A training is under way, fewer than two frames were seen, or the frame is
            no longer kept.
        """
        with self._lock:
            if self._training is not None:
                raise InputError("retrain: a training is under way; wait for it.")
            if len(self._recent) < 2:
                raise InputError(
                    f"retrain: {len(self._recent)} frames were seen; expected at "
                    "least 2 to judge the new model on. Try again in a moment."
                )
            pixels = self._pixels_of(frame_index)
            self._n_trainings += 1
            folder = self._folder / f"retrain_{self._n_trainings}"
            folder.mkdir(parents=True)
            where = {"at_px": at_px, "size_px": size_px, "not_at_px": None}
            started = events.RetrainStarted(at_px=at_px, size_px=size_px)
            self._tell(started.at(self._clock()))
            self._training = TrainingProcess(
                pixels,
                self._settings.training.model_copy(update=where),
                folder,
                detection=self._settings.detection,
                on_ready=self._on_ready,
                on_failure=self._on_failure,
            )

    def rollback(self) -> int:
        """Use the model before the last swap again; return its version.

        Raises
        ------
        InputError
            No model was swapped in.
        """
        with self._lock:
            if len(self._models) < 2:
                raise InputError("rollback: no model was swapped in; nothing to undo.")
            dropped, _ = self._models.pop()
            version, detect = self._models[-1]
            self._swap(detect, version)
        undone = events.RetrainRolledBack(version=version, dropped=dropped)
        self._tell(undone.at(self._clock()))
        return version

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the training under way is over and judged."""
        training = self._training
        if training is not None:
            training.join(timeout_s)

    def close(self) -> None:
        """End a training under way; nothing is swapped afterwards."""
        training = self._training
        if training is not None:
            training.cancel()
        self._training = None

    def _pixels_of(self, frame_index: int | None) -> Pixels:
        recent = list(self._recent)
        if frame_index is None:
            return recent[-1][1]
        for index, pixels in recent:
            if index == frame_index:
                return pixels
        raise InputError(
            f"retrain: frame {frame_index} is gone; the last {len(recent)} are kept. "
            "Choose the particle in a newer one."
        )

    def _on_ready(self, path: Path) -> None:
        try:
            new = open_detector(path, self._settings.detection)
            recent = [pixels for _, pixels in list(self._recent)]
            verdict = compare(self._models[-1][1], new, recent)
        except LodestarError as error:
            self._on_failure(ModelError(str(error)))
            return
        with self._lock:
            if verdict.is_better:
                version = self._n_trainings
                self._models.append((version, new))
                self._swap(new, version)
            self._training = None
        kind = events.RetrainSwapped if verdict.is_better else events.RetrainKept
        logger.info("%s: %s", kind.kind, verdict.why)
        facts = _json_safe(asdict(verdict))
        judged = kind(**facts, version=self.version, model=str(path))
        self._tell(judged.at(self._clock()))

    def _on_failure(self, error: ModelError) -> None:
        self._training = None
        self._tell(events.RetrainFailed(why=str(error)).at(self._clock()))


def _json_safe(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not know, by None."""
    return {
        key: _json_safe(value)
        if isinstance(value, dict)
        else (None if value != value else value)
        for key, value in values.items()
    }
