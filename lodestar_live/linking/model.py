"""The motion model: what a pair of track and detection is worth.

Gain of a pair = log likelihood ratio of "this track made this detection" against "the
track was missed or is gone, and the detection is something new"::

    log [ p_d e N(z; prediction, S) / ((1 - p_d e) density of new detections) ]

with e the probability that the track exists. A pair with a gain below zero is no
candidate, which is each track's own gate.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.linking import mixture, visibility
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray, pairs_within
from lodestar_live.linking.learning import LAGS, Newcomers, Opening, Population
from lodestar_live.linking.states import (
    Filtered,
    Found,
    Overall,
    States,
    measured_variance,
    overall,
    whereabouts,
)
from lodestar_live.motion import Motion

FIRST_CLUTTER = 0.05  # share of false positives assumed until it is learnt
CONFIRMED = 0.9
SEEN_TO_BE_REAL = 3  # detections after which a birth is judged real
OVER = 0.01  # a track less probable than this has ended
LEAST_BACK = 0.003  # probability of being seen in the next frame
FEW_PAIRS = 64  # so few are weighed one and all
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
        self._fit: mixture.Fit | None = None  # of this frame's pairs
        self._density = np.zeros(0)  # their log densities, depth included

    @property
    def is_settled(self) -> bool:
        """Whether the law of motion is learnt from linked particles alone."""
        return self._opening.is_settled and "px" in self.motion

    def laws(self, states: States) -> FloatArray:
        """Return the probability of each of `LAW_NAMES`, (laws, n)."""
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

    def ahead(self, part: Filtered, unit: str, dt: float) -> Overall:
        """Return one Gaussian per track of what is known of it `dt` frames on."""
        if unit not in self.motion:
            return overall(part.belief, part.n_axes)
        return mixture.ahead(part, self.motion[unit], dt)

    def expect(self, states: States, dt: float) -> tuple[FloatArray, FloatArray]:
        """Return where each will be `dt` frames on, and how far from there it may be.

        That is `REACH_SD` standard deviations; NaN before a law of motion is known.
        """
        part = states.filtered["px"]
        if "px" not in self.motion:
            return part.last.T, np.full(len(states), np.nan)
        ahead = mixture.ahead(part, self.motion["px"], dt)
        return ahead.position.T, REACH_SD * np.sqrt(ahead.variance)

    def candidates(self, states: States, found: Found) -> Pairs:
        """Return every pair worth more than leaving both alone."""
        points = found.position["px"]
        self.newcomers.look(points, found.position.get("um"))
        self._fit = None
        if not len(states) or not len(found):
            return Pairs.none()
        self._start(states, points)
        part = states.filtered["px"]
        centre, variance = whereabouts(part)
        inside = self.newcomers.inside(centre, variance)
        if inside is not None:
            states.visibility = visibility.leave(states.visibility, inside)
        worth = self._worth(states)
        noise = self._noise(found.variance["px"], "px")
        if len(states) * len(found) <= FEW_PAIRS:
            track, detection = np.divmod(
                np.arange(len(states) * len(found)), len(found)
            )
        else:
            usual = np.sort(noise, axis=1)[:, 9 * noise.shape[1] // 10, None]
            most = worth + self._most_from_depth(states, found)
            radius = mixture.reach(part, centre, most, usual)
            track, detection = pairs_within(centre, radius, points)
        fit = mixture.fit(
            part, track, points.take(detection, axis=1), _of_pairs(noise, detection)
        )
        density = np.logaddexp(fit.usual, fit.wide)
        if "um" in self.motion:
            density += self._from_depth(states, track, found, detection)
        self._fit, self._density = fit, density
        gain = worth[track] + density
        good = (gain > 0).nonzero()[0]
        return Pairs(track[good], detection[good], gain[good], good)

    def update(
        self,
        states: States,
        hit: IntArray,
        found: Found,
        picked: IntArray | None,
        now: float,
    ) -> None:
        """Correct the tracks `hit` by their detections; the others were missed.

        `picked`: the numbers of their pairs.
        """
        known = states.visibility
        is_all = len(hit) == len(states)
        if not is_all:
            states.visibility = visibility.after_miss(known)
        if "px" not in self.motion:  # nothing has been linked yet
            return
        self._learn_visibility(states, hit, is_all=is_all)
        if self._fit is None or picked is None:  # there was nothing to link
            noise = self._noise(found.variance["px"], "px")
            part = states.filtered["px"]
            fit = mixture.fit(part, hit, found.position["px"], noise)
            density = np.zeros(0)
        else:
            fit, density = self._fit.take(picked), self._density[picked]
        ratio = np.exp(np.minimum(density, 100.0)) / self.newcomers.new_per_px2
        if is_all:
            states.visibility = visibility.after_hit(known, ratio)
        else:
            states.visibility[:, hit] = visibility.after_hit(known[:, hit], ratio)
        self._correct(states, hit, found, "px", fit)
        if "um" in states.filtered:
            self._correct(states, hit, found, "um")

    def birth(self, births: States, *, is_first: bool) -> None:
        """Fill in what is known of tracks that have just begun."""
        if not len(births):
            return
        first = 1 - FIRST_CLUTTER if is_first else self.newcomers.p_real
        births.visibility = visibility.born(len(births), first)
        for unit in births.filtered:
            if unit in self.motion:
                self._begin(births, unit)

    def is_confirmed(self, states: States) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        gone = states.visibility[visibility.GONE]
        often = states.n_seen >= SEEN_TO_BE_REAL
        return np.asarray(often & (gone < 1 - CONFIRMED))

    def is_over(self, states: States) -> BoolArray:
        """Return which tracks have become too improbable."""
        gone = states.visibility[visibility.GONE]
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
        real = states.n_seen == SEEN_TO_BE_REAL
        if real.any():
            real &= states.born > self._first_frame
            real &= states.detection_index >= 0
        any_over = bool(over.any())
        false = 0
        if any_over:
            young = over & (states.born > self._first_frame)
            few = states.n_seen < SEEN_TO_BE_REAL
            false = int(np.count_nonzero(young & few))
        self.newcomers.judge(real=int(np.count_nonzero(real)), false=false)
        self.newcomers.observe_new(len(births))
        unseen = states.is_confirmed & (states.detection_index < 0)
        ended = waiting = np.zeros(0, np.int64)
        if unseen.any():
            gap = frame - states.seen
            ended, waiting = gap[unseen & over], gap[unseen & ~over]
        self.visibility.observe(looked=0, lost=0, returned=ended[:0], ended=ended)
        self.visibility.fit(waiting)

    def _start(self, states: States, points: FloatArray) -> None:
        """Guess the law of motion in the first frames that have something to link."""
        if self._opening.is_settled:
            return
        last = states.detection_index >= 0
        if not last.any() and "px" not in self.motion:
            last[:] = True
        if last.any():
            self._opening.add(states.filtered["px"].last[:, last], points)
            slow, variance = self._opening.variances()
            if "px" in self.motion:
                self.motion["px"].guess(variance, slow)
        if "px" in self.motion:
            return
        self.motion["px"] = Population(variance, slow, n_axes=2)
        self.newcomers.expect_new(FIRST_CLUTTER * points.shape[1])
        self._begin(states, "px")
        mixture.move(states.filtered["px"], self.motion["px"], self._dt)

    def _begin(self, states: States, unit: str) -> None:
        """Start the filters from the last detection alone."""
        noise = self._noise(measured_variance(states.measured, unit), unit)
        part = states.filtered[unit]
        mixture.begin(part, part.last, noise, self.motion[unit])

    def _worth(self, states: States) -> FloatArray:
        """Return the part of the gain that no position changes."""
        found = states.visibility[visibility.SEEN]
        found = np.minimum(np.maximum(found, 1e-9), visibility.MOST_CERTAIN)
        odds = found / (1 - found)
        return np.asarray(np.log(odds / self.newcomers.new_per_px2))

    def _most_from_depth(self, states: States, found: Found) -> float:
        """Return the most that agreement in z can add to a gain."""
        if "um" not in self.motion or "um" not in found.position:
            return 0.0
        known = states.filtered["um"].variance
        known = known[np.isfinite(known)]
        noise = self._noise(found.variance["um"], "um")
        least = float(known.min(initial=np.inf) + noise.min())
        ratio = self.newcomers.depth_um**2 / (2 * np.pi * max(least, 1e-12))
        return max(0.5 * float(np.log(ratio)), 0.0)

    def _from_depth(
        self, states: States, track: IntArray, found: Found, detection: IntArray
    ) -> FloatArray | float:
        """Return what z adds to the log density (per px²) of pairs.

        Where both sides have z, that is its density relative to the density of new
        detections, which may lie anywhere in the depth.
        """
        if "um" not in found.position:
            return 0.0
        now = states.filtered["um"]
        noise = _of_pairs(self._noise(found.variance["um"], "um"), detection)[0]
        total = now.variance[0, track] + noise
        dz = found.position["um"][0, detection] - now.position[0, 0, track]
        ratio = self.newcomers.depth_um**2 / (2 * np.pi * total)
        gain = 0.5 * np.log(ratio) - dz * dz / (2 * total)
        return np.where(np.isfinite(gain), gain, 0.0)

    def _noise(self, measured: FloatArray | None, unit: str) -> FloatArray:
        """Return the variance of measured positions under each law.

        Shape (laws, m), or (laws, 1) where the detector gives none.
        """
        learnt = self.motion[unit].noise_variance
        if measured is None:
            return learnt
        return np.asarray(np.where(np.isfinite(measured), measured, learnt))

    def _learn_visibility(self, states: States, hit: IntArray, *, is_all: bool) -> None:
        """Count, before `States.see`, what was seen before and is or is not now."""
        sure = states.is_confirmed
        was_seen = sure & (states.detection_index >= 0)
        looked = int(np.count_nonzero(was_seen))
        lost, returned = 0, sure & ~was_seen
        if not is_all:
            is_hit = np.zeros(len(states), np.bool_)
            is_hit[hit] = True
            lost = looked - int(np.count_nonzero(was_seen & is_hit))
            returned &= is_hit
        self.visibility.observe(
            looked=looked,
            lost=lost,
            returned=states.missed[returned],
            ended=np.zeros(0, np.int64),
        )

    def _correct(
        self,
        states: States,
        hit: IntArray,
        found: Found,
        unit: str,
        fit: mixture.Fit | None = None,
    ) -> None:
        """Filter one unit's positions and learn from the displacements.

        `fit` is that of these detections, where it is known already.
        """
        part, law = states.filtered[unit], self.motion.get(unit)
        points = found.position.get(unit)
        if points is None:
            points = np.full((part.n_axes, len(hit)), np.nan)
        known = np.isfinite(points[0]).nonzero()[0]
        if law is not None or len(known):
            moments = _remember(states, part, hit, points)
            if law is None:
                self._start_depth(states, part)
        part.last[:, hit] = points
        if law is None:
            return
        measured = found.variance.get(unit)
        if len(known) < len(hit):
            hit, points, fit = hit[known], points[:, known], None
            measured = None if measured is None else measured[known]
        noise = self._noise(measured, unit)
        is_fresh = np.isnan(part.position[0, 0, hit])
        if fit is None:
            fit = mixture.fit(part, hit, points, noise)
        mixture.correct(part, hit, noise, fit)
        if is_fresh.any():
            fresh = part.take(hit[is_fresh])
            noise = noise[:, is_fresh] if noise.shape[1] > 1 else noise
            mixture.begin(fresh, points[:, is_fresh], noise, law)
            part.belief[:, :, hit[is_fresh]] = fresh.belief
        weight = part.weight if len(part.weight) > 1 else np.ones_like(part.weight)
        law.observe(moments, weight, measured, self._dt)

    def _start_depth(self, states: States, part: Filtered) -> None:
        steps = part.history[0]
        squares = steps[0, steps[1] > 0] ** 2
        if len(squares):
            # 0.455 = median of a squared standard normal.
            variance = max(float(np.median(squares)) / 0.455, 1e-12)
            self.motion["um"] = Population(variance, n_axes=1)
            self._begin(states, "um")


def _of_pairs(noise: FloatArray, detection: IntArray) -> FloatArray:
    """Return each pair's noise from each detection's, (laws, m); (laws, 1) as it is."""
    return noise if noise.shape[1] == 1 else noise.take(detection, axis=1)


def _remember(
    states: States, part: Filtered, hit: IntArray, points: FloatArray
) -> FloatArray:
    """Push this frame's displacement, of tracks also seen in the frame before.

    Returns
    -------
    The moments that `Population.observe` takes.
    """
    a = part.n_axes
    newest = np.zeros((a + 1, len(states)))
    difference = points - part.last.take(hit, axis=1)
    twice = (states.detection_index[hit] >= 0) & np.isfinite(difference[0])
    if twice.all():
        newest[:a, hit], newest[a, hit] = difference, 1.0
    else:
        again = hit[twice]
        newest[:a, again], newest[a, again] = difference[:, twice], 1.0
    history = part.history = np.concatenate([newest[None], part.history[:-1]])
    moments = np.empty((2 * LAGS + a, len(states)))
    np.add.reduce(history[:, :a] * newest[:a], 1, out=moments[:LAGS])
    moments[:LAGS] /= a
    np.multiply(history[:, a], newest[a], out=moments[LAGS : 2 * LAGS])
    moments[2 * LAGS :] = newest[:a]
    part.sums += moments
    return moments
