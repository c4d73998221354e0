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

from lodestar_live.data import FloatArray

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
        self.reset()

    def reset(self) -> None:
        """Forget the target and what was learnt."""
        n = len(self._diffusion)
        self._log_weight = np.full(n, -np.log(n))
        self._mean: FloatArray = np.zeros((n, 0, 2))  # member, axis, (place, velocity)
        self._cov: FloatArray = np.zeros((n, 2, 2))
        self._t = float("nan")
        self._rejections = 0

    @property
    def is_started(self) -> bool:
        """True once a position has been given."""
        return bool(self._mean.shape[1] > 0)

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
        mean, cov = self._propagated(t - self._t)
        self._mean, self._cov, self._t = mean, cov, t
        if not self._is_plausible(z, variance):
            self._rejections += 1
            if self._rejections <= self.max_rejections:
                return False
            self._restart(z, variance)
            return True
        self._rejections = 0
        self._correct(z, variance)
        return True

    def is_plausible(self, position: FloatArray, t: float) -> bool:
        """Return whether a target at `position` at time `t` could be this one."""
        ahead = self.predict(t)
        spread = np.hypot(ahead.position_sd, self.noise_sd)
        return bool(
            np.all(np.abs(position - ahead.position) < self.gate_sigma * spread)
        )

    def predict(self, t: float) -> Estimate:
        """Return where the target will be at time `t`."""
        mean, cov = self._propagated(t - self._t)
        return self._mixed(mean, cov)

    def _start(self, z: FloatArray, t: float, variance: float) -> None:
        n = len(self._diffusion)
        self._mean = np.zeros((n, len(z), 2))
        self._t = t
        self._restart(z, variance)

    def _restart(self, z: FloatArray, variance: float) -> None:
        """Believe the position, doubt the velocity, keep what was learnt."""
        self._rejections = 0
        self._mean[:, :, 0] = z
        self._cov = np.zeros_like(self._cov)
        self._cov[:, 0, 0] = variance
        self._cov[:, 1, 1] = self._velocity_sd**2

    def _propagated(self, dt: float) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of every member `dt` later (exact discretisation)."""
        dt = max(dt, 0.0)
        tau, decay = self._tau, np.exp(-dt / self._tau)
        reach = tau * -np.expm1(-dt / tau)
        mean = self._mean.copy()
        mean[:, :, 0] += reach[:, None] * mean[:, :, 1]
        mean[:, :, 1] *= decay[:, None]
        p, c, v = self._cov[:, 0, 0], self._cov[:, 0, 1], self._cov[:, 1, 1]
        v0 = self._velocity_sd**2
        spread = tau**2 * (2 * dt / tau - 3 + 4 * decay - decay**2)
        cov = np.empty_like(self._cov)
        cov[:, 0, 0] = p + 2 * reach * c + reach**2 * v
        cov[:, 0, 0] += v0 * np.maximum(spread, 0) + 2 * self._diffusion * dt
        cov[:, 0, 1] = decay * (c + reach * v) + v0 * tau * (1 - decay) ** 2
        cov[:, 1, 0] = cov[:, 0, 1]
        cov[:, 1, 1] = decay**2 * v + v0 * (1 - decay**2)
        return mean, cov

    def _correct(self, z: FloatArray, variance: float) -> None:
        total = self._cov[:, 0, 0] + variance
        miss = z - self._mean[:, :, 0]
        misfit = (miss**2).sum(1) / total + len(z) * np.log(total)
        self._log_weight = MEMORY * self._log_weight - 0.5 * misfit
        self._log_weight -= self._log_weight.max()
        gain = self._cov[:, :, 0] / total[:, None]
        self._mean = self._mean + miss[:, :, None] * gain[:, None, :]
        self._cov = self._cov - gain[:, :, None] * self._cov[:, None, 0, :]

    def _is_plausible(self, z: FloatArray, variance: float) -> bool:
        ahead = self._mixed(self._mean, self._cov)
        spread = np.sqrt(ahead.position_sd**2 + variance)
        return bool(np.all(np.abs(z - ahead.position) < self.gate_sigma * spread))

    def _mixed(self, mean: FloatArray, cov: FloatArray) -> Estimate:
        weight = np.exp(self._log_weight)
        weight /= weight.sum()
        centre = np.einsum("m,mas->as", weight, mean)
        scatter = weight @ (mean[:, :, 0] - centre[:, 0]) ** 2
        variance = scatter + weight @ cov[:, 0, 0]
        return Estimate(centre[:, 0], centre[:, 1], np.sqrt(variance))


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
