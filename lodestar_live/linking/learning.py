"""What the linker learns while it runs: how particles move, and how they are detected.

Motion comes from the autocovariance of successive displacements. For the law of
`lodestar_live.motion`, with frame interval dt, e = exp(-dt/tau), rho = tau (1 - e) and
localisation variance r per axis::

    C_0 = 2 s² tau (dt - rho) + 2 D dt + 2 r
    C_k = s² rho² e^(k-1) - r [k = 1]          k = 1, 2, ...

so four numbers follow from the measured C_k by least squares.
"""

from __future__ import annotations

import numpy as np

from lodestar_live.data import FloatArray, Rows
from lodestar_live.linking.gate import pairs_within
from lodestar_live.motion import Motion

LAGS = 6  # displacements remembered per track
MEMORY_FRAMES = 60.0  # after as many frames an observation weighs 1/e
KEEP = float(np.exp(-1 / MEMORY_FRAMES))
ENOUGH = 1000  # particles looked at for the first guess
MOST_VECTORS = 20_000  # between them and the detections of the next frame
MARGIN_PX = 50.0  # detections do not reach the edges of the field of view
PRIOR_WEIGHT = 4.0  # the first guess counts as this many displacements
FORGET_GRID = np.array(
    [0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.86, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995]
)


class MotionLearner:
    """Learn one law of motion for all tracks, from their displacements.

    Parameters
    ----------
    displacement_variance
        First guess of a displacement's variance per axis and frame.
    n_axes
        2 for the image plane, 1 for z.
    """

    def __init__(self, displacement_variance: float, *, n_axes: int) -> None:
        self._dt = 1
        self._other_dt = 0
        guess = displacement_variance * 0.4 * 0.9 ** np.arange(LAGS)
        guess[0] = displacement_variance
        self._weight = np.full(LAGS, PRIOR_WEIGHT)
        self._products = guess * PRIOR_WEIGHT
        self._sum = np.zeros(n_axes)
        self._noise_sum, self._noise_weight = 0.0, 0.0
        self.noise_variance = 0.02 * displacement_variance
        self._fit()

    def observe(
        self,
        steps: FloatArray,
        has_step: FloatArray,
        noise_variance: FloatArray,
        dt: int,
    ) -> None:
        """Take the latest displacements of all tracks.

        Parameters
        ----------
        steps, has_step
            Shapes (LAGS, n, axes) and (LAGS, n), newest first, each over `dt` frames;
            both are 0 where a track has none.
        noise_variance
            Of the positions measured in this frame, shape (m,), NaN = not measured.
        dt
            Frames since the frame before.
        """
        if not self._accepts(dt):
            return
        keep = np.exp(-dt / MEMORY_FRAMES)
        # einsum, not @: BLAS would wake threads for these sums, and wait for them.
        products = np.einsum("lna,na->l", steps, steps[0]) / steps.shape[2]
        self._products = self._products * keep + products
        has_both = np.einsum("ln,n->l", has_step, has_step[0])
        self._weight = self._weight * keep + has_both
        self._sum = self._sum * keep + steps[0].sum(axis=0)
        known = noise_variance[np.isfinite(noise_variance)]
        if len(known):  # the median: one hopeless particle must not widen all
            self._noise_sum = self._noise_sum * keep + np.median(known) * len(known)
            self._noise_weight = self._noise_weight * keep + len(known)
        self._fit()

    def _accepts(self, dt: int) -> bool:
        """Learn at one frame interval only; move to another that has come to stay."""
        self._other_dt = 0 if dt == self._dt else self._other_dt + 1
        if self._other_dt > 2 * LAGS:
            self._products *= dt / self._dt
            self._sum *= dt / self._dt
            self._dt, self._other_dt = dt, 0
        return dt == self._dt

    def _fit(self) -> None:
        dt = float(self._dt)
        drift = self._sum / self._weight[0] / dt
        c = self._products / self._weight - dt**2 * np.mean(drift**2)
        given = self._noise_sum / self._noise_weight if self._noise_weight else None
        tau = dt / -np.log(np.maximum(FORGET_GRID, 1e-6))
        rho = tau * (1 - FORGET_GRID)
        shape = FORGET_GRID[:, None] ** np.arange(LAGS - 1.0)
        noise, power = _noise_and_power(c, shape, given)
        # Velocities cannot explain more than what is there.
        most = np.maximum(c[0] - 2 * noise, 0.0) / (2 * tau * (dt - rho)) * rho**2
        power = np.minimum(power, most)
        model = power[:, None] * shape
        model[:, 0] -= noise
        best = int(np.argmin((self._weight[1:] * (c[1:] - model) ** 2).sum(axis=1)))
        spread = power[best] / rho[best] ** 2
        directed = 2 * spread * tau[best] * (dt - rho[best])
        self.noise_variance = float(noise[best])
        self.motion = Motion(
            diffusion=max(c[0] - 2 * noise[best] - directed, 0.02 * c[0]) / (2 * dt),
            velocity_sd=float(np.sqrt(spread)),
            persistence=float(tau[best]),
            drift=drift,
        )


def _noise_and_power(
    c: FloatArray, shape: FloatArray, given: float | None
) -> tuple[FloatArray, FloatArray]:
    """Return r and s² rho² for every candidate e; least squares, neither negative."""
    if given is not None:
        lagged = c[1:] + given * (np.arange(LAGS - 1) == 0)
        power = shape @ lagged / (shape**2).sum(axis=1)
        return np.full(len(shape), given), np.maximum(power, 0.0)
    later = shape[:, 1:]
    scale = np.maximum((later**2).sum(axis=1), 1e-12)
    power = np.where(scale > 1e-9, np.maximum(later @ c[2:] / scale, 0.0), 0.0)
    noise = power - c[1]
    without = np.maximum(shape @ c[1:] / (shape**2).sum(axis=1), 0.0)
    power = np.where(noise < 0, without, power)
    return np.clip(noise, 0.0, max(c[0], 0.0) / 2), power


class DetectionLearner:
    """Learn how often particles are missed, and how often something new appears.

    Read it through its properties; each starts from a weak guess.
    """

    def __init__(self) -> None:
        self._seen, self._expected = 9.0, 10.0
        self._real, self._judged = 2.5, 5.0
        self._new, self._frames = 0.0, 0.0
        self._low = np.full(3, np.inf)  # y_px, x_px, z_um
        self._high = np.full(3, -np.inf)

    @property
    def p_detect(self) -> float:
        """Probability that a particle is detected in a frame."""
        return float(np.clip(self._seen / self._expected, 0.2, 0.99))

    @property
    def p_real(self) -> float:
        """Share of new detections that turn out to be particles."""
        return float(np.clip(self._real / self._judged, 0.05, 0.95))

    @property
    def new_per_px2(self) -> float:
        """Density per frame of detections that belong to no track."""
        return (self._new + 0.1) / (self._frames + 1.0) / self.area_px2

    @property
    def area_px2(self) -> float:
        """Area in which detections have been found so far."""
        extent = np.maximum(self._high - self._low, 0.0)[:2]
        return float(np.prod(extent + MARGIN_PX))

    @property
    def depth_um(self) -> float:
        """Range of z in which detections have been found so far."""
        return float(max(self._high[2] - self._low[2], 1e-3))

    def look(self, rows: Rows) -> None:
        """Note where detections are."""
        for axis, name in enumerate(("y_px", "x_px", "z_um")):
            values = rows[name][np.isfinite(rows[name])]
            if len(values):
                self._low[axis] = min(self._low[axis], values.min())
                self._high[axis] = max(self._high[axis], values.max())

    def expect_new(self, n: float) -> None:
        """Guess, before it is known, how many new detections a frame brings."""
        self._new, self._frames = 2.0 * n, 2.0

    def observe(self, *, expected: int, seen: int) -> None:
        """Take how many established tracks were looked for and found in a frame."""
        self._expected = self._expected * KEEP + expected
        self._seen = self._seen * KEEP + seen

    def observe_new(self, n: int) -> None:
        """Take how many detections of a frame belong to no track."""
        self._frames = self._frames * KEEP + 1
        self._new = self._new * KEEP + n

    def judge(self, *, real: int, false: int) -> None:
        """Take the fate of recent births."""
        self._real = self._real * KEEP + real
        self._judged = self._judged * KEEP + real + false


def first_step_variance(
    before_px: FloatArray, after_px: FloatArray, *, likely_sd_px: float | None = None
) -> float:
    """Guess a displacement's variance per axis from two frames without links.

    Parameters
    ----------
    before_px, after_px
        Positions in the two frames, (n, 2) and (m, 2).
    likely_sd_px
        What the user takes for a displacement's standard deviation per axis. It counts
        for as much as about a dozen particles do: many particles overrule it.

    Notes
    -----
    The vectors between all detections of two frames are a constant background plus,
    near zero, one vector per particle; the variance of that excess is found by maximum
    likelihood over a grid.
    """
    area = float(
        np.prod(np.ptp(np.concatenate([before_px, after_px]), axis=0) + MARGIN_PX)
    )
    density = len(after_px) / area
    reach = 1.5 / float(np.sqrt(density))
    sample = before_px[:: len(before_px) // ENOUGH + 1]
    radius = np.full(len(sample), reach)
    track, detection = pairs_within(sample, radius, after_px)
    if not len(track):
        return (likely_sd_px or 0.25 * reach) ** 2
    distance2 = ((sample[track] - after_px[detection]) ** 2).sum(axis=1)
    share = len(distance2) // MOST_VECTORS + 1
    distance2 = distance2[::share]
    variance = np.geomspace((1e-3 * reach) ** 2, (0.5 * reach) ** 2, 50)
    excess = share * _log_likelihood(
        variance, distance2, density, reach, len(sample) / share
    )
    # One or two particles may happen to stand still: a broad prior around a tenth of
    # the reach, forgotten once there are a dozen.
    likely = (likely_sd_px or 0.1 * reach) ** 2
    prior = -0.5 * (np.log(variance / likely) / 1.5) ** 2
    return float(variance[int(np.argmax(excess + prior))])


def _log_likelihood(
    variance: FloatArray, distance2: FloatArray, density: float, reach: float, n: float
) -> FloatArray:
    found = 0.9  # share of particles seen in both frames; its value matters little
    peak = found / (2 * np.pi * variance)
    value = np.empty(len(variance))
    for k, v in enumerate(variance):
        value[k] = np.log(density + peak[k] * np.exp(-distance2 / (2 * v))).sum()
    expected: FloatArray = n * found * (1 - np.exp(-(reach**2) / (2 * variance)))
    return value - expected
