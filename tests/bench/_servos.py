"""What the controller is compared with: the LQG bound and classical servos."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_discrete_are

from lodestar_live.data import FloatArray


def lqg_bound_um(
    *,
    diffusion_um2_per_s: float,
    speed_um_per_s: float,
    persistence_s: float,
    sigma_um: float,
    dt: float,
    n_ahead: int,
) -> float:
    """Return the rms error of the best causal controller, per axis.

    Kalman prediction `n_ahead` frames ahead with the motion's true parameters and a
    stage that jumps: nothing causal does better.
    """
    decay = np.exp(-dt / persistence_s)
    reach = persistence_s * (1 - decay)
    wander = persistence_s**2 * (2 * dt / persistence_s - 3 + 4 * decay - decay**2)
    v0 = speed_um_per_s**2 + 1e-12  # keeps the Riccati equation regular
    step = np.array([[1.0, reach], [0.0, decay]])
    drive = np.array(
        [
            [v0 * wander + 2 * diffusion_um2_per_s * dt, v0 * reach**2 / persistence_s],
            [v0 * reach**2 / persistence_s, v0 * (1 - decay**2)],
        ]
    )
    look = np.array([[1.0], [0.0]])
    ahead = solve_discrete_are(step.T, look, drive, np.array([[sigma_um**2]]))
    gain = ahead @ look / (look.T @ ahead @ look + sigma_um**2)
    spread = ahead - gain @ look.T @ ahead
    for _ in range(n_ahead):
        spread = step @ spread @ step.T + drive
    return float(np.sqrt(spread[0, 0]))


def servo_errors_um(
    paths_um: FloatArray,
    gains: FloatArray,
    *,
    delay_frames: int,
    sigma_um: float,
    dt: float,
    tau_s: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Run relative PID servos, the usual practice, on many paths at once.

    Parameters
    ----------
    paths_um
        Target along one axis, (frames, runs).
    gains
        (n, 3): Kp, Ki, Kd of the step made from each frame's error.

    Returns
    -------
    Error at exposure, (frames, n, runs).
    """
    n_frames, n_runs = paths_um.shape
    kp, ki, kd = (gains[:, k, None] for k in range(3))
    place, goal, total, before = np.zeros((4, len(gains), n_runs))
    seen = np.zeros((n_frames, len(gains), n_runs))
    errors = np.zeros_like(seen)
    settle = np.exp(-dt / tau_s)
    for k in range(n_frames):
        errors[k] = paths_um[k] - place
        seen[k] = errors[k] + rng.normal(0, sigma_um, n_runs)
        if k >= delay_frames:
            error = np.clip(seen[k - delay_frames], -1000, 1000)
            total = np.clip(total + error, -1e4, 1e4)
            goal = goal + kp * error + ki * total + kd * (error - before)
            goal, before = np.clip(goal, -1e5, 1e5), error
        place = goal + (place - goal) * settle
    return errors
