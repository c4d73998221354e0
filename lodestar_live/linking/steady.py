"""Few tracks that each have one detection of their own: the same filters, by hand.

A numpy call costs about a microsecond, whatever it works on, and linking makes some six
hundred: for one particle that is all it costs. While every track is confirmed, was seen
in the last frame, and is the only one that one detection of this frame can belong to,
nothing is assigned, born or ended. What is left of `MotionModel` and `mixture` is
arithmetic on a few numbers, and is done here with Python's own. Any other frame is left
as it was, for the general way: `Steady.link` then returns None.

The result is the general way's, to rounding; `tests/linking/test_steady.py` compares
them on random streams. Names are those of `mixture` and `learning`.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from lodestar_live.data import Detections, Rows
from lodestar_live.linking import visibility
from lodestar_live.linking.events import SURE_OF_LAW
from lodestar_live.linking.gate import IntArray
from lodestar_live.linking.learning import (
    DIRECTED,
    FREE,
    KINDS,
    LAGS,
    LEAST_PRIOR_WEIGHT,
    MEMORY_FRAMES,
    NEWS,
    Population,
)
from lodestar_live.linking.mixture import CHANGE, JUMP_SHARE, JUMP_WIDTH
from lodestar_live.linking.model import (
    LEAST_BACK,
    OVER,
    SEEN_TO_BE_REAL,
    MotionModel,
)
from lodestar_live.linking.states import States, steady_rows

MOST_TRACKS = 6  # more are faster all at once
_TWO_PI = 2 * math.pi
_LOG_JUMP = math.log(JUMP_SHARE)
_WIDER = JUMP_WIDTH**2
_NONE = np.zeros(0, np.int64)
# A belief under one law: y, x, variance, weight, vy, vx, covariance, velocity variance,
# the order of `states.Filtered.belief` in the plane.
_Belief = list[float]
_Point = tuple[float, float, float]  # y, x, and the variance the detector gives or NaN
# The detection's place, the log density of it, log of weight times density under each
# law, log density of a usual step, whether it is a jump; as in `mixture.Fit`.
_Fit = tuple[int, float, list[float], float, bool]


class Steady:
    """The live tracks as plain numbers, from one frame to the next.

    Parameters
    ----------
    states
        To begin from; stale until `hand_back`.
    model
        Goes on learning here.
    radius_px
        The user's limit of a step per frame interval; None: none.
    """

    def __init__(
        self, states: States, model: MotionModel, radius_px: float | None
    ) -> None:
        self._radius_px = radius_px
        part = states.filtered["px"]
        self._states, self._model = states, model
        self._law: Population = model.motion["px"]
        self._beliefs: list[list[_Belief]] = part.belief.transpose(2, 0, 1).tolist()
        self._last: list[list[float]] = part.last.T.tolist()
        self._history: list[list[list[float]]] = part.history.transpose(
            2, 0, 1
        ).tolist()
        self._sums: list[list[float]] = part.sums.T.tolist()
        self._visibility: list[list[float]] = states.visibility.T.tolist()
        self._ids: list[int] = states.track_id.tolist()
        self._born: list[int] = states.born.tolist()
        self._laws: list[int] = states.law.tolist()
        self._rows: Rows = states.measured
        self._index: list[int] = states.detection_index.tolist()
        self._n_frames, self._frame, self._now = 0, 0, 0.0
        self._read_law()

    def _read_law(self) -> None:
        law = self._law
        self._law_sums: list[list[float]] = law.sums.tolist()
        self._share: list[float] = law.share_sums.tolist()
        self._share_prior: list[float] = law.share_prior.tolist()
        self._noise_law: list[float] = law.noise_variance[:, 0].tolist()
        self._drift: list[list[float]] = law.drift[:, :, 0].tolist()
        self._spread: list[float] = law.spread[:, 0].tolist()
        motion = law.motion
        self._diffusion: list[float] = np.asarray(motion.diffusion).tolist()
        self._tau: list[float] = np.asarray(motion.persistence).tolist()
        self._steps: tuple[float, list[tuple[float, ...]]] | None = None

    @staticmethod
    def begins(states: States, model: MotionModel, n_detections: int) -> bool:
        """Tell whether the tracks, after a frame linked in the general way, are few."""
        n = len(states)
        return (
            0 < n <= MOST_TRACKS
            and n == n_detections
            and model.is_settled
            and "um" not in states.filtered
            and bool(states.is_confirmed.all())
            and int(states.detection_index.min()) >= 0
            and int(states.n_seen.min()) >= SEEN_TO_BE_REAL
        )

    # -- one frame ---------------------------------------------------------------

    def link(
        self, detections: Detections, frame_index: int, dt: float, now: float
    ) -> Rows | None:
        """Link one frame; None, and nothing has changed, if it is no steady one."""
        rows = detections.rows
        if len(rows) != len(self._beliefs) or not 0.5 < dt < 1.5:
            return None
        found = _read(rows)
        if found is None or not self._is_usual(dt):
            return None
        noise = [self._noise_law if r != r else [r] * len(KINDS) for *_, r in found]
        predicted = self._predicted(dt)
        newcomers, sight = self._model.newcomers, self._model.visibility
        ys, xs, _ = zip(*found, strict=True)
        newcomers.widen([min(ys), min(xs)], [max(ys), max(xs)])  # twice is as once
        per_px2 = newcomers.new_per_px2
        seen = list(map(self._seen, self._visibility, predicted))
        fits = _own(predicted, found, noise, seen, per_px2)
        if fits is None or not self._within_reach(fits, found, dt):
            return None
        after = []
        for (_, density, *_), p_seen in zip(fits, seen, strict=True):
            ratio = p_seen * (math.exp(min(density, 100.0)) / per_px2)
            right = min(ratio / (ratio + 1 - p_seen), 0.999)
            if not 1 - right <= 1 - OVER or (1 - sight.mu) * right < 4 * LEAST_BACK:
                return None
            after.append([right, 0.0, 0.0, 1 - right])
        self._take(found, noise, predicted, fits, dt)
        self._visibility = after
        n = len(found)
        sight.observe(looked=n, lost=0, returned=_NONE, ended=_NONE)
        newcomers.judge(real=0, false=0)
        newcomers.observe_new(0)
        sight.observe(looked=0, lost=0, returned=_NONE, ended=_NONE)
        sight.fit(_NONE)
        self._index = [at for at, *_ in fits]
        self._rows = rows if self._index == list(range(n)) else rows[self._index]
        self._n_frames += 1
        self._frame, self._now = frame_index, now
        return self._as_rows(frame_index)

    def _is_usual(self, dt: float) -> bool:
        """Tell whether the laws are learnt from steps over `dt`; see `observe`."""
        return self._law.is_usual(dt)

    def _predicted(self, dt: float) -> list[list[_Belief]]:
        """Return what `mixture.move` makes of the beliefs."""
        change = 1 - (1 - CHANGE) ** dt
        total = sum(self._share)
        enters = [change * share / total for share in self._share]
        steps = self._steps_over(dt)
        return [
            list(map(_moved, self._mixed(beliefs, 1 - change, enters), steps))
            for beliefs in self._beliefs
        ]

    def _mixed(
        self, beliefs: list[_Belief], stays: float, enters: list[float]
    ) -> list[_Belief]:
        cy, cx, variance = _overall(beliefs)
        mixed = []
        for (y, x, var, w, vy, vx, cov, vvar), enter, (my, mx), spread in zip(
            beliefs, enters, self._drift, self._spread, strict=True
        ):
            stayed = w * stays
            weight = stayed + enter
            a = stayed / weight
            b = 1 - a
            ab = a * b / 2
            oy, ox, uy, ux = y - cy, x - cx, vy - my, vx - mx
            mixed.append(
                [
                    y - b * oy,
                    x - b * ox,
                    a * var + b * variance + ab * (oy * oy + ox * ox),
                    weight,
                    vy - b * uy,
                    vx - b * ux,
                    a * cov + ab * (oy * uy + ox * ux),
                    a * vvar + b * spread + ab * (uy * uy + ux * ux),
                ]
            )
        return mixed

    def _steps_over(self, dt: float) -> list[tuple[float, ...]]:
        """Return per law what `motion.transition` says, and what the drift adds."""
        if self._steps is None or self._steps[0] != dt:
            steps: list[tuple[float, ...]] = []
            for tau, spread, d, (my, mx) in zip(
                self._tau, self._spread, self._diffusion, self._drift, strict=True
            ):
                forget = math.exp(-dt / tau)
                reach = tau * (1 - forget)
                steps.append(
                    (
                        forget,
                        reach,
                        2 * d * dt + spread * (2 * tau * (dt - reach) - reach * reach),
                        spread * reach * (1 - forget),
                        spread * (1 - forget * forget),
                        my * (dt - reach),
                        mx * (dt - reach),
                        my * (1 - forget),
                        mx * (1 - forget),
                    )
                )
            self._steps = dt, steps
        return self._steps[1]

    def _seen(self, known: list[float], predicted: list[_Belief]) -> float:
        """Return the probability that a track is in view and can be seen."""
        sight = self._model.visibility
        seen = (1 - sight.mu) * known[visibility.SEEN]
        if any(known[visibility.MISSED : visibility.GONE]):  # it has just come back
            back = sight.back.tolist()
            hidden = known[visibility.MISSED : visibility.GONE]
            seen += sum(map(operator.mul, back, hidden))
        inside = self._model.newcomers.inside_of(*_overall(predicted))
        return seen if inside is None else seen - seen * (1 - inside)

    def _within_reach(self, fits: list[_Fit], found: list[_Point], dt: float) -> bool:
        if self._radius_px is None:
            return True
        return all(
            math.dist(found[at][:2], last) <= self._radius_px * dt
            for (at, *_), last in zip(fits, self._last, strict=True)
        )

    def _take(
        self,
        found: list[_Point],
        noise: list[list[float]],
        predicted: list[list[_Belief]],
        fits: list[_Fit],
        dt: float,
    ) -> None:
        """Correct the beliefs and learn from the displacements."""
        moments = []
        for track, (at, _, each, usual, is_jump) in enumerate(fits):
            y, x, _ = found[at]
            beliefs = predicted[track]
            _correct(beliefs, (y, x), noise[at], each, usual, is_jump=is_jump)
            last_y, last_x = self._last[track]
            dy, dx = y - last_y, x - last_x
            history = self._history[track]
            history.insert(0, [dy, dx, 1.0])
            history.pop()
            moment = [(h[0] * dy + h[1] * dx) / 2 for h in history]
            moment += [h[2] for h in history]
            moment += (dy, dx)
            self._sums[track] = [
                a + b for a, b in zip(self._sums[track], moment, strict=True)
            ]
            self._last[track] = [y, x]
            moments.append(moment)
        self._beliefs = predicted
        self._learn(moments, [r for *_, r in found if r == r], dt)

    def _learn(self, moments: list[list[float]], noise: list[float], dt: float) -> None:
        """Do as `Population.observe`."""
        law = self._law
        law.accepts(dt)
        keep = math.exp(-dt / MEMORY_FRAMES)
        law.prior_weight = max(law.prior_weight * keep, LEAST_PRIOR_WEIGHT)
        n_new = 0.0
        for k, sums in enumerate(self._law_sums):
            sums[:] = [s * keep for s in sums]
            count = 0.0
            for moment, beliefs in zip(moments, self._beliefs, strict=True):
                w = beliefs[k][3]
                sums[:] = [s + w * m for s, m in zip(sums, moment, strict=True)]
                count += w * moment[LAGS]
            prior = self._share_prior[k]
            self._share[k] = prior + (self._share[k] - prior) * keep + count
            n_new += count
        if noise:
            law.learn_noise(_median(noise), len(noise), keep)
        law.unfitted += n_new
        if law.unfitted > NEWS * sum(sums[LAGS] for sums in self._law_sums):
            self._write_law()
            law.fit()
            self._read_law()

    # -- what others read --------------------------------------------------------

    def _as_rows(self, frame_index: int) -> Rows:
        known = []
        for beliefs in self._beliefs:
            cy, cx, variance = _overall(beliefs)
            vy = vx = 0.0
            for b in beliefs:
                vy += b[3] * b[4]
                vx += b[3] * b[5]
            known.append((cy, cx, math.sqrt(variance), vy, vx))
        exists = [1 - v[visibility.GONE] for v in self._visibility]
        end = frame_index + 1
        life = [
            (track_id, end - born, index)
            for track_id, born, index in zip(
                self._ids, self._born, self._index, strict=True
            )
        ]
        return steady_rows(self._rows, known, life, exists)

    def has_new_law(self) -> bool:
        """Tell whether a track has come to follow another law than it was known to."""
        for beliefs, known in zip(self._beliefs, self._laws, strict=True):
            weight = [b[3] for b in beliefs]
            if self._law.is_forgetful:
                weight[FREE] += weight[DIRECTED]
                weight[DIRECTED] = 0.0
            most = max(weight)
            if most > SURE_OF_LAW and weight.index(most) != known:
                return True
        return False

    def ahead(self, dt: float) -> list[tuple[float, float, float]]:
        """Return y, x and their variance `dt` frames on, of each track."""
        steps = self._steps_over(dt)
        return [_overall(list(map(_moved, b, steps))) for b in self._beliefs]

    @property
    def track_id(self) -> IntArray:
        """The tracks' ids, in order."""
        return self._states.track_id

    def hand_back(self) -> States:
        """Return the states as of the last frame; this object is done with then."""
        states, part = self._states, self._states.filtered["px"]
        self._write_law()
        if not self._n_frames:
            return states
        part.belief = np.array(self._beliefs).transpose(1, 2, 0).copy()
        part.last = np.array(self._last).T.copy()
        part.history = np.array(self._history).transpose(1, 2, 0).copy()
        part.sums = np.array(self._sums).T.copy()
        states.visibility = np.array(self._visibility).T.copy()
        states.detection_index = np.array(self._index)
        states.measured = self._rows.copy()
        states.seen[:], states.seen_at[:] = self._frame, self._now
        states.n_seen += self._n_frames
        self._n_frames = 0
        return states

    def _write_law(self) -> None:
        law = self._law
        law.sums = np.array(self._law_sums)
        law.share_sums = np.array(self._share)
        law.share_sums = np.array(self._share)


def _read(rows: Rows) -> list[_Point] | None:
    """Return the detections' numbers; None if one has depth, or no finite position."""
    found = []
    for y, x, z, sigma in zip(
        rows["y_px"].tolist(),
        rows["x_px"].tolist(),
        rows["z_um"].tolist(),
        rows["sigma_px"].tolist(),
        strict=True,
    ):
        if math.isfinite(z) or not (math.isfinite(y) and math.isfinite(x)):
            return None
        found.append((y, x, sigma * sigma if 0 < sigma < math.inf else math.nan))
    return found


def _own(
    predicted: list[list[_Belief]],
    found: list[_Point],
    noise: list[list[float]],
    seen: list[float],
    per_px2: float,
) -> list[_Fit] | None:
    """Return each track's detection; None unless each has one of its own."""
    fits: list[_Fit] = []
    taken = set()
    for beliefs, p_seen in zip(predicted, seen, strict=True):
        p_seen = min(max(p_seen, 1e-9), visibility.MOST_CERTAIN)
        worth = math.log(p_seen / (1 - p_seen) / per_px2)
        own = None
        for at, (y, x, _) in enumerate(found):
            fit = _fit(beliefs, at, (y, x), noise[at], least=-worth)
            if fit is None:
                continue
            if own is not None or at in taken:
                return None
            own = fit
            taken.add(at)
        if own is None:
            return None
        fits.append(own)
    return fits


def _fit(
    beliefs: list[_Belief],
    at: int,
    place: tuple[float, float],
    noise: list[float],
    *,
    least: float,
) -> _Fit | None:
    """Do as `mixture.fit` for one pair; None if its density is not above `least`."""
    py, px = place
    each, width, distance = [], 0.0, 0.0
    for (y, x, variance, w, *_), r in zip(beliefs, noise, strict=True):
        total = variance + r
        off_y, off_x = py - y, px - x
        squared = off_y * off_y + off_x * off_x
        each.append(
            math.log(max(w, 1e-300)) - math.log(_TWO_PI * total) - 0.5 * squared / total
        )
        width += w * total
        distance += w * squared
    peak = max(each)
    usual = peak + math.log(sum([math.exp(e - peak) for e in each]))
    width *= _WIDER
    wide = _LOG_JUMP - math.log(_TWO_PI * width) - 0.5 * distance / width
    high, low = (usual, wide) if usual > wide else (wide, usual)
    density = high + math.log1p(math.exp(low - high))
    return (at, density, each, usual, wide > usual) if density > least else None


def _correct(
    beliefs: list[_Belief],
    place: tuple[float, float],
    noise: list[float],
    each: list[float],
    usual: float,
    *,
    is_jump: bool,
) -> None:
    """Do as `mixture.correct` for one track."""
    py, px = place
    for belief, r, log_weight in zip(beliefs, noise, each, strict=True):
        y, x, variance, w, vy, vx, cov, vvar = belief
        if is_jump:
            variance *= _WIDER
        else:
            w = math.exp(log_weight - usual)
        off_y, off_x = py - y, px - x
        total = variance + r
        gain, gain_v = variance / total, cov / total
        rest = 1 - gain
        belief[:] = (
            y + gain * off_y,
            x + gain * off_x,
            variance * rest,
            w,
            vy + gain_v * off_y,
            vx + gain_v * off_x,
            cov * rest,
            vvar - gain_v * cov,
        )


def _moved(belief: _Belief, step: tuple[float, ...]) -> _Belief:
    """Do as a row of `Population.step`."""
    y, x, variance, w, vy, vx, cov, vvar = belief
    forget, reach, added, added_both, added_v, ahead_y, ahead_x, turn_y, turn_x = step
    return [
        y + reach * vy + ahead_y,
        x + reach * vx + ahead_x,
        variance + 2 * reach * cov + reach * reach * vvar + added,
        w,
        forget * vy + turn_y,
        forget * vx + turn_x,
        forget * cov + forget * reach * vvar + added_both,
        forget * forget * vvar + added_v,
    ]


def _overall(beliefs: list[_Belief]) -> tuple[float, float, float]:
    """Do as `states.whereabouts` for one track: y, x, variance per axis."""
    cy = cx = variance = 0.0
    for y, x, var, w, *_ in beliefs:
        cy += w * y
        cx += w * x
        variance += w * var
    for y, x, _, w, *_ in beliefs:
        off_y, off_x = y - cy, x - cx
        variance += w * (off_y * off_y + off_x * off_x) / 2
    return cy, cx, variance


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
