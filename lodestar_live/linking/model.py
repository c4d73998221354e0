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
from lodestar_live.linking import mixture, visibility
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray, pairs_within
from lodestar_live.linking.learning import (
    LAGS,
    Newcomers,
    Opening,
    Population,
)
from lodestar_live.linking.states import (
    AXES,
    Filtered,
    States,
    measured_position,
    measured_variance,
    overall,
    whereabouts,
)
from lodestar_live.motion import Belief, Motion

FIRST_CLUTTER = 0.05  # share of false positives assumed until it is learnt
CONFIRMED = 0.9
SEEN_TO_BE_REAL = 3  # detections after which a birth is judged real
OVER = 0.01  # a track less probable than this has ended
LEAST_BACK = 0.003  # probability of being seen in the next frame
REACH_SD = 6.0  # one Gaussian step in 10^7 goes farther; tails again


class MotionModel:
    """Predict, weigh, update and end tracks by laws of motion that are learnt."""

    def __init__(self, first_gate_px: float | None = None) -> None:
        self.newcomers = Newcomers()
        self.visibility = visibility.Visibility()
        self.motion: dict[str, Population] = {}
        self._opening = Opening(None if first_gate_px is None else first_gate_px / 3.0)
        self._first_frame: int | None = None
        self._dt = 1.0

    def laws(self, states: States) -> FloatArray:
        """Return the probability of each of `LAW_NAMES`, (n, laws)."""
        weight = states.filtered["px"].weight
        return self.motion["px"].named(weight) if "px" in self.motion else weight

    def law(self, unit: str) -> Motion | None:
        """Return the mean law of motion in "px" or "um", None before it is known."""
        return self.motion[unit].average() if unit in self.motion else None

    def predict(self, states: States, dt: float) -> None:
        """Move every belief `dt` frames ahead."""
        self._dt = dt
        for unit, law in self.motion.items():
            mixture.move(states.filtered[unit], law, dt)
        frames = max(round(dt), 1)
        states.visibility = self.visibility.predict(states.visibility, frames)

    def ahead(self, part: Filtered, unit: str, dt: float) -> Belief:
        """Return one Gaussian per track of what is known of it `dt` frames on."""
        if unit not in self.motion:
            return overall(part)
        return mixture.ahead(part, self.motion[unit].motion, dt)

    def expect(self, states: States, dt: float) -> tuple[FloatArray, FloatArray]:
        """Return where each will be `dt` frames on, and how far from there it may be.

        That is `REACH_SD` standard deviations; NaN before a law of motion is known.
        """
        part = states.filtered["px"]
        if "px" not in self.motion:
            return part.belief.position[:, 0], np.full(len(states), np.nan)
        ahead = mixture.ahead(part, self.motion["px"].motion, dt)
        return ahead.position, REACH_SD * np.sqrt(ahead.variance)

    def candidates(self, states: States, rows: Rows) -> Pairs:
        """Return every pair worth more than leaving both alone."""
        self.newcomers.look(rows)
        if not len(states) or not len(rows):
            return Pairs.none()
        points = measured_position(rows, "px")
        self._start(states, points)
        part = states.filtered["px"]
        centre, variance = whereabouts(part)
        inside = self.newcomers.inside(centre, variance)
        states.visibility = visibility.leave(states.visibility, inside)
        worth = self._worth(states)
        most = worth + self._most_from_depth(states, rows)
        noise = self._noise(rows, "px")
        usual = np.sort(noise, axis=0)[9 * len(noise) // 10]
        radius = mixture.reach(part, centre, most, usual)
        track, found = pairs_within(centre, radius, points)
        fit = mixture.fit(part, track, points[found], noise[found])
        gain = worth[track] + fit.log_density
        gain += self._from_depth(states, track, rows, found)
        keep = np.flatnonzero(gain > 0)
        return Pairs(track[keep], found[keep], gain[keep])

    def update(
        self, states: States, hit: IntArray, rows: Rows, elapsed: FloatArray
    ) -> None:
        """Correct the tracks `hit` by their detections; the others were missed."""
        known = states.visibility
        states.visibility = visibility.after_miss(known)
        if "px" not in self.motion:  # nothing has been linked yet
            return
        self._learn_visibility(states, hit)
        points, noise = measured_position(rows, "px"), self._noise(rows, "px")
        fit = mixture.fit(states.filtered["px"], hit, points, noise)
        density = fit.log_density
        density += self._from_depth(states, hit, rows, np.arange(len(rows)))
        ratio = np.exp(np.minimum(density, 100.0)) / self.newcomers.new_per_px2
        states.visibility[hit] = visibility.after_hit(known[hit], ratio)
        self._correct(states, hit, rows, "px", fit)
        self._correct(states, hit, rows, "um")

    def birth(self, births: States, *, is_first: bool) -> None:
        """Fill in what is known of tracks that have just begun."""
        if not len(births):
            return
        first = 1 - FIRST_CLUTTER if is_first else self.newcomers.p_real
        births.visibility = visibility.born(len(births), first)
        for unit in AXES:
            if unit in self.motion:
                self._begin(births, unit)
            else:
                position = measured_position(births.measured, unit)
                part = births.filtered[unit]
                part.belief.position[:] = position[:, None]
                part.weight[:] = 1 / part.weight.shape[1]

    def is_confirmed(self, states: States) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        often = states.n_seen >= SEEN_TO_BE_REAL
        gone = states.visibility[:, visibility.GONE]
        return np.asarray(often & (gone < 1 - CONFIRMED))

    def is_over(self, states: States) -> BoolArray:
        """Return which tracks have become too improbable."""
        gone = states.visibility[:, visibility.GONE]
        back = self.visibility.soon(states.visibility)
        least = np.where(states.is_confirmed, LEAST_BACK, 4 * LEAST_BACK)
        return np.asarray((gone > 1 - OVER) | (back < least))

    def learn(
        self, states: States, over: BoolArray, births: States, frame: int
    ) -> None:
        """Learn from what was born, proved real and ended in this frame."""
        if self._first_frame is None:
            if len(births):
                self._first_frame = int(births.born[0])
                self.newcomers.first(len(births))
            return
        young = states.born > self._first_frame
        is_third = states.n_seen == SEEN_TO_BE_REAL
        real = young & is_third & (states.detection_index >= 0)
        false = young & over & (states.n_seen < SEEN_TO_BE_REAL)
        self.newcomers.judge(real=int(real.sum()), false=int(false.sum()))
        self.newcomers.observe_new(len(births))
        unseen = states.is_confirmed & (states.detection_index < 0)
        gap = frame - states.seen
        none = np.zeros(0, np.int64)
        self.visibility.observe(
            looked=0, lost=0, returned=none, ended=gap[unseen & over]
        )
        self.visibility.fit(gap[unseen & ~over])

    def _start(self, states: States, points: FloatArray) -> None:
        """Guess the law of motion in the first frames that have something to link."""
        if self._opening.is_settled:
            return
        last = states.detection_index >= 0
        if not last.any() and "px" not in self.motion:
            last[:] = True
        if last.any():
            self._opening.add(measured_position(states.measured[last], "px"), points)
            slow, variance = self._opening.variances()
            if "px" in self.motion:
                self.motion["px"].guess(variance, slow)
        if "px" in self.motion:
            return
        self.motion["px"] = Population(variance, slow, n_axes=2)
        self.newcomers.expect_new(FIRST_CLUTTER * len(points))
        self._begin(states, "px")
        mixture.move(states.filtered["px"], self.motion["px"], self._dt)

    def _begin(self, states: States, unit: str) -> None:
        """Start the filters from the last detection alone."""
        noise = self._noise(states.measured, unit)
        position = measured_position(states.measured, unit)
        mixture.begin(states.filtered[unit], position, noise, self.motion[unit])

    def _worth(self, states: States) -> FloatArray:
        """Return the part of the gain that no position changes."""
        found = np.clip(
            states.visibility[:, visibility.SEEN], 1e-9, visibility.MOST_CERTAIN
        )
        return np.log(found / (1 - found) / self.newcomers.new_per_px2)

    def _most_from_depth(self, states: States, rows: Rows) -> float:
        """Return the most that agreement in z can add to a gain."""
        if "um" not in self.motion:
            return 0.0
        known = states.filtered["um"].belief.variance
        known = known[np.isfinite(known)]
        least = known.min(initial=np.inf) + self._noise(rows, "um").min()
        ratio = self.newcomers.depth_um**2 / (2 * np.pi * max(float(least), 1e-12))
        return max(0.5 * float(np.log(ratio)), 0.0)

    def _from_depth(
        self, states: States, track: IntArray, rows: Rows, found: IntArray
    ) -> FloatArray:
        """Return what z adds to the log density (per px²) of pairs.

        Where both sides have z, that is its density relative to the density of new
        detections, which may lie anywhere in the depth.
        """
        if "um" not in self.motion:
            return np.zeros(len(track))
        now = states.filtered["um"].belief
        total = now.variance[track, 0] + self._noise(rows, "um")[found, 0]
        dz = rows["z_um"][found] - now.position[track, 0, 0]
        ratio = self.newcomers.depth_um**2 / (2 * np.pi * total)
        gain = 0.5 * np.log(ratio) - dz * dz / (2 * total)
        return np.where(np.isfinite(gain), gain, 0.0)

    def _noise(self, rows: Rows, unit: str) -> FloatArray:
        """Return the variance of measured positions under each law, (n, laws)."""
        measured = measured_variance(rows, unit)[:, None]
        learnt = self.motion[unit].noise_variance
        return np.where(np.isfinite(measured), measured, learnt)

    def _learn_visibility(self, states: States, hit: IntArray) -> None:
        """Count, before `States.see`, what was seen before and is or is not now."""
        sure = states.is_confirmed
        was_seen = sure & (states.detection_index >= 0)
        is_hit = np.zeros(len(states), np.bool_)
        is_hit[hit] = True
        self.visibility.observe(
            looked=int(was_seen.sum()),
            lost=int((was_seen & ~is_hit).sum()),
            returned=states.missed[sure & ~was_seen & is_hit],
            ended=np.zeros(0, np.int64),
        )

    def _correct(
        self,
        states: States,
        hit: IntArray,
        rows: Rows,
        unit: str,
        fit: mixture.Fit | None = None,
    ) -> None:
        """Filter one unit's positions and learn from the displacements.

        `fit` is that of these rows, where it is known already.
        """
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
            fit = None
        noise = self._noise(rows, unit)
        is_fresh = ~np.isfinite(part.belief.position[hit, 0, 0])
        if fit is None:
            fit = mixture.fit(part, hit, points, noise)
        mixture.correct(part, hit, points, noise, fit)
        if is_fresh.any():
            fresh = part.take(hit[is_fresh])
            mixture.begin(fresh, points[is_fresh], noise[is_fresh], self.motion[unit])
            part.belief.put(hit[is_fresh], fresh.belief)
            part.weight[hit[is_fresh]] = fresh.weight
        belief = part.weight if part.weight.shape[1] > 1 else np.ones_like(part.weight)
        self.motion[unit].observe(
            part.steps, part.has_step, belief, measured_variance(rows, unit), self._dt
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
        steps = part.steps
        part.sums[:, :LAGS] += np.einsum("lna,na->nl", steps, step) / step.shape[1]
        part.sums[:, LAGS : 2 * LAGS] += (part.has_step * has_step).T
        part.sums[:, 2 * LAGS :] += step

    def _start_depth(self, states: States, part: Filtered) -> None:
        squares = part.steps[0][part.has_step[0] > 0] ** 2
        if len(squares):
            # 0.455 = median of a squared standard normal.
            variance = max(float(np.median(squares)) / 0.455, 1e-12)
            self.motion["um"] = Population(variance, n_axes=1)
            self._begin(states, "um")
