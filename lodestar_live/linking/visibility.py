"""Whether a particle is seen: a hidden process with rates that the run teaches.

A particle is *seen* (detected), *missed* (unseen for a frame or two), *dark* (blinking
or hidden, for longer) or *gone* (bleached, left, or never real). From one frame to the
next::

    seen -> missed, dark, gone   with mu pi_m, mu pi_d, mu pi_g
    missed -> seen with b_m,  dark -> seen with b_d,  gone for ever

so the lengths of gaps follow two geometric laws, and some gaps never end. The five
numbers maximise the likelihood of the gaps of confirmed tracks (EM, with a prior);
a gap that has not ended counts for what it is: one at least as long.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.linking.gate import IntArray
from lodestar_live.linking.products import transform

SEEN, MISSED, DARK, GONE = range(4)
LONGEST = 128  # missed frames told apart
MEMORY_FRAMES = 200.0  # gaps are rarer than steps: remembered for longer
KEEP = float(np.exp(-1 / MEMORY_FRAMES))
PRIOR_MU, PRIOR_LOOKS = 0.08, 12.0
PRIOR_KIND, PRIOR_GAPS = np.array([0.6, 0.2, 0.2]), 5.0  # missed, dark, gone
PRIOR_BACK = np.array([0.85, 0.15])
BACK_LIMITS = np.array([[0.5, 0.99], [0.015, 0.45]])
MOST_CERTAIN = 0.995
_K = np.arange(1.0, LONGEST + 1)


class Visibility:
    """Learn how particles come and go; move what is known of each ahead.

    What is known of n tracks is an array (4, n): the probabilities of `SEEN`, `MISSED`,
    `DARK` and `GONE`.
    """

    def __init__(self) -> None:
        self.mu = PRIOR_MU
        self.kind = PRIOR_KIND.copy()
        self.back = PRIOR_BACK.copy()
        self._looks, self._lost = 0.0, 0.0
        self._returned = np.zeros(LONGEST)
        self._ended = np.zeros(LONGEST)
        self._has_gap = False
        self._knows_gaps = False
        self._powers: dict[int, FloatArray] = {}

    def transition(self, n_frames: int = 1) -> FloatArray:
        """Return the matrix (4, 4) that multiplies what is known."""
        n_frames = min(max(n_frames, 1), LONGEST)
        if n_frames not in self._powers:
            one = self._one()
            several = one if n_frames == 1 else np.linalg.matrix_power(one, n_frames)
            self._powers[n_frames] = several
        return self._powers[n_frames]

    def _one(self) -> FloatArray:
        mu = self.mu
        missed, dark, gone = self.kind.tolist()
        b_missed, b_dark = self.back.tolist()
        return np.array(
            [
                [1 - mu, b_missed, b_dark, 0.0],
                [mu * missed, 1 - b_missed, 0.0, 0.0],
                [mu * dark, 0.0, 1 - b_dark, 0.0],
                [mu * gone, 0.0, 0.0, 1.0],
            ]
        )

    def predict(self, known: FloatArray, n_frames: int) -> FloatArray:
        """Return the probabilities `n_frames` later."""
        return transform(self.transition(n_frames), known)

    def soon(self, known: FloatArray) -> FloatArray:
        """Return the probability of being seen in the next frame, (n,)."""
        return np.asarray(transform(self.transition()[SEEN : SEEN + 1], known)[0])

    def observe(
        self, *, looked: int, lost: int, returned: IntArray, ended: IntArray
    ) -> None:
        """Take one frame of confirmed tracks.

        Parameters
        ----------
        looked, lost
            How many had been seen in the frame before, and how many of them are missed.
        returned, ended
            Missed frames of the tracks that came back, and of those that were ended.
        """
        self._looks = self._looks * KEEP + looked
        self._lost = self._lost * KEEP + lost
        if self._knows_gaps:
            self._returned *= KEEP
            self._ended *= KEEP
        if not len(returned) and not len(ended):
            return
        self._has_gap = self._knows_gaps = True
        for total, gaps in ((self._returned, returned), (self._ended, ended)):
            if len(gaps):
                total += np.bincount(np.minimum(gaps, LONGEST) - 1, minlength=LONGEST)

    def fit(self, unseen: IntArray) -> None:
        """Fit the rates; `unseen`: missed frames of the tracks unseen at present."""
        self.mu = (self._lost + PRIOR_MU * PRIOR_LOOKS) / (self._looks + PRIOR_LOOKS)
        self.mu = min(max(self.mu, 0.002), 0.8)
        self._powers = {}
        if not len(unseen) and not self._has_gap:
            return
        self._has_gap = False
        still = np.bincount(np.clip(unseen, 1, LONGEST) - 1, minlength=LONGEST)
        waiting = self._ended + still
        for _ in range(2):
            self._improve(self._returned, waiting)

    def _improve(self, returned: FloatArray, waiting: FloatArray) -> None:
        stay = (1 - self.back)[:, None]
        came = self.kind[:2, None] * self.back[:, None] * stay ** (_K - 1)
        came *= returned / np.maximum(came.sum(axis=0), 1e-300)
        wait = np.empty((3, LONGEST))
        wait[:2] = self.kind[:2, None] * stay**_K
        wait[2] = self.kind[2]
        wait *= waiting / wait.sum(axis=0)
        total = wait.sum(axis=1)
        total[:2] += came.sum(axis=1)
        total += PRIOR_GAPS * PRIOR_KIND
        self.kind = total / total.sum()
        tries = ((came + wait[:2]) * _K).sum(axis=1)
        prior = PRIOR_GAPS * PRIOR_KIND[:2]
        back = (came.sum(axis=1) + prior) / (tries + prior / PRIOR_BACK)
        self.back = np.clip(back, *BACK_LIMITS.T)


def born(n: int, p_real: float) -> FloatArray:
    """Return what is known of `n` new detections, `p_real` of which are particles."""
    known = np.zeros((4, n))
    known[SEEN], known[GONE] = p_real, 1 - p_real
    return known


def leave(known: FloatArray, inside: FloatArray) -> FloatArray:
    """Return what is known if particles are in the field of view with `inside`, (n,).

    Only those that would be seen may leave: the others are not looked for.
    """
    left = known[SEEN] * (1 - inside)
    after = known.copy()
    after[SEEN] -= left
    after[GONE] += left
    return after


def after_miss(known: FloatArray) -> FloatArray:
    """Return what is known of tracks that were looked for and not found."""
    unseen = known.copy()
    unseen[SEEN] = 0.0
    rest = np.add.reduce(unseen, 0)
    return np.asarray(unseen / np.maximum(rest, 1e-12))


def after_hit(known: FloatArray, likelihood_ratio: FloatArray) -> FloatArray:
    """Return what is known of tracks that took a detection.

    `likelihood_ratio`: density of the detection under the track over that of new
    detections, shape (n,).
    """
    seen = known[SEEN] * likelihood_ratio
    after = np.zeros(known.shape)
    right = np.minimum(seen / (seen + 1 - known[SEEN]), 0.999, out=after[SEEN])
    np.subtract(1, right, out=after[GONE])
    return after
