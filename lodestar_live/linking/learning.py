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
from scipy.special import ndtr

from lodestar_live.data import FloatArray, Rows
from lodestar_live.linking.gate import pairs_within
from lodestar_live.motion import Motion

LAGS = 6  # displacements remembered per track
MEMORY_FRAMES = 60.0  # after as many frames an observation weighs 1/e
KEEP = float(np.exp(-1 / MEMORY_FRAMES))
SLOW = 0.02  # of the variance of mobile particles, where nothing tells of slow ones
NEWS = 0.05  # share of new displacements that is worth fitting again
SAME_INTERVAL = 0.2  # intervals that differ by less are taken for the same
PLENTY, MOST_FRAMES = 100, 6  # particles and frames that the first guess is made from
TWO_KINDS = 3.0  # log likelihood that two kinds of particles must gain
FEW = 4  # births that tell nothing of where the field of view ends
ENOUGH = 1000  # particles looked at for the first guess
MOST_VECTORS = 20_000  # between them and the detections of the next frame
MARGIN_PX = 50.0  # detections do not reach the edges of the field of view
PRIOR_WEIGHT = 4.0  # the first guess counts as this many displacements
LEAST_PRIOR_WEIGHT = 0.5  # a law that nobody follows must not become undefined
STILL, FREE, DIRECTED = KINDS = range(3)
LAW_NAMES = ("still", "brownian", "directed")
PRIOR_SHARE = np.array([0.05, 0.45, 0.5])
PRIOR_TRACKS = 5.0  # the prior shares count as this many displacements
FORGET_GRID = np.array(
    [0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.86, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995]
)


class Population:
    """Learn the laws of motion that particles follow, from their displacements.

    In the image plane: `STILL` (no step beyond the noise), `FREE` (Brownian) and
    `DIRECTED` (a velocity that persists, and Brownian). Every displacement counts for
    each law as far as its track is believed to follow it, so that laws and beliefs
    sharpen one another.

    Parameters
    ----------
    displacement_variance
        First guess of a displacement's variance per axis and frame.
    slow_variance
        The same of particles that hardly move.
    n_axes
        2 for the image plane; 1 for z, which has the one law `DIRECTED`.
    """

    def __init__(
        self,
        displacement_variance: float,
        slow_variance: float | None = None,
        *,
        n_axes: int,
    ) -> None:
        self.kinds = KINDS if n_axes == 2 else (DIRECTED,)
        self._dt = 1.0
        self._unfitted = 0.0
        self._other_dt = 0
        k = len(self.kinds)
        self._weight = np.zeros((k, LAGS))
        self._products = np.zeros((k, LAGS))
        self._sum = np.zeros((k, n_axes))
        self._noise_sum, self._noise_weight = 0.0, 0.0
        self._share = PRIOR_SHARE[list(self.kinds)] * PRIOR_TRACKS
        self._share_prior = self._share.copy()
        self._prior_weight = PRIOR_WEIGHT
        self.guess(displacement_variance, slow_variance)

    def guess(
        self, displacement_variance: float, slow_variance: float | None = None
    ) -> None:
        """Start from another guess; what was observed is kept."""
        persistent = displacement_variance * 0.4 * 0.9 ** np.arange(LAGS)
        persistent[0] = displacement_variance
        free = np.zeros(LAGS)
        free[:2] = displacement_variance, -0.02 * displacement_variance
        still = np.zeros(LAGS)
        still[0] = slow_variance or SLOW * displacement_variance
        still[1] = -0.45 * still[0]
        start = np.stack([still, free, persistent])[list(self.kinds)]
        self._guess = start
        self._fit()

    @property
    def share(self) -> FloatArray:
        """Share of tracks that follow each law, shape (laws,)."""
        share = self._share / self._share.sum()
        return np.asarray(share)

    def named(self, weight: FloatArray) -> FloatArray:
        """Return the probability of each of `LAW_NAMES`, (n, laws), from the laws'.

        A velocity forgotten at once is Brownian motion by another name.
        """
        weight = weight.copy()
        if float(np.asarray(self.motion.persistence)[-1]) < 2 * self._dt:
            weight[:, FREE] += weight[:, DIRECTED]
            weight[:, DIRECTED] = 0.0
        return weight

    def average(self) -> Motion:
        """Return one law of motion with the population's mean variances."""
        law, share = self.motion, self.share
        return Motion(
            diffusion=float(share @ law.diffusion),
            velocity_sd=float(np.sqrt(share @ np.square(law.velocity_sd))),
            persistence=float(np.asarray(law.persistence)[-1]),
            drift=share @ law.drift,
        )

    def observe(
        self,
        steps: FloatArray,
        has_step: FloatArray,
        belief: FloatArray,
        noise_variance: FloatArray,
        dt: float,
    ) -> None:
        """Take the latest displacements of all tracks.

        Parameters
        ----------
        steps, has_step
            Shapes (LAGS, n, axes) and (LAGS, n), newest first, each over `dt` frames;
            both are 0 where a track has none.
        belief
            Probability that each track follows each law, (n, laws).
        noise_variance
            Of the positions measured in this frame, shape (m,), NaN = not measured.
        dt
            Frames since the frame before.
        """
        if not self._accepts(dt):
            return
        keep = float(np.exp(-dt / MEMORY_FRAMES))
        self._prior_weight = max(self._prior_weight * keep, LEAST_PRIOR_WEIGHT)
        # einsum, not @: BLAS would wake threads for these sums, and wait for them.
        newest = steps[0][:, :, None] * belief[:, None]  # (n, axes, laws)
        products = np.einsum("lna,nak->kl", steps, newest) / steps.shape[2]
        self._products = self._products * keep + products
        counts = has_step[0][:, None] * belief
        self._weight = self._weight * keep + np.einsum("ln,nk->kl", has_step, counts)
        self._sum = self._sum * keep + newest.sum(axis=0).T
        self._share = (
            self._share_prior + (self._share - self._share_prior) * keep
        ) + counts.sum(axis=0)
        known = noise_variance[np.isfinite(noise_variance)]
        if len(known):  # the median: one hopeless particle must not widen all
            self._noise_sum = self._noise_sum * keep + float(np.median(known)) * len(
                known
            )
            self._noise_weight = self._noise_weight * keep + len(known)
        self._unfitted += float(counts.sum())
        if self._unfitted > NEWS * float(self._weight[:, 0].sum()):
            self._fit()

    def _accepts(self, dt: float) -> bool:
        """Learn at one frame interval only; move to another that has come to stay."""
        is_usual = abs(dt - self._dt) < SAME_INTERVAL * self._dt
        self._other_dt = 0 if is_usual else self._other_dt + 1
        if self._other_dt > 2 * LAGS:
            self._products *= dt / self._dt
            self._sum *= dt / self._dt
            self._dt, self._other_dt, is_usual = dt, 0, True
        return is_usual

    def _fit(self) -> None:
        dt = self._dt
        self._unfitted = 0.0
        weight = self._weight + self._prior_weight
        drift = self._sum / weight[:, :1] / dt
        c = (self._products + self._guess * (self._prior_weight * dt)) / weight
        c[:, :] -= (dt**2 * np.mean(drift**2, axis=1))[:, None]
        given = self._noise_sum / self._noise_weight if self._noise_weight else None
        laws = [
            _directed(c[k], weight[k], given, dt)
            if kind == DIRECTED
            else _brownian(c[k], given, dt, still=kind == STILL)
            for k, kind in enumerate(self.kinds)
        ]
        diffusion, spread, tau, noise = np.array(laws).T
        self.noise_variance = noise
        self.motion = Motion(diffusion, np.sqrt(spread), tau, drift)


def _brownian(
    c: FloatArray, given: float | None, dt: float, *, still: bool
) -> tuple[float, float, float, float]:
    """Return D, 0, any tau and r of displacements without memory."""
    variance = max(float(c[0]), 1e-12)
    noise = min(max(-float(c[1]), 0.0), variance / 2) if given is None else given
    if still and given is None:
        noise = 0.45 * variance
    least = 0.02 * variance
    return max(variance - 2 * noise, least) / (2 * dt), 0.0, dt, noise


def _directed(
    c: FloatArray, weight: FloatArray, given: float | None, dt: float
) -> tuple[float, float, float, float]:
    """Return D, s squared, tau and r of displacements that may persist."""
    tau = dt / -np.log(np.maximum(FORGET_GRID, 1e-6))
    rho = tau * (1 - FORGET_GRID)
    shape = FORGET_GRID[:, None] ** np.arange(LAGS - 1.0)
    noise, power = _noise_and_power(c, shape, given)
    # Velocities cannot explain more than what is there.
    most = np.maximum(c[0] - 2 * noise, 0.0) / (2 * tau * (dt - rho)) * rho**2
    power = np.minimum(power, most)
    model = power[:, None] * shape
    model[:, 0] -= noise
    best = int(np.argmin((weight[1:] * (c[1:] - model) ** 2).sum(axis=1)))
    spread = power[best] / rho[best] ** 2
    directed = 2 * spread * tau[best] * (dt - rho[best])
    rest = max(c[0] - 2 * noise[best] - directed, 0.02 * c[0], 1e-12)
    return rest / (2 * dt), float(spread), float(tau[best]), float(noise[best])


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


class Newcomers:
    """Learn where and how often detections appear that belong to no track."""

    def __init__(self) -> None:
        self._real, self._judged = 2.5, 5.0
        self._new, self._frames = 0.0, 0.0
        self._n = 0  # births
        self._low = np.full(3, np.inf)  # y_px, x_px, z_um
        self._high = np.full(3, -np.inf)

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
        """Area of the field of view, as far as detections have shown it."""
        extent = np.maximum(self._high - self._low, 0.0)[:2]
        return float(np.prod(np.maximum(extent + 2 * self._beyond, MARGIN_PX)))

    @property
    def _beyond(self) -> FloatArray:
        """How far the field of view reaches beyond what was seen, on each side.

        n uniform points span (n - 1) / (n + 1) of their interval on average; points of
        one track are one point.
        """
        extent = np.maximum(self._high - self._low, 0.0)[:2]
        return np.asarray(extent / max(self._n - 1, 1e-9))

    def inside(self, position: FloatArray, variance: FloatArray) -> FloatArray:
        """Return the probability that particles are in the field of view, (n,)."""
        if self._n < FEW:
            return np.ones(len(position))
        sd = np.sqrt(variance)[:, None]
        low, high = (self._low[:2] - self._beyond), (self._high[:2] + self._beyond)
        within = ndtr((high - position) / sd) - ndtr((low - position) / sd)
        return np.asarray(np.maximum(within.prod(axis=1), 1e-3))

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

    def observe_new(self, n: int) -> None:
        """Take how many detections of a frame belong to no track."""
        self._n += n
        self._frames = self._frames * KEEP + 1
        self._new = self._new * KEEP + n

    def first(self, n: int) -> None:
        """Take how many detections the first frame had."""
        self._n += n

    def judge(self, *, real: int, false: int) -> None:
        """Take the fate of recent births."""
        self._real = self._real * KEEP + real
        self._judged = self._judged * KEEP + real + false


class Opening:
    """Guess how far particles move in a frame before anything has been linked.

    Parameters
    ----------
    likely_sd_px
        What the user takes for a displacement's standard deviation per axis. It counts
        for as much as about a dozen particles do: many particles overrule it.

    Notes
    -----
    The vectors between all detections of successive frames are a constant background
    plus, near zero, one vector per particle; the variance of that excess is found by
    maximum likelihood over a grid, then two variances by EM, since half of the
    particles may be stuck. Frames are added until there are `PLENTY` particles.
    """

    def __init__(self, likely_sd_px: float | None = None) -> None:
        self._likely_sd_px = likely_sd_px
        self._squared: list[FloatArray] = []
        self._n_seen, self._density, self._reach = 0.0, 0.0, 0.0
        self._n_frames = 0

    @property
    def is_settled(self) -> bool:
        """True when more frames would not tell much more."""
        return self._n_seen >= PLENTY or self._n_frames >= MOST_FRAMES

    def add(self, before_px: FloatArray, after_px: FloatArray) -> None:
        """Take the positions of two successive frames, (n, 2) and (m, 2)."""
        n = len(before_px) + len(after_px)
        extent = np.ptp(np.concatenate([before_px, after_px]), axis=0)
        area = np.prod(np.maximum(extent * (n + 1) / max(n - 1, 1), MARGIN_PX))
        density = len(after_px) / float(area)
        reach = 1.5 / float(np.sqrt(density))
        sample = before_px[:: len(before_px) // ENOUGH + 1]
        radius = np.full(len(sample), reach)
        track, detection = pairs_within(sample, radius, after_px)
        squared = ((sample[track] - after_px[detection]) ** 2).sum(axis=1)
        share = len(squared) // MOST_VECTORS + 1
        self._squared.append(squared[::share])
        self._n_frames += 1
        weight = 1 / self._n_frames
        self._density += weight * (density - self._density)
        self._reach += weight * (reach - self._reach)
        self._n_seen += len(sample) / share

    def variances(self) -> tuple[float, float]:
        """Return the variances per axis of slow and of mobile particles' steps.

        Where one variance explains all, the first is `SLOW` times the second.
        """
        squared, reach = np.concatenate(self._squared), self._reach
        if not len(squared):
            variance = (self._likely_sd_px or 0.25 * reach) ** 2
            return variance * SLOW, variance
        grid = np.geomspace((1e-3 * reach) ** 2, (0.5 * reach) ** 2, 50)
        excess = _log_likelihood(grid, squared, self._density, reach, self._n_seen)
        # One or two particles may happen to stand still: a broad prior around a tenth
        # of the reach, forgotten once there are a dozen.
        likely = (self._likely_sd_px or 0.1 * reach) ** 2
        prior = -0.5 * (np.log(grid / likely) / 1.5) ** 2
        one = float(grid[int(np.argmax(excess + prior))])
        given = squared, self._density, reach, self._n_seen
        single = _log_likelihoods(np.array([one]), np.array([0.9]), *given)
        starts = [(one, 16 * one), (one, (0.2 * reach) ** 2), (one / 16, 2 * one)]
        two, slow, fast = max(_two_variances(a, b, *given) for a, b in starts)
        if two - single < TWO_KINDS:
            return SLOW * one, one
        return slow, fast


def _two_variances(
    slow: float,
    fast: float,
    squared: FloatArray,
    density: float,
    reach: float,
    n: float,
) -> tuple[float, float, float]:
    """Return the log likelihood of two variances and the two, by EM from a start."""
    limits = (1e-3 * reach) ** 2, (0.5 * reach) ** 2
    variance = np.clip([slow, fast], *limits)
    share = np.full(2, 0.45)
    for _ in range(25):
        rate = share / (2 * np.pi * variance)
        part = rate[:, None] * np.exp(-squared / (2 * variance[:, None]))
        part /= density + part.sum(axis=0)
        found = part.sum(axis=1)
        within = np.maximum(1 - np.exp(-(reach**2) / (2 * variance)), 0.05)
        share = np.maximum(found / within / n, 1e-3)
        share *= min(1.0, 1 / share.sum())
        variance = (part @ squared) / np.maximum(2 * found, 1e-9)
        variance = np.clip(variance, *limits)
    if share.min() < 0.1 or variance[1] < 4 * variance[0]:
        return -np.inf, *variance.tolist()
    value = _log_likelihoods(variance, share, squared, density, reach, n)
    return value, *variance.tolist()


def _log_likelihoods(
    variance: FloatArray,
    share: FloatArray,
    squared: FloatArray,
    density: float,
    reach: float,
    n: float,
) -> float:
    """Return the log likelihood of vectors under kinds of particles and background."""
    rate = (share / (2 * np.pi * variance))[:, None] * np.exp(
        -squared / (2 * variance[:, None])
    )
    inside = n * share * (1 - np.exp(-(reach**2) / (2 * variance)))
    return float(np.log(density + rate.sum(axis=0)).sum() - inside.sum())


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
