"""Choose the engine of a run's detector beside the run, on one of its first frames."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lodestar_live import events
from lodestar_live.data import Detections, Event, FloatArray, Pixels
from lodestar_live.detection import Detector
from lodestar_live.detection.engines.open import preload

logger = logging.getLogger(__name__)


class EngineChoice:
    """Try the engines installed here once for every detector a run uses.

    The first frame with detections is tried on a thread of its own: frames go on being
    detected by the reference meanwhile, on cores that the trial shares for a second.

    Parameters
    ----------
    tell
        Takes the event ``engine.chosen`` with what was measured, for the run's record.
    clock
        Seconds since the run's start.
    """

    def __init__(
        self, tell: Callable[[Event], None], clock: Callable[[], float]
    ) -> None:
        preload()
        self._tell, self._clock = tell, clock
        self._decided: Detector | None = None
        self._thread: threading.Thread | None = None

    def offer(self, detector: Detector, pixels: Pixels, found: Detections) -> None:
        """Take a frame, which nobody changes, and what was found in it."""
        if detector is self._decided or not len(found):
            return
        self._decided = detector
        if detector.has_choice:
            self._thread = threading.Thread(
                target=self._choose,
                args=(detector, pixels, found.positions_px),
                name="lodestar-engine",
                daemon=True,
            )
            self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for a choice under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _choose(
        self, detector: Detector, pixels: Pixels, positions_px: FloatArray
    ) -> None:
        try:
            trials = detector.choose_engine(pixels, positions_px)
        except Exception:  # the reference goes on
            logger.exception("no other engine was chosen; using 'cpu'")
            return
        chosen = events.EngineChosen(
            engine=detector.engine.name,
            best_ms={trial.engine: trial.best_ms for trial in trials},
            refused=[trial.engine for trial in trials if not trial.is_accepted],
        )
        self._tell(chosen.at(self._clock()))
