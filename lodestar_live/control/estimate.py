"""Where one target will be: a bank of Kalman filters that learns how it moves.

Each member assumes position = diffusion + Ornstein-Uhlenbeck velocity with its own
diffusion, velocity and persistence; Bayes' rule weighs the members by how well they
foretold each measurement (multiple-model adaptive estimation, Magill 1965). Nothing
about the motion is given: the grid is laid out in units of the localisation noise and
of the frame period.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray

BoolArray = npt.NDArray[np.bool_]
Covariance = tuple[FloatArray, FloatArray, FloatArray]  # place, cross, velocity
MEMORY = 0.995  # weights forget with 200 frames, so a change of habit is noticed


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Position, velocity and 1-sigma position uncertainty, each of shape (axes,)."""

    position: FloatArray
    velocity: FloatArray
    position_sd: FloatArray


class TargetFilter:
    """Filter and predict one target along any number of equal axes.

    Parameters
    ----------
    noise_sd
        1-sigma localisation noise, any unit of length (say µm).
    dt
        Typical time between measurements (s); sets the scale of the search.
    gate_sigma, max_rejections
        A measurement farther off than this is an outlier, but not more often than
        `max_rejections` times in a row: then the target has really jumped.
    """

    def __init__(
        self,
        noise_sd: float,
        *,
        dt: float,
        gate_sigma: float = 4.5,
        max_rejections: int = 2,
    ) -> None:
        self.noise_sd, self.dt = noise_sd, dt
        self.gate_sigma, self.max_rejections = gate_sigma, max_rejections
        self._diffusion, self._velocity_sd, self._tau = _grid(noise_sd, dt)
        self._transitions: dict[float, tuple[FloatArray, ...]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the target and what was learnt."""
        n = len(self._diffusion)
        self._log_weight = np.full(n, -np.log(n))
        self._place: FloatArray = np.zeros((0, n))  # axis, member
        self._velocity: FloatArray = np.zeros((0, n))
        self._cov: Covariance = (np.zeros(n), np.zeros(n), np.zeros(n))
        self._t = float("nan")
        self._rejections = 0

    @property
    def is_started(self) -> bool:
        """True once a position has been given."""
        return len(self._place) > 0

    def update(
        self, position: FloatArray, t: float, *, noise_sd: float | None = None
    ) -> bool:
        """Take a measurement at time `t`; return False if it was judged an outlier."""
        z = np.asarray(position, dtype=float)
        if not bool(np.isfinite(z).all()):
            return False
        variance = (noise_sd or self.noise_sd) ** 2
        if not self.is_started:
            self._start(z, t, variance)
            return True
        self._place, self._velocity, self._cov = self._propagated(t - self._t)
        self._t = t
        if not self._is_near(z, self._mixed(self._place, self._velocity, self._cov)):
            self._rejections += 1
            if self._rejections <= self.max_rejections:
                return False
            self._restart(z, variance)
            return True
        self._rejections = 0
        self._correct(z, variance)
        return True

    def is_plausible(self, positions: FloatArray, t: float) -> BoolArray:
        """Return which of `positions` (n, axes) could be the target at time `t`."""
        ahead = self.predict(t)
        spread = np.hypot(ahead.position_sd, self.noise_sd)
        away = np.abs(positions - ahead.position)
        return np.asarray((away < self.gate_sigma * spread).all(axis=1))

    def predict(self, t: float) -> Estimate:
        """Return where the target will be at time `t`."""
        return self._mixed(*self._propagated(t - self._t))

    def _start(self, z: FloatArray, t: float, variance: float) -> None:
        shape = (len(z), len(self._diffusion))
        self._place, self._velocity = np.zeros(shape), np.zeros(shape)
        self._t = t
        self._restart(z, variance)

    def _restart(self, z: FloatArray, variance: float) -> None:
        """Believe the position, doubt the velocity, keep what was learnt."""
        self._rejections = 0
        self._place = np.repeat(z[:, None], len(self._diffusion), axis=1)
        zero = np.zeros(len(self._diffusion))
        self._cov = (zero + variance, zero, self._velocity_sd**2)

    def _propagated(self, dt: float) -> tuple[FloatArray, FloatArray, Covariance]:
        """Place, velocity and covariance of every member `dt` later (exact)."""
        dt = max(dt, 0.0)
        reach, decay, spread, coupling, gain = self._transition(dt)
        p, c, v = self._cov
        ahead = (
            p + reach * (2 * c + reach * v) + spread,
            decay * (c + reach * v) + coupling,
            decay**2 * v + gain,
        )
        return self._place + reach * self._velocity, decay * self._velocity, ahead

    def _transition(self, dt: float) -> tuple[FloatArray, ...]:
        """Return what depends on the time step only; frames come evenly, so cached."""
        key = round(dt, 7)
        if key not in self._transitions:
            if len(self._transitions) > 32:
                self._transitions.clear()
            self._transitions[key] = self._new_transition(dt)
        return self._transitions[key]

    def _new_transition(self, dt: float) -> tuple[FloatArray, ...]:
        """Ornstein-Uhlenbeck velocity of variance v0, integrated exactly over `dt`."""
        tau, v0 = self._tau, self._velocity_sd**2
        decay = np.exp(-dt / tau)
        reach = tau * -np.expm1(-dt / tau)
        wander = tau**2 * (2 * dt / tau - 3 + 4 * decay - decay**2)
        spread = v0 * np.maximum(wander, 0) + 2 * self._diffusion * dt
        return reach, decay, spread, v0 * reach**2 / tau, v0 * (1 - decay**2)

    def _correct(self, z: FloatArray, variance: float) -> None:
        p, c, v = self._cov
        total = p + variance
        miss = z[:, None] - self._place
        misfit = (miss**2).sum(0) / total + len(z) * np.log(total)
        self._log_weight = MEMORY * self._log_weight - 0.5 * misfit
        self._log_weight -= self._log_weight.max()
        self._place = self._place + miss * (p / total)
        self._velocity = self._velocity + miss * (c / total)
        self._cov = (p * variance / total, c * variance / total, v - c * c / total)

    def _is_near(self, z: FloatArray, ahead: Estimate) -> bool:
        spread = np.hypot(ahead.position_sd, self.noise_sd)
        return bool(np.all(np.abs(z - ahead.position) < self.gate_sigma * spread))

    def _mixed(
        self, place: FloatArray, velocity: FloatArray, cov: Covariance
    ) -> Estimate:
        weight = np.exp(self._log_weight)
        weight /= weight.sum()
        centre = place @ weight
        scatter = (place - centre[:, None]) ** 2 @ weight
        return Estimate(centre, velocity @ weight, np.sqrt(scatter + cov[0] @ weight))


def _grid(noise_sd: float, dt: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Diffusion, velocity sd and persistence of every member, each of shape (n,)."""
    step_sd = noise_sd * 10.0 ** np.arange(-1.0, 2.6, 0.25)
    diffusion = step_sd**2 / (2 * dt)
    speed = noise_sd / dt * 10.0 ** np.arange(-1.5, 2.6, 0.5)
    tau = dt * np.array([4.0, 12.0, 36.0, 110.0, 1e5])
    moving = np.stack(np.meshgrid(diffusion, speed, tau, indexing="ij")).reshape(3, -1)
    resting = np.stack([diffusion, 0 * diffusion, np.full(len(diffusion), dt)])
    together = np.concatenate([moving, resting], axis=1)
    return together[0], together[1], together[2]
