"""The motion model: what a pair of track and detection is worth.

Gain of a pair = log likelihood ratio of "this track made this detection" against "the
track was missed or is gone, and the detection is something new"::

    log [ p_d e N(z; prediction, S) / ((1 - p_d e) density of new detections) ]

with e the probability that the track exists. A pair with a gain below zero is no
candidate, which is each track's own gate.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray, Rows
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray, pairs_within
from lodestar_live.linking.learning import (
    DetectionLearner,
    MotionLearner,
    first_step_variance,
)
from lodestar_live.linking.states import (
    AXES,
    Filtered,
    States,
    measured_position,
    measured_variance,
)
from lodestar_live.motion import Belief, Motion, born, predict, update

SURVIVAL = 0.99  # probability that a particle is still there one frame later
FIRST_CLUTTER = 0.05  # share of false positives assumed until it is learnt
CERTAIN = 0.999  # no existence probability exceeds this
CONFIRMED = 0.9
SEEN_TO_BE_REAL = 3  # detections after which a birth is judged real
OVER = 0.01  # a track less probable than this has ended
# Real steps have heavier tails than one Gaussian: a detector jumps between the ends of
# a rod, a particle is kicked. This share of them is this many times wider.
JUMP_SHARE, JUMP_WIDTH = 0.02, 4.0
REACH_SD = 6.0  # one Gaussian step in 10^7 goes farther; tails again


class MotionModel:
    """Predict, weigh, update and end tracks by laws of motion that are learnt."""

    def __init__(self, first_gate_px: float | None = None) -> None:
        self.detection = DetectionLearner()
        self.motion: dict[str, MotionLearner] = {}
        self._first_gate_px = first_gate_px
        self._first_frame: int | None = None
        self._dt = 1

    def law(self, unit: str) -> Motion | None:
        """Return the law of motion in "px" or "um", None before it is known."""
        return self.motion[unit].motion if unit in self.motion else None

    def predict(self, states: States, dt: int) -> None:
        """Move every belief `dt` frames ahead."""
        self._dt = dt
        for unit, learner in self.motion.items():
            part = states.filtered[unit]
            part.belief = predict(part.belief, learner.motion, dt)
        states.existence = states.existence * SURVIVAL**dt

    def expect(self, states: States, dt: int) -> tuple[FloatArray, FloatArray]:
        """Return where each will be `dt` frames on, and how far from there it may be.

        That is `REACH_SD` standard deviations; NaN before a law of motion is known.
        """
        now, law = states.filtered["px"].belief, self.law("px")
        if law is None:
            return now.position, np.full(len(states), np.nan)
        ahead = predict(now, law, dt)
        return ahead.position, REACH_SD * np.sqrt(ahead.variance)

    def candidates(self, states: States, rows: Rows) -> Pairs:
        """Return every pair worth more than leaving both alone."""
        self.detection.look(rows)
        if not len(states) or not len(rows):
            return Pairs.none()
        points = measured_position(rows, "px")
        self._start(states, points)
        noise = self._noise(rows, "px")
        worth = self._worth(states)
        now = states.filtered["px"].belief
        variance = now.variance + np.sort(noise)[9 * len(noise) // 10]
        most = (
            worth + self._most_from_depth(states, rows) - np.log(2 * np.pi * variance)
        )
        radius = np.maximum(_reach(most, variance), _reach_of_jumps(most, variance))
        track, found = pairs_within(now.position, radius, points)
        gain = worth[track] + self._log_density(states, track, rows, found)
        keep = np.flatnonzero(gain > 0)
        return Pairs(track[keep], found[keep], gain[keep])

    def update(
        self, states: States, hit: IntArray, rows: Rows, elapsed: IntArray
    ) -> None:
        """Correct the tracks `hit` by their detections; the others were missed."""
        chance, e = self.detection.p_detect, states.existence
        states.existence = e * (1 - chance) / (1 - chance * e)
        if "px" not in self.motion:  # nothing has been linked yet
            return
        self._learn_detection(states, hit)
        density = self._log_density(states, hit, rows, np.arange(len(rows)))
        ratio = np.exp(np.minimum(density, 100.0)) / self.detection.new_per_px2
        odds = e[hit] / (1 - e[hit]) * chance * ratio
        states.existence[hit] = np.minimum(odds / (1 + odds), CERTAIN)
        for unit in AXES:
            self._correct(states, hit, rows, unit)

    def birth(self, births: States, *, is_first: bool) -> None:
        """Fill in what is known of tracks that have just begun."""
        if not len(births):
            return
        first = 1 - FIRST_CLUTTER if is_first else self.detection.p_real
        births.existence = np.full(len(births), first)
        for unit in AXES:
            if unit in self.motion:
                self._begin(births, unit)
            else:
                position = measured_position(births.measured, unit)
                births.filtered[unit].belief.position[:] = position

    def is_confirmed(self, states: States) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        often = states.n_seen >= SEEN_TO_BE_REAL
        return np.asarray(often & (states.existence > CONFIRMED))

    def is_over(self, states: States) -> BoolArray:
        """Return which tracks have become too improbable."""
        return np.asarray(states.existence < OVER)

    def learn(self, states: States, over: BoolArray, births: States) -> None:
        """Learn from what was born, proved real and ended in this frame."""
        if self._first_frame is None:
            if len(births):
                self._first_frame = int(births.born[0])
            return
        young = states.born > self._first_frame
        is_third = states.n_seen == SEEN_TO_BE_REAL
        real = young & is_third & (states.detection_index >= 0)
        false = young & over & (states.n_seen < SEEN_TO_BE_REAL)
        self.detection.judge(real=int(real.sum()), false=int(false.sum()))
        self.detection.observe_new(len(births))

    def _start(self, states: States, points: FloatArray) -> None:
        """Guess the law of motion in the first frame that has something to link."""
        if "px" in self.motion:
            return
        gate_px = self._first_gate_px
        variance = first_step_variance(
            states.filtered["px"].belief.position,
            points,
            likely_sd_px=None if gate_px is None else gate_px / 3.0,
        )
        self.motion["px"] = MotionLearner(variance, n_axes=2)
        self.detection.expect_new(FIRST_CLUTTER * len(points))
        self._begin(states, "px")
        self.predict(states, self._dt)

    def _begin(self, states: States, unit: str) -> None:
        """Start the filters from the last detection alone."""
        noise = self._noise(states.measured, unit)
        position = measured_position(states.measured, unit)
        law = self.motion[unit].motion
        states.filtered[unit].belief = born(position, noise, law)

    def _worth(self, states: States) -> FloatArray:
        """Return the part of the gain that no position changes."""
        found = self.detection.p_detect * states.existence
        return np.log(found / (1 - found) / self.detection.new_per_px2)

    def _most_from_depth(self, states: States, rows: Rows) -> float:
        """Return the most that agreement in z can add to a gain."""
        if "um" not in self.motion:
            return 0.0
        known = states.filtered["um"].belief.variance
        known = known[np.isfinite(known)]
        least = known.min(initial=np.inf) + self._noise(rows, "um").min()
        ratio = self.detection.depth_um**2 / (2 * np.pi * max(float(least), 1e-12))
        return max(0.5 * float(np.log(ratio)), 0.0)

    def _log_density(
        self, states: States, track: IntArray, rows: Rows, found: IntArray
    ) -> FloatArray:
        """Return the log density (per px²) of detections under their tracks.

        z, where both sides have it, multiplies this by its density relative to that of
        new detections, which may lie anywhere in the depth.
        """
        now = states.filtered["px"].belief
        total = now.variance[track] + self._noise(rows, "px")[found]
        dy = rows["y_px"][found] - now.position[track, 0]
        dx = rows["x_px"][found] - now.position[track, 1]
        density = _log_heavy_tailed(dy * dy + dx * dx, total)
        if "um" in self.motion:
            now = states.filtered["um"].belief
            total = now.variance[track] + self._noise(rows, "um")[found]
            dz = rows["z_um"][found] - now.position[track, 0]
            ratio = self.detection.depth_um**2 / (2 * np.pi * total)
            gain = 0.5 * np.log(ratio) - dz * dz / (2 * total)
            density += np.where(np.isfinite(gain), gain, 0.0)
        return density

    def _noise(self, rows: Rows, unit: str) -> FloatArray:
        measured = measured_variance(rows, unit)
        learnt = self.motion[unit].noise_variance
        return np.where(np.isfinite(measured), measured, learnt)

    def _learn_detection(self, states: States, hit: IntArray) -> None:
        established = (states.detection_index >= 0) & states.is_confirmed
        seen = int(established[hit].sum())
        self.detection.observe(expected=int(established.sum()), seen=seen)

    def _correct(self, states: States, hit: IntArray, rows: Rows, unit: str) -> None:
        """Filter one unit's positions and learn from the displacements."""
        points = measured_position(rows, unit)
        known = np.isfinite(points[:, 0])
        if unit not in self.motion and not known.any():
            return
        part = states.filtered[unit]
        self._remember(states, part, hit, points, unit)
        if unit not in self.motion:
            self._start_depth(states, part)
            return
        if not known.all():
            hit, points, rows = hit[known], points[known], rows[known]
        now, noise = part.belief.take(hit), self._noise(rows, unit)
        _doubt_after_jumps(now, points, noise)
        after = update(now, points, noise)
        is_fresh = ~np.isfinite(now.position[:, 0])
        if is_fresh.any():
            start = born(points, noise, self.motion[unit].motion)
            after.put(np.flatnonzero(is_fresh), start.take(np.flatnonzero(is_fresh)))
        part.belief.put(hit, after)
        self.motion[unit].observe(
            part.steps, part.has_step, measured_variance(rows, unit), self._dt
        )

    @staticmethod
    def _remember(
        states: States, part: Filtered, hit: IntArray, points: FloatArray, unit: str
    ) -> None:
        """Push this frame's displacement, of tracks also seen in the frame before."""
        step = np.zeros_like(part.steps[0])
        has_step = np.zeros(len(states))
        twice = states.detection_index[hit] >= 0
        before = measured_position(states.measured, unit)[hit]
        difference = points - before
        twice &= np.isfinite(difference[:, 0])
        step[hit[twice]] = difference[twice]
        has_step[hit[twice]] = 1.0
        part.steps = np.concatenate([step[None], part.steps[:-1]])
        part.has_step = np.concatenate([has_step[None], part.has_step[:-1]])

    def _start_depth(self, states: States, part: Filtered) -> None:
        squares = part.steps[0][part.has_step[0] > 0] ** 2
        if len(squares):
            # 0.455 = median of a squared standard normal.
            variance = max(float(np.median(squares)) / 0.455, 1e-12)
            self.motion["um"] = MotionLearner(variance, n_axes=1)
            self._begin(states, "um")


def _reach(most: FloatArray, variance: FloatArray) -> FloatArray:
    """Return the distance at which a gain of `most` is used up, -1 if there is none."""
    return np.where(most > 0, np.sqrt(2 * variance * np.maximum(most, 0.0)), -1.0)


def _reach_of_jumps(most: FloatArray, variance: FloatArray) -> FloatArray:
    left = most + np.log(JUMP_SHARE / JUMP_WIDTH**2)
    return _reach(left, JUMP_WIDTH**2 * variance)


def _log_heavy_tailed(distance_sq: FloatArray, variance: FloatArray) -> FloatArray:
    """Return the log density in the plane of a step, most Gaussian, some wider."""
    scale = -np.log(2 * np.pi * variance)
    usual = scale - distance_sq / (2 * variance)
    wide = scale - distance_sq / (2 * JUMP_WIDTH**2 * variance)
    result = np.logaddexp(usual, wide + np.log(JUMP_SHARE / JUMP_WIDTH**2))
    return np.asarray(result)


def _doubt_after_jumps(now: Belief, points: FloatArray, noise: FloatArray) -> None:
    """Widen the prediction that a detection contradicts, before it is corrected."""
    total = now.variance + noise
    distance_sq = ((points - now.position) ** 2).sum(axis=1)
    usual = np.log1p(-JUMP_SHARE) - distance_sq / (2 * total)
    wide = np.log(JUMP_SHARE / JUMP_WIDTH**2) - distance_sq / (
        2 * JUMP_WIDTH**2 * total
    )
    jumped = wide > usual
    now.variance[jumped] *= JUMP_WIDTH**2
