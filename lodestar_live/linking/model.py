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
    belief,
    measured_position,
    measured_variance,
    store,
)
from lodestar_live.motion import Motion, born, predict, update

SURVIVAL = 0.99  # probability that a particle is still there one frame later
FIRST_CLUTTER = 0.05  # share of false positives assumed until it is learnt
CERTAIN = 0.999  # no existence probability exceeds this
CONFIRMED = 0.9
SEEN_TO_BE_REAL = 3  # detections after which a birth is judged real
OVER = 0.01  # a track less probable than this has ended


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

    def predict(self, states: Rows, dt: int) -> None:
        """Move every belief `dt` frames ahead."""
        self._dt = dt
        for unit, learner in self.motion.items():
            ahead = predict(belief(states, unit), learner.motion, dt)
            store(states, unit, ahead)
        states["existence"] *= SURVIVAL**dt

    def candidates(self, states: Rows, rows: Rows) -> Pairs:
        """Return every pair worth more than leaving both alone."""
        points = measured_position(rows, "px")
        self.detection.look(rows)
        if not len(states) or not len(rows):
            return Pairs.none()
        self._start(states, points)
        noise = self._noise(rows, "px")
        worth = self._worth(states)
        variance = states["variance_px"][:, 0] + np.quantile(noise, 0.9)
        reach2 = (
            2
            * variance
            * (worth + self._most_from_depth() - np.log(2 * np.pi * variance))
        )
        radius = np.where(reach2 > 0, np.sqrt(np.maximum(reach2, 0.0)), -1.0)
        track, found = pairs_within(states["position_px"], radius, points)
        gain = worth[track] + self._log_density(states, track, rows[found])
        keep = np.flatnonzero(gain > 0)
        return Pairs(track[keep], found[keep], gain[keep])

    def update(
        self, states: Rows, hit: IntArray, rows: Rows, elapsed: IntArray
    ) -> None:
        """Correct the tracks `hit` by their detections; the others were missed."""
        chance = self.detection.p_detect
        if "px" not in self.motion:  # nothing has been linked yet
            states["existence"] *= 1 - chance
            return
        self._learn_detection(states, hit)
        density = self._log_density(states, hit, rows)
        e = states["existence"].copy()
        ratio = np.exp(np.minimum(density, 100.0)) / self.detection.new_per_px2
        odds = e[hit] / (1 - e[hit]) * chance * ratio
        e *= (1 - chance) / (1 - chance * e)
        e[hit] = np.minimum(odds / (1 + odds), CERTAIN)
        states["existence"] = e
        for unit in AXES:
            self._correct(states, hit, rows, unit)

    def birth(self, states: Rows, rows: Rows, *, is_first: bool) -> None:
        """Start tracks at detections that belong to none."""
        states["existence"] = 1 - FIRST_CLUTTER if is_first else self.detection.p_real
        for unit in AXES:
            states[f"displacements_{unit}"] = np.nan
            states[f"variance_{unit}"] = np.nan
            states[f"position_{unit}"] = measured_position(rows, unit)
            if unit in self.motion:
                self._begin(states, unit, rows)

    def is_confirmed(self, states: Rows) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        often = states["n_seen"] >= SEEN_TO_BE_REAL
        return np.asarray(often & (states["existence"] > CONFIRMED))

    def is_over(self, states: Rows) -> BoolArray:
        """Return which tracks have become too improbable."""
        return np.asarray(states["existence"] < OVER)

    def learn(self, states: Rows, over: BoolArray, births: Rows) -> None:
        """Learn from what was born, proved real and ended in this frame."""
        if self._first_frame is None:
            if len(births):
                self._first_frame = int(births["born"][0])
            return
        young = states["born"] > self._first_frame
        is_third = states["n_seen"] == SEEN_TO_BE_REAL
        real = young & is_third & (states["detection_index"] >= 0)
        false = young & over & (states["n_seen"] < SEEN_TO_BE_REAL)
        self.detection.judge(real=int(real.sum()), false=int(false.sum()))
        self.detection.observe_new(len(births))

    def _start(self, states: Rows, points: FloatArray) -> None:
        """Guess the law of motion in the first frame that has something to link."""
        if "px" in self.motion:
            return
        if self._first_gate_px is not None:
            variance = (self._first_gate_px / 3.0) ** 2
        else:
            variance = first_step_variance(states["position_px"], points)
        self.motion["px"] = MotionLearner(variance, n_axes=2)
        self.detection.expect_new(FIRST_CLUTTER * len(points))
        self._begin(states, "px", states["measured"])
        self.predict(states, self._dt)

    def _begin(self, states: Rows, unit: str, rows: Rows) -> None:
        learner = self.motion[unit]
        noise = self._noise(rows, unit)
        store(states, unit, born(measured_position(rows, unit), noise, learner.motion))

    def _worth(self, states: Rows) -> FloatArray:
        """Return the part of the gain that no position changes."""
        found = self.detection.p_detect * states["existence"]
        return np.log(found / (1 - found) / self.detection.new_per_px2)

    def _most_from_depth(self) -> float:
        """Return the most that agreement in z can add to a gain."""
        if "um" not in self.motion:
            return 0.0
        variance = 2 * self.motion["um"].noise_variance
        ratio = self.detection.depth_um**2 / (2 * np.pi * variance)
        return max(0.5 * float(np.log(ratio)), 0.0)

    def _log_density(self, states: Rows, track: IntArray, rows: Rows) -> FloatArray:
        """Return the log density (per px²) of detections under their tracks.

        z, where both sides have it, multiplies this by its density relative to that of
        new detections, which may lie anywhere in the depth.
        """
        total = states["variance_px"][track, 0] + self._noise(rows, "px")
        step = states["position_px"][track]
        dy, dx = rows["y_px"] - step[:, 0], rows["x_px"] - step[:, 1]
        density: FloatArray = -np.log(2 * np.pi * total)
        density -= (dy * dy + dx * dx) / (2 * total)
        if "um" in self.motion:
            total = states["variance_um"][track, 0] + self._noise(rows, "um")
            dz = rows["z_um"] - states["position_um"][track, 0]
            ratio = self.detection.depth_um**2 / (2 * np.pi * total)
            gain = 0.5 * np.log(ratio) - dz * dz / (2 * total)
            density += np.where(np.isfinite(gain), gain, 0.0)
        return density

    def _noise(self, rows: Rows, unit: str) -> FloatArray:
        measured = measured_variance(rows, unit)
        learnt = self.motion[unit].noise_variance
        return np.where(np.isfinite(measured), measured, learnt)

    def _learn_detection(self, states: Rows, hit: IntArray) -> None:
        was_seen = states["detection_index"] >= 0
        established = was_seen & states["is_confirmed"]
        self.detection.observe(
            expected=int(established.sum()), seen=int(established[hit].sum())
        )

    def _correct(self, states: Rows, hit: IntArray, rows: Rows, unit: str) -> None:
        """Filter one unit's positions and remember the displacements."""
        points = measured_position(rows, unit)
        known = np.flatnonzero(np.isfinite(points[:, 0]))
        where, points, rows = hit[known], points[known], rows[known]
        history = states[f"displacements_{unit}"]
        history[:, 1:] = history[:, :-1].copy()
        history[:, 0] = np.nan
        was_seen = states["detection_index"][where] >= 0
        before = measured_position(states["measured"][where], unit)
        history[where, 0] = np.where(was_seen[:, None], points - before, np.nan)
        if unit not in self.motion:
            self._start_depth(history[where, 0])
            if unit in self.motion:
                self._begin(states, unit, states["measured"])
            else:
                return
        now = belief(states[where], unit)
        store(states, unit, update(now, points, self._noise(rows, unit)), where)
        fresh = ~np.isfinite(now.position[:, 0])
        if fresh.any():
            started = states[where[fresh]]
            self._begin(started, unit, rows[fresh])
            states[where[fresh]] = started
        self.motion[unit].observe(
            history[where], measured_variance(rows, unit), self._dt
        )

    def _start_depth(self, displacements_um: FloatArray) -> None:
        squares = displacements_um[np.isfinite(displacements_um)] ** 2
        if len(squares):
            # 0.455 = median of a squared standard normal.
            variance = max(float(np.median(squares)) / 0.455, 1e-12)
            self.motion["um"] = MotionLearner(variance, n_axes=1)
