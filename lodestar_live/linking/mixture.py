"""Tracks that may follow one of several laws of motion: filters side by side.

Every track has one Kalman filter per law and a probability for each (an interacting
multiple model, Blom & Bar-Shalom, IEEE TAC 33, 780, 1988). A particle changes its law
with `CHANGE` per frame; then the new law starts from where all of them together believe
the particle to be, with the velocity that is usual under it.

A belief about n tracks under k laws has arrays (n, k) and (n, k, axes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lodestar_live.data import FloatArray
from lodestar_live.linking.gate import IntArray
from lodestar_live.linking.learning import Population
from lodestar_live.linking.states import Filtered, overall, whereabouts
from lodestar_live.motion import Belief, Motion, born, predict, update

CHANGE = 0.01  # probability per frame
# Real steps have heavier tails than one Gaussian: a detector jumps between the ends of
# a rod, a particle is kicked. This share of them is this many times wider.
JUMP_SHARE, JUMP_WIDTH = 0.02, 4.0
LEAST_WEIGHT = 1e-6


def begin(
    part: Filtered, points: FloatArray, noise: FloatArray, law: Population
) -> None:
    """Start the filters of all tracks from one detection each."""
    n, k = part.weight.shape
    position = np.repeat(points[:, None], k, axis=1)
    part.belief = born(position, noise, law.motion)
    part.weight = np.broadcast_to(law.share, (n, k)).copy()


def move(part: Filtered, law: Population, dt: float) -> None:
    """Move the belief `dt` frames ahead, through changes of law."""
    if part.weight.shape[1] > 1:
        _mix(part, law, 1 - (1 - CHANGE) ** dt)
    part.belief = predict(part.belief, law.motion, dt)


def _mix(part: Filtered, law: Population, change: float) -> None:
    """Let every law take over, with its share, what the others know."""
    old, share = part.belief, law.share
    stayed = (1 - change) * part.weight
    weight = stayed + change * share
    a = stayed / weight  # of law k now, the part that followed it before
    b = 1 - a
    centre, variance = whereabouts(part)
    drift = np.broadcast_to(law.motion.drift, old.velocity.shape)
    off = old.position - centre[:, None]
    off_v = old.velocity - drift
    n_axes = off.shape[2]
    ab = a * b / n_axes
    usual = np.square(law.motion.velocity_sd)
    part.weight = weight
    part.belief = Belief(
        old.position - b[..., None] * off,
        old.velocity - b[..., None] * off_v,
        a * old.variance
        + b * variance[:, None]
        + ab * np.einsum("nka,nka->nk", off, off),
        a * old.covariance + ab * np.einsum("nka,nka->nk", off, off_v),
        a * old.velocity_variance
        + b * usual
        + ab * np.einsum("nka,nka->nk", off_v, off_v),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How well detections fit their tracks; one entry per pair.

    `each`: log of weight times density under each law, (m, laws); `usual`: log density
    of a usual step, `wide`: that of a jump, (m,).
    """

    each: FloatArray
    usual: FloatArray
    wide: FloatArray

    @property
    def log_density(self) -> FloatArray:
        """Log density of the detection under its track."""
        return np.asarray(np.logaddexp(self.usual, self.wide))


def fit(part: Filtered, track: IntArray, points: FloatArray, noise: FloatArray) -> Fit:
    """Return how well detections fit their tracks.

    Parameters
    ----------
    track
        The track of each pair, (m,).
    points, noise
        Where its detection lies (m, axes), and the variance of that, (m, laws).
    """
    each, total, squared = _by_law(part, track, points, noise)
    peak = each.max(axis=1)
    usual = peak + np.log(np.exp(each - peak[:, None]).sum(axis=1))
    weight = part.weight[track]
    n_axes = points.shape[1]
    width = JUMP_WIDTH**2 * np.einsum("mk,mk->m", weight, total)
    distance = np.einsum("mk,mk->m", weight, squared)
    wide = (
        np.log(JUMP_SHARE)
        - 0.5 * n_axes * np.log(2 * np.pi * width)
        - distance / (2 * width)
    )
    return Fit(each, usual, wide)


def _by_law(
    part: Filtered, track: IntArray, points: FloatArray, noise: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log weight times density, variance and squared distance, (m, laws)."""
    total = part.belief.variance[track] + noise
    off = points[:, None] - part.belief.position[track]
    squared = np.einsum("mka,mka->mk", off, off)
    n_axes = points.shape[1]
    weight = np.log(np.maximum(part.weight[track], 1e-300))
    each = weight - 0.5 * n_axes * np.log(2 * np.pi * total) - squared / (2 * total)
    return each, total, squared


def reach(
    part: Filtered, centre: FloatArray, worth: FloatArray, noise: FloatArray
) -> FloatArray:
    """Return how far from its mean position a detection may lie to be worth linking.

    Parameters
    ----------
    centre
        The mean positions, (n, axes).
    worth
        What a pair gains beyond its log density, (n,).
    noise
        Variance of a measured position, (laws,).
    """
    total = part.belief.variance + noise
    n_axes = part.belief.position.shape[2]
    n_laws = total.shape[1]
    # The sum of k terms and the jumps is at most k + 1 times the largest.
    worth = worth + np.log(n_laws + 1.0)
    weight = np.maximum(part.weight, LEAST_WEIGHT)
    most = worth[:, None] + np.log(weight) - 0.5 * n_axes * np.log(2 * np.pi * total)
    off = np.sqrt(np.square(part.belief.position - centre[:, None]).sum(axis=2))
    usual = np.where(most > 0, off + np.sqrt(2 * total * np.maximum(most, 0.0)), -1.0)
    width = JUMP_WIDTH**2 * np.einsum("nk,nk->n", part.weight, total)
    left = worth + np.log(JUMP_SHARE) - 0.5 * n_axes * np.log(2 * np.pi * width)
    far = np.where(left > 0, np.sqrt(2 * width * np.maximum(left, 0.0)), -1.0)
    return np.asarray(np.maximum(usual.max(axis=1), far))


def correct(
    part: Filtered, hit: IntArray, points: FloatArray, noise: FloatArray, fit: Fit
) -> None:
    """Take the detections of the tracks `hit`, which fit them as `fit` says."""
    now = part.belief.take(hit)
    weight = np.exp(fit.each - fit.usual[:, None])
    jumped = fit.wide > fit.usual
    if jumped.any():
        # A prediction that a detection contradicts is widened before it is corrected.
        now.variance[jumped] *= JUMP_WIDTH**2
        weight[jumped] = part.weight[hit[jumped]]
    part.belief.put(hit, update(now, points[:, None], noise))
    part.weight[hit] = weight


def ahead(part: Filtered, motion: Motion, dt: float) -> Belief:
    """Return one Gaussian per track, `dt` frames later."""
    later = predict(part.belief, motion, dt)
    return overall(replace(part, belief=later))
