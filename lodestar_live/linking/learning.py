"""What the linker learns while it runs: how particles move, and how they are detected.

Motion comes from the autocovariance of successive displacements. For the law of
`lodestar_live.motion`, with frame interval dt, e = exp(-dt/tau), rho = tau (1 - e) and
localisation variance r per axis::

    C_0 = 2 s² tau (dt - rho) + 2 D dt + 2 r
    C_k = s² rho² e^(k-1) - r [k = 1]          k = 1, 2, ...

so four numbers follow from the measured C_k by least squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from lodestar_live.data import MOTION_STATES, FloatArray
from lodestar_live.linking.gate import BoolArray, pairs_within
from lodestar_live.linking.products import summed
from lodestar_live.motion import Motion, transition

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
LAW_NAMES = MOTION_STATES
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
        self._step_dt: float | None = None
        self._step: tuple[FloatArray, FloatArray]
        self.unfitted = 0.0
        self._other_dt = 0
        k = len(self.kinds)
        # Sums over displacements, in the columns of `observe`.
        self.sums = np.zeros((k, 2 * LAGS + n_axes))
        self._noise_sum, self._noise_weight = 0.0, 0.0
        self.share_sums = PRIOR_SHARE[list(self.kinds)] * PRIOR_TRACKS
        self.share_prior = self.share_sums.copy()
        self.prior_weight = PRIOR_WEIGHT
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
        self.fit()

    @property
    def share(self) -> FloatArray:
        """Share of tracks that follow each law, shape (laws,)."""
        return np.asarray(self.share_sums / np.add.reduce(self.share_sums))

    def named(self, weight: FloatArray) -> FloatArray:
        """Return the probability of each of `LAW_NAMES`, (laws, n), from the laws'.

        A velocity forgotten at once is Brownian motion by another name.
        """
        if not self.is_forgetful:
            return weight
        weight = weight.copy()
        weight[FREE] += weight[DIRECTED]
        weight[DIRECTED] = 0.0
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

    def step(self, dt: float) -> tuple[FloatArray, FloatArray]:
        """Return the matrices (laws, f, f) and offsets (laws, f, 1) of a prediction.

        Multiplied with and added to a belief as in `states.Filtered`.
        """
        if self._step_dt != dt:
            self._step_dt, self._step = dt, self._make_step(dt)
        return self._step

    def _make_step(self, dt: float) -> tuple[FloatArray, FloatArray]:
        law, a = transition(self.motion, dt), self.sums.shape[1] - 2 * LAGS
        k, velocities = len(self.kinds), slice(a + 2, 2 * a + 2)
        forget, reach = law.forget[:, None], law.reach[:, None]
        matrix, offset = np.zeros((k, 2 * a + 4, 2 * a + 4)), np.zeros((k, 2 * a + 4))
        for axis in range(a):
            matrix[:, axis, axis] = 1.0
            matrix[:, axis, a + 2 + axis] = law.reach
            matrix[:, a + 2 + axis, a + 2 + axis] = law.forget
        offset[:, :a] = self.motion.drift * (dt - reach)
        offset[:, velocities] = self.motion.drift * (1 - forget)
        matrix[:, a, a] = matrix[:, a + 1, a + 1] = 1.0
        matrix[:, a, -2], matrix[:, a, -1] = 2 * law.reach, law.reach**2
        matrix[:, -2, -2], matrix[:, -2, -1] = law.forget, law.forget * law.reach
        matrix[:, -1, -1] = law.forget**2
        offset[:, a], offset[:, -2] = law.added, law.added_both
        offset[:, -1] = law.added_v
        return matrix, offset[:, :, None]

    def observe(
        self,
        moments: FloatArray,
        belief: FloatArray,
        noise_variance: FloatArray | None,
        dt: float,
    ) -> None:
        """Take the latest displacements of all tracks.

        Parameters
        ----------
        moments
            Shape (2 LAGS + axes, n): products of the latest displacement with itself
            and the ones before it (mean over the axes), which of these there are (1.0
            or 0.0), and the displacement, over `dt` frames.
        belief
            Probability that each track follows each law, (laws, n).
        noise_variance
            Of the positions measured in this frame, shape (m,), NaN = not measured;
            None: of none.
        dt
            Frames since the frame before.
        """
        if not self.accepts(dt):
            return
        keep = float(np.exp(-dt / MEMORY_FRAMES))
        self.prior_weight = max(self.prior_weight * keep, LEAST_PRIOR_WEIGHT)
        new = summed(belief, moments)
        self.sums *= keep
        self.sums += new
        counts = new[:, LAGS]
        prior = self.share_prior
        self.share_sums = prior + (self.share_sums - prior) * keep + counts
        if noise_variance is not None:
            known = noise_variance[np.isfinite(noise_variance)]
            if n := len(known):  # the median: one hopeless particle must not widen all
                self.learn_noise(float(np.median(known)), n, keep)
        self.unfitted += float(np.add.reduce(counts))
        if self.unfitted > NEWS * float(np.add.reduce(self.sums[:, LAGS])):
            self.fit()

    def is_usual(self, dt: float) -> bool:
        """Tell whether `dt` is the interval that is learnt at."""
        return abs(dt - self._dt) < SAME_INTERVAL * self._dt

    def learn_noise(self, variance: float, n: int, keep: float) -> None:
        """Take the median variance of `n` measured positions of one frame."""
        self._noise_sum = self._noise_sum * keep + variance * n
        self._noise_weight = self._noise_weight * keep + n

    def accepts(self, dt: float) -> bool:
        """Learn at one frame interval only; move to another that has come to stay."""
        is_usual = self.is_usual(dt)
        self._other_dt = 0 if is_usual else self._other_dt + 1
        if self._other_dt > 2 * LAGS:
            self.sums[:, :LAGS] *= dt / self._dt
            self.sums[:, 2 * LAGS :] *= dt / self._dt
            self._dt, self._other_dt, is_usual = dt, 0, True
        return is_usual

    def fit(self) -> None:
        """Fit the laws to what was observed and guessed."""
        dt = self._dt
        self.unfitted = 0.0
        prior = self.prior_weight
        given = self._noise_sum / self._noise_weight if self._noise_weight else None
        laws, drifts = [], []
        # So few numbers that Python's own are quicker than arrays.
        rows = zip(self.kinds, self.sums.tolist(), self._guess.tolist(), strict=True)
        for kind, sums, guess in rows:
            weight = [count + prior for count in sums[LAGS : 2 * LAGS]]
            drift = [total / (weight[0] * dt) for total in sums[2 * LAGS :]]
            square = dt**2 * sum(d * d for d in drift) / len(drift)
            c = [
                (s + g * (prior * dt)) / w - square
                for s, g, w in zip(sums[:LAGS], guess, weight, strict=True)
            ]
            drifts.append(drift)
            if kind == DIRECTED:
                laws.append(_directed(np.array(c), np.array(weight), given, dt))
            else:
                laws.append(_brownian(c[0], c[1], given, dt, still=kind == STILL))
        diffusion, spread, tau, noise = np.array(laws).T
        by_law = np.array(drifts)
        self.noise_variance: FloatArray = noise[:, None]
        self.motion = Motion(diffusion, np.sqrt(spread), tau, by_law)
        self.drift, self.spread = by_law[:, :, None], spread[:, None]
        self.is_forgetful = laws[-1][2] < 2 * dt
        self._step_dt = None


def _brownian(
    c_0: float, c_1: float, given: float | None, dt: float, *, still: bool
) -> tuple[float, float, float, float]:
    """Return D, 0, any tau and r of displacements without memory."""
    variance = max(c_0, 1e-12)
    noise = min(max(-c_1, 0.0), variance / 2) if given is None else given
    if still and given is None:
        noise = 0.45 * variance
    least = 0.02 * variance
    return max(variance - 2 * noise, least) / (2 * dt), 0.0, dt, noise


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What follows from `FORGET_GRID` and a frame interval alone."""

    tau: FloatArray
    rho2: FloatArray  # rho squared
    share: FloatArray  # of C_0 that s² rho² gives
    shape: FloatArray  # of C_1, C_2 ..., (grid, LAGS - 1)
    weight: FloatArray  # least squares of C_1 ... on the shape, the same
    weight_later: FloatArray  # of C_2 ...
    is_lasting: BoolArray


@lru_cache(maxsize=16)
def _grid(dt: float) -> _Grid:
    tau = dt / -np.log(np.maximum(FORGET_GRID, 1e-6))
    rho = tau * (1 - FORGET_GRID)
    shape = FORGET_GRID[:, None] ** np.arange(LAGS - 1.0)
    later = (shape[:, 1:] ** 2).sum(axis=1)
    return _Grid(
        tau,
        rho**2,
        2 * tau * (dt - rho) / rho**2,
        shape,
        shape / (shape**2).sum(axis=1)[:, None],
        shape[:, 1:] / np.maximum(later, 1e-12)[:, None],
        later > 1e-9,
    )


def _directed(
    c: FloatArray, weight: FloatArray, given: float | None, dt: float
) -> tuple[float, float, float, float]:
    """Return D, s squared, tau and r of displacements that may persist."""
    grid, c_0 = _grid(dt), float(c[0])
    noise, power = _noise_and_power(c, grid, given)
    # Velocities cannot explain more than what is there.
    power = np.minimum(power, np.maximum(c_0 - 2 * noise, 0.0) / grid.share)
    model = power[:, None] * grid.shape
    model[:, 0] -= noise
    model -= c[1:]
    model *= model
    best = int((model @ weight[1:]).argmin())
    r, most = float(noise[best]), float(power[best])
    rest = max(c_0 - 2 * r - most * float(grid.share[best]), 0.02 * c_0, 1e-12)
    return rest / (2 * dt), most / float(grid.rho2[best]), float(grid.tau[best]), r


def _noise_and_power(
    c: FloatArray, grid: _Grid, given: float | None
) -> tuple[FloatArray, FloatArray]:
    """Return r and s² rho² for every candidate e; least squares, neither negative."""
    if given is not None:
        lagged = c[1:].copy()
        lagged[0] += given
        power = np.maximum(grid.weight @ lagged, 0.0)
        return np.full(len(power), given), power
    power = np.where(grid.is_lasting, np.maximum(grid.weight_later @ c[2:], 0.0), 0.0)
    noise = power - c[1]
    without = np.maximum(grid.weight @ c[1:], 0.0)
    power = np.where(noise < 0, without, power)
    return np.clip(noise, 0.0, max(float(c[0]), 0.0) / 2), power


def _phi(deviations: float) -> float:
    """Return the share of a normal distribution below so many deviations."""
    return 0.5 * math.erfc(-deviations / math.sqrt(2))


class Newcomers:
    """Learn where and how often detections appear that belong to no track."""

    def __init__(self) -> None:
        self._real, self._judged = 2.5, 5.0
        self._new, self._frames = 0.0, 0.0
        self._n = 0  # births
        self._low, self._high = [np.inf] * 3, [-np.inf] * 3  # y_px, x_px, z_um

    @property
    def p_real(self) -> float:
        """Share of new detections that turn out to be particles."""
        return min(max(self._real / self._judged, 0.05), 0.95)

    @property
    def new_per_px2(self) -> float:
        """Density per frame of detections that belong to no track."""
        return (self._new + 0.1) / (self._frames + 1.0) / self.area_px2

    @property
    def area_px2(self) -> float:
        """Area of the field of view, as far as detections have shown it."""
        area = 1.0
        for low, high, beyond in self._sides():
            area *= max(high - low + 2 * beyond, MARGIN_PX)
        return area

    def _sides(self) -> list[tuple[float, float, float]]:
        """Return along y and x from where to where, and how far the field goes on.

        n uniform points span (n - 1) / (n + 1) of their interval on average; points of
        one track are one point.
        """
        return [
            (low, max(high, low), max(high - low, 0.0) / max(self._n - 1, 1e-9))
            if math.isfinite(low)
            else (0.0, 0.0, 0.0)
            for low, high in zip(self._low[:2], self._high[:2], strict=True)
        ]

    def inside(self, position: FloatArray, variance: FloatArray) -> FloatArray | None:
        """Return the probability that particles are in the field of view, (n,).

        None: of all of them 1, as far as is known. `position`: (2, n).
        """
        if self._n < FEW:
            return None
        low, high, beyond = np.array(self._sides()).T[:, :, None]
        sd = np.sqrt(variance)
        within = ndtr((high + beyond - position) / sd)
        within -= ndtr((low - beyond - position) / sd)
        return np.asarray(np.maximum(within[0] * within[1], 1e-3))

    def inside_of(self, y_px: float, x_px: float, variance: float) -> float | None:
        """Return what `inside` does, for one particle."""
        if self._n < FEW:
            return None
        sd, within = math.sqrt(variance), 1.0
        for at, (low, high, beyond) in zip((y_px, x_px), self._sides(), strict=True):
            within *= _phi((high + beyond - at) / sd) - _phi((low - beyond - at) / sd)
        return max(within, 1e-3)

    @property
    def depth_um(self) -> float:
        """Range of z in which detections have been found so far."""
        return max(self._high[2] - self._low[2], 1e-3)

    def look(self, position_px: FloatArray, z_um: FloatArray | None) -> None:
        """Note where detections are, (2, m), and their depth (1, m) where measured."""
        if not position_px.shape[1]:
            return
        low, high = position_px.min(axis=1).tolist(), position_px.max(axis=1).tolist()
        if z_um is not None:
            low.append(float(np.nanmin(z_um)))
            high.append(float(np.nanmax(z_um)))
        self.widen(low, high)

    def widen(self, low: list[float], high: list[float]) -> None:
        """Note that there are detections from `low` to `high`, y, x and perhaps z."""
        for axis, (least, most) in enumerate(zip(low, high, strict=True)):
            self._low[axis] = min(self._low[axis], least)
            self._high[axis] = max(self._high[axis], most)

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
        """Take the positions of two successive frames, (2, n) and (2, m)."""
        both = np.concatenate([before_px, after_px], axis=1)
        n, extent = both.shape[1], np.ptp(both, axis=1)
        area = np.prod(np.maximum(extent * (n + 1) / max(n - 1, 1), MARGIN_PX))
        density = after_px.shape[1] / float(area)
        reach = 1.5 / float(np.sqrt(density))
        sample = before_px[:, :: before_px.shape[1] // ENOUGH + 1]
        radius = np.full(sample.shape[1], reach)
        track, detection = pairs_within(sample, radius, after_px)
        squared = ((sample[:, track] - after_px[:, detection]) ** 2).sum(axis=0)
        share = len(squared) // MOST_VECTORS + 1
        self._squared.append(squared[::share])
        self._n_frames += 1
        weight = 1 / self._n_frames
        self._density += weight * (density - self._density)
        self._reach += weight * (reach - self._reach)
        self._n_seen += sample.shape[1] / share

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
