"""Tracks that may follow one of several laws of motion: filters side by side.

Every track has one Kalman filter per law and a probability for each (an interacting
multiple model, Blom & Bar-Shalom, IEEE TAC 33, 780, 1988). A particle changes its law
with `CHANGE` per frame; then the new law starts from where all of them together believe
the particle to be, with the velocity that is usual under it.

A belief about n tracks under k laws has shape (k, 2 axes + 4, n), see `Filtered`: every
operation runs over all tracks at once, and a prediction is one product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.linking.gate import IntArray
from lodestar_live.linking.learning import Population
from lodestar_live.linking.products import transform
from lodestar_live.linking.states import Filtered, Overall, overall, whereabouts

CHANGE = 0.01  # probability per frame
# Real steps have heavier tails than one Gaussian: a detector jumps between the ends of
# a rod, a particle is kicked. This share of them is this many times wider.
JUMP_SHARE, JUMP_WIDTH = 0.02, 4.0
LEAST_WEIGHT = 1e-6
TWO_PI = 2 * np.pi


def begin(
    part: Filtered, points: FloatArray, noise: FloatArray, law: Population
) -> None:
    """Start the filters of all tracks from one detection each, at `points` (axes, n).

    `noise`: its variance under each law, (laws, n) or (laws, 1).
    """
    part.position[:] = points
    part.velocity[:] = law.drift
    part.variance[:] = noise
    part.covariance[:] = 0.0
    part.velocity_variance[:] = law.spread
    part.weight[:] = law.share[:, None]


def move(part: Filtered, law: Population, dt: float) -> None:
    """Move the belief `dt` frames ahead, through changes of law."""
    if len(part.belief) > 1:
        _mix(part, law, 1 - (1 - CHANGE) ** dt)
    part.belief = _moved(part.belief, law, dt)


def ahead(part: Filtered, law: Population, dt: float) -> Overall:
    """Return one Gaussian per track, `dt` frames later."""
    return overall(_moved(part.belief, law, dt), part.n_axes)


def _moved(belief: FloatArray, law: Population, dt: float) -> FloatArray:
    matrix, offset = law.step(dt)
    later = transform(matrix, belief)
    later += offset
    return later


def _mix(part: Filtered, law: Population, change: float) -> None:
    """Let every law take over, with its share, what the others know."""
    belief, n_axes = part.belief, part.n_axes
    centre, variance = whereabouts(part)
    stayed = part.weight * (1 - change)
    weight = stayed + (change * law.share)[:, None]
    a = stayed / weight  # of law k now, the part that followed it before
    b = 1 - a
    ab = a * b
    ab /= n_axes
    off, off_v = part.position - centre, part.velocity - law.drift
    wide = b[:, None]
    belief[:, :n_axes] -= wide * off
    belief[:, n_axes + 2 : -2] -= wide * off_v
    belief[:, n_axes] = (
        a * belief[:, n_axes] + b * variance + ab * np.add.reduce(off * off, 1)
    )
    belief[:, -2] = a * belief[:, -2] + ab * np.add.reduce(off * off_v, 1)
    belief[:, -1] = (
        a * belief[:, -1] + b * law.spread + ab * np.add.reduce(off_v * off_v, 1)
    )
    belief[:, n_axes + 1] = weight


@dataclass(slots=True, eq=False)
class Fit:
    """How well detections fit their tracks; one column per pair.

    `off`: detection minus prediction under each law, (laws, axes, m); `total`: its
    variance per axis, and `each`: log of weight times density, (laws, m); `usual`: log
    density of a usual step, `wide`: that of a jump, (m,).
    """

    off: FloatArray
    total: FloatArray
    each: FloatArray
    usual: FloatArray
    wide: FloatArray

    def take(self, index: IntArray) -> Fit:
        """Return the chosen pairs."""
        if len(index) == len(self.usual):
            return self
        return Fit(
            *(getattr(self, name).take(index, axis=-1) for name in self.__slots__)
        )


def fit(part: Filtered, track: IntArray, points: FloatArray, noise: FloatArray) -> Fit:
    """Return how well detections fit their tracks.

    Parameters
    ----------
    track
        The track of each pair, (m,).
    points, noise
        Where its detection lies (axes, m), and the variance of that, (laws, m) or
        (laws, 1).
    """
    n_axes = len(points)
    known = part.belief[:, : n_axes + 2].take(track, axis=2)
    weight = known[:, n_axes + 1]
    total = known[:, n_axes] + noise
    off = points - known[:, :n_axes]
    squared = np.add.reduce(off * off, 1)
    each = np.log(np.maximum(weight, 1e-300))
    each -= (0.5 * n_axes) * np.log(TWO_PI * total)
    each -= 0.5 * squared / total
    if len(each) == 1:
        usual, width, distance = each[0], weight[0] * total[0], weight[0] * squared[0]
    else:
        peak = each.max(axis=0)
        usual = peak + np.log(np.add.reduce(np.exp(each - peak), 0))
        width = np.add.reduce(weight * total, 0)
        distance = np.add.reduce(weight * squared, 0)
    width *= JUMP_WIDTH**2
    wide = np.log(JUMP_SHARE) - (0.5 * n_axes) * np.log(TWO_PI * width)
    wide -= 0.5 * distance / width
    return Fit(off, total, each, usual, wide)


def reach(
    part: Filtered, centre: FloatArray, worth: FloatArray, noise: FloatArray
) -> FloatArray:
    """Return how far from its mean position a detection may lie to be worth linking.

    Parameters
    ----------
    centre
        The mean positions, (axes, n).
    worth
        What a pair gains beyond its log density, (n,).
    noise
        Variance of a measured position, (laws, 1).
    """
    n_axes, weight = part.n_axes, part.weight
    total = part.variance + noise
    # The sum of k terms and the jumps is at most k + 1 times the largest.
    worth = worth + np.log(len(weight) + 1.0)
    most = np.log(np.maximum(weight, LEAST_WEIGHT))
    most -= (0.5 * n_axes) * np.log(TWO_PI * total)
    most += worth
    off = part.position - centre
    off *= off
    usual = np.sqrt(np.add.reduce(off, 1)) + np.sqrt(2 * total * np.maximum(most, 0.0))
    usual[most <= 0] = -1.0
    width = JUMP_WIDTH**2 * np.add.reduce(weight * total, 0)
    left = worth + (np.log(JUMP_SHARE) - 0.5 * n_axes * np.log(TWO_PI * width))
    far = np.where(left > 0, np.sqrt(2 * width * np.maximum(left, 0.0)), -1.0)
    return np.asarray(np.maximum(usual.max(axis=0), far))


def correct(part: Filtered, hit: IntArray, noise: FloatArray, fit: Fit) -> None:
    """Take the detections of the tracks `hit`, which fit them as `fit` says.

    The Kalman update of `motion.update`, under every law.
    """
    n_axes = part.n_axes
    is_all = len(hit) == part.belief.shape[2]
    belief = part.belief if is_all else part.belief.take(hit, axis=2)
    weight = np.exp(fit.each - fit.usual)
    variance, covariance, total = belief[:, n_axes], belief[:, -2], fit.total
    jumped = fit.wide > fit.usual
    if jumped.any():
        # A prediction that a detection contradicts is widened before it is corrected.
        variance[:, jumped] *= JUMP_WIDTH**2
        weight[:, jumped] = belief[:, n_axes + 1, jumped]
        total = variance + noise
    gain, gain_v = variance / total, covariance / total
    belief[:, :n_axes] += gain[:, None] * fit.off
    belief[:, n_axes + 2 : -2] += gain_v[:, None] * fit.off
    belief[:, -1] -= gain_v * covariance
    rest = 1 - gain
    variance *= rest
    covariance *= rest
    belief[:, n_axes + 1] = weight
    if not is_all:
        part.belief[:, :, hit] = belief
