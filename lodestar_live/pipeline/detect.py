"""The detect step: a frame to detections, whole or around expected tracks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lodestar_live.data import Detections, FloatArray, Frame, Pixels
from lodestar_live.detection import Detector, Follower
from lodestar_live.detection.engines.choice import EngineChoice
from lodestar_live.holography import ParticleRefiner

PixelDetector = Callable[[Pixels], Detections]
#: Where tracks are expected in a frame: positions (n, 2) and radii (n,), px.
Expect = Callable[[Frame], tuple[FloatArray, FloatArray]]


class DetectStep:
    """Detect everywhere, or only where tracks are expected between full scans.

    Parameters
    ----------
    detector
        A `Detector`, or any callable from pixels to detections.
    expect
        Where the linker expects its tracks.
    full_every
        Frames from one full scan to the next; 1: every frame is scanned whole.
    refine
        Adds z and polarizability from the field around each detection.
    engines
        Offered the first frames, to choose the fastest engine.
    """

    def __init__(
        self,
        detector: PixelDetector,
        expect: Expect,
        *,
        full_every: int = 1,
        refine: ParticleRefiner | None = None,
        engines: EngineChoice | None = None,
    ) -> None:
        self.detector, self._expect = detector, expect
        self._refine, self._engines = refine, engines
        # Callables of the user's own see whole frames: only ours can be cut in tiles.
        self._own = detector if isinstance(detector, Detector) else None
        self._follower: Follower | None = None
        if self._own is not None and full_every != 1:
            self._follower = Follower(self._own, full_every=full_every)

    def __call__(self, frame: Frame) -> Detections:
        """Return the particles of `frame`."""
        if self._refine is None:
            return self._find(frame.pixels, frame)
        image = frame.pixels
        if self._own is not None and self._own.card.input != "field":
            image = np.ascontiguousarray(image.real)  # trained on intensities (inline)
        return self._refine(frame, self._find(image, frame))

    def _find(self, image: Pixels, frame: Frame) -> Detections:
        if self._follower is None:
            found = self.detector(image)
        else:
            found = self._follower(image, *self._expect(frame))
        if self._engines is not None and self._own is not None:
            self._engines.offer(self._own, image, found)
        return found
