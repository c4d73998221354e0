"""Does the stage do what the calibration says? Noticed within a few own moves.

An own move must shift the target in the view by exactly the opposite amount, so that
the target's place in the sample stays smooth. Were the calibration mirrored or rotated,
that place would jump with every move, and another of the eight orientations would make
it smooth. Comparing the roughness (second differences) under all eight tells them
apart from one clear move, long before the growing error leaves the view.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from lodestar_live.data import FloatArray

ORIENTATIONS = np.array(
    [
        [[a, 0], [0, b]] if straight else [[0, a], [b, 0]]
        for straight in (True, False)
        for a in (1, -1)
        for b in (1, -1)
    ],
    dtype=float,
)  # the first is "as calibrated"
OTHERS = (ORIENTATIONS != ORIENTATIONS[0]).any(axis=2).T  # per axis: not as calibrated
WINDOW_BENDS = 14
PROOF = 8.0  # log-likelihood ratio of two orientations
EDGE, EDGE_PROOF = 0.75, 1.0  # share of half the view; ratio that is enough there
GROWING_MOVES = 5
LONGEST_BEND_FRAMES = 6


class Seen(NamedTuple):
    """One frame: stage (2,) and the target's offset from it (2,), both µm."""

    frame_index: int
    t_s: float
    stage_um: FloatArray
    offset_um: FloatArray


class SignGuard:
    """Watches the target's place and the stage, frame by frame.

    Parameters
    ----------
    noise_um
        Localisation noise: the roughness that no orientation can avoid.
    view_um
        Shorter side of the view. Near its edge less proof is enough.
    """

    def __init__(self, noise_um: float, *, view_um: float = float("inf")) -> None:
        self._view_um = view_um
        self._floor = 6.0 * noise_um**2  # of a second difference: 1 + 4 + 1
        self._seen: deque[Seen] = deque(maxlen=3)
        self._bends: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=WINDOW_BENDS)
        self._errors_at_moves: deque[float] = deque(maxlen=GROWING_MOVES + 1)
        self._doubt: FloatArray = np.zeros(8)
        self.is_verified = np.array([False, False])  # (y, x)

    def observe(
        self,
        frame_index: int,
        t_s: float,
        stage_um: FloatArray,
        place_um: FloatArray,
    ) -> None:
        """Take the stage (2,) and the target's place in the sample (2,) of a frame."""
        self._seen.append(Seen(frame_index, t_s, stage_um, place_um - stage_um))
        if frame_index - self._seen[0].frame_index <= LONGEST_BEND_FRAMES:
            if len(self._seen) == 3:
                self._bends.append(_bend(*self._seen))
        rough = self._roughness()
        self._doubt = _evidence(rough.sum(axis=2), 2 * self._floor)
        against = _evidence(rough.transpose(2, 0, 1), self._floor)
        self.is_verified |= against.max(axis=1, where=OTHERS, initial=-np.inf) < -PROOF

    def moved(self) -> None:
        """Note that an own move was sent on what was seen last."""
        if self._seen:
            self._errors_at_moves.append(
                float(np.linalg.norm(self._seen[-1].offset_um))
            )

    def suspicion(self) -> str:
        """Return why the calibration must be wrong; empty while it may be right."""
        other = int(np.argmax(self._doubt))
        doubt = self._doubt[other]
        is_new = not bool(self.is_verified.all())
        if doubt > PROOF and (is_new or self._error_grew(1.5, GROWING_MOVES)):
            return _explain(other)  # once verified, late time stamps may cause doubt
        if is_new and doubt > EDGE_PROOF and self._is_leaving():
            return _explain(other)
        if doubt > PROOF / 3 and self._error_grew(3.0, GROWING_MOVES):
            return f"the error grew over {GROWING_MOVES} own moves: sign/calibration?"
        return ""

    def _is_leaving(self) -> bool:
        """Return whether own moves carried the target to the edge of the view."""
        return self._error_grew(1.0, 1) and bool(
            np.abs(self._seen[-1].offset_um).max() > EDGE * self._view_um / 2
        )

    def _error_grew(self, factor: float, n_moves: int) -> bool:
        errors = list(self._errors_at_moves)[-n_moves - 1 :]
        if len(errors) <= n_moves:
            return False
        return errors[-1] > factor * errors[0] and bool(np.all(np.diff(errors) > 0))

    def _roughness(self) -> FloatArray:
        """Squared second differences: orientation, bend, axis; (8, n, 2).

        Missed frames leave gaps; a move that falls into one is judged all the same.
        """
        stage, offset = np.array(self._bends).reshape(-1, 2, 2).transpose(1, 0, 2)
        turned = np.einsum("mij,nj->mni", ORIENTATIONS, offset)
        return np.asarray((stage + turned) ** 2)


def _bend(a: Seen, b: Seen, c: Seen) -> tuple[FloatArray, FloatArray]:
    """Second difference of stage and offset, of frames that may not be evenly spaced.

    It is twice the way from the middle one to the line through the others. Lines are
    drawn in time: by frame numbers a steady target would bend where a busy computer
    lets the camera wait, and own moves follow the target's.
    """
    share = (b.t_s - a.t_s) / (c.t_s - a.t_s) if c.t_s > a.t_s else 0.5
    stage = a.stage_um + share * (c.stage_um - a.stage_um) - b.stage_um
    offset = a.offset_um + share * (c.offset_um - a.offset_um) - b.offset_um
    return 2 * stage, 2 * offset


def _evidence(rough: FloatArray, floor: float) -> FloatArray:
    """Log-likelihood ratio of every orientation over the first.

    Heavy-tailed (Cauchy) residuals, so that outliers, which are rough under every
    orientation, prove nothing. `rough` is (..., orientation, bend).
    """
    if rough.shape[-1] == 0:
        return np.zeros(rough.shape[:-1])
    first = rough[..., :1, :]
    usual = np.median(np.minimum(first, rough), axis=-1, keepdims=True) + floor
    return np.asarray(np.log((first + usual) / (rough + usual)).sum(axis=-1))


def _explain(orientation: int) -> str:
    matrix = ORIENTATIONS[orientation].astype(int).tolist()
    return (
        "own moves shift the target the wrong way: sign/calibration? It looks turned "
        f"by {matrix} (y, x). Run lodestar-live calibrate."
    )
