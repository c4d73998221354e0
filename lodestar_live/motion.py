"""How particles move: diffusion plus a velocity that forgets, and its Kalman filter.

Every axis follows the same linear law, with ``m`` the drift all share::

    dx = v dt + sqrt(2 D) dW          D   diffusion
    dv = -(v - m) / tau dt + noise    tau persistence, stationary spread s of v

(an Ornstein-Uhlenbeck velocity). Brownian motion is s = 0, straight flight tau = inf.
Transitions are exact for any time step. Lengths and times are in the caller's units;
everything is vectorised over particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Parameters of the law of motion; floats, or one value per particle.

    Parameters
    ----------
    diffusion
        D in length²/time: the position variance grows by 2 D per time and axis.
    velocity_sd
        Spread of the velocity around the drift, per axis, length/time.
    persistence
        Time over which a velocity is forgotten.
    drift
        Mean velocity, shape (axes,).
    """

    diffusion: FloatArray | float
    velocity_sd: FloatArray | float
    persistence: FloatArray | float
    drift: FloatArray | float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What is known of n particles: Gaussian in position and velocity.

    The axes of one particle share their variances, so three numbers hold the
    covariance matrix.

    Parameters
    ----------
    position, velocity
        Shape (n, axes).
    variance, covariance, velocity_variance
        Of position, of position with velocity, of velocity; shape (n,).
    """

    position: FloatArray
    velocity: FloatArray
    variance: FloatArray
    covariance: FloatArray
    velocity_variance: FloatArray

    def take(self, index: npt.NDArray[np.signedinteger[Any]]) -> Belief:
        """Return the belief about the chosen particles."""
        return Belief(*(getattr(self, name)[index] for name in self.__slots__))

    def put(self, index: npt.NDArray[np.signedinteger[Any]], other: Belief) -> None:
        """Replace, in place, the belief about the chosen particles."""
        for name in self.__slots__:
            getattr(self, name)[index] = getattr(other, name)

    def join(self, other: Belief) -> Belief:
        """Return these particles followed by the others."""
        both = ((getattr(self, n), getattr(other, n)) for n in self.__slots__)
        return Belief(*(np.concatenate(two) for two in both))


def born(position: FloatArray, noise_variance: FloatArray, motion: Motion) -> Belief:
    """Return what is known after one look: the place, and how particles move.

    Parameters
    ----------
    position
        Shape (n, axes).
    noise_variance
        Of the measurement, per axis, shape (n,).
    """
    return Belief(
        position,
        np.zeros_like(position) + motion.drift,
        np.broadcast_to(noise_variance, position.shape[:-1]).astype(float),
        np.zeros(position.shape[:-1]),
        np.zeros(position.shape[:-1]) + np.square(motion.velocity_sd),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """The law of motion over one time step, exactly.

    A velocity keeps its part `forget` and adds its part `reach` to the position;
    `added`, `added_both`, `added_v` are what chance adds to the variance of the
    position, to its covariance with the velocity and to the velocity's variance.
    """

    forget: FloatArray
    reach: FloatArray
    added: FloatArray
    added_both: FloatArray
    added_v: FloatArray


def transition(motion: Motion, dt: FloatArray | float) -> Transition:
    """Return the step of `dt`, a scalar or one value per particle."""
    dt = np.asarray(dt, dtype=float)
    tau = np.asarray(motion.persistence, dtype=float)
    forget = np.exp(-dt / tau)
    reach = tau * (1 - forget)  # what a unit of velocity adds to the position
    spread = np.square(motion.velocity_sd)
    diffusive = 2 * np.asarray(motion.diffusion) * dt
    return Transition(
        forget,
        reach,
        diffusive + spread * (2 * tau * (dt - reach) - reach**2),
        spread * reach * (1 - forget),
        spread * (1 - forget**2),
    )


def predict(belief: Belief, motion: Motion, dt: FloatArray | float) -> Belief:
    """Return the belief `dt` later; `dt` is a scalar or one value per particle."""
    step = transition(motion, dt)
    forget, reach = step.forget, step.reach
    deviation = belief.velocity - motion.drift
    column = _column(reach), _column(forget), _column(np.asarray(dt, dtype=float))
    return Belief(
        belief.position + motion.drift * column[2] + deviation * column[0],
        motion.drift + deviation * column[1],
        belief.variance
        + 2 * reach * belief.covariance
        + reach**2 * belief.velocity_variance
        + step.added,
        forget * (belief.covariance + reach * belief.velocity_variance)
        + step.added_both,
        forget**2 * belief.velocity_variance + step.added_v,
    )


def update(
    belief: Belief, measured: FloatArray, noise_variance: FloatArray | float
) -> Belief:
    """Return the belief after measuring positions, shape (n, axes).

    `noise_variance` is per axis, a scalar or shape (n,).
    """
    total = belief.variance + noise_variance
    gain, gain_v = belief.variance / total, belief.covariance / total
    surprise = measured - belief.position
    return Belief(
        belief.position + gain[..., None] * surprise,
        belief.velocity + gain_v[..., None] * surprise,
        (1 - gain) * belief.variance,
        (1 - gain) * belief.covariance,
        belief.velocity_variance - gain_v * belief.covariance,
    )


def _column(values: FloatArray) -> FloatArray:
    """Give scalars and (n,) arrays a last axis, to multiply (n, axes)."""
    return np.asarray(values)[..., None]
