"""Set a trained model's threshold, uncertainty and shape limit from its snapshot.

Nothing is asked of the user. Practice frames with known places (see `practice`) say how
well the detector locates at any noise and what its scores mean; blank frames with the
snapshot's noise say how often noise alone is mistaken for a particle.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.spatial.distance import cdist

from lodestar_live.data import Pixels, Rows
from lodestar_live.detection import Detector
from lodestar_live.detection.detector import NOISE_FLOOR
from lodestar_live.detection.frame.inclusion import Inclusion
from lodestar_live.detection.frame.prepare import Mask
from lodestar_live.detection.model.writer import write_model
from lodestar_live.detection.run.noise_tail import NoiseTail
from lodestar_live.detection.run.template import Look, shown_around
from lodestar_live.model_card import CardDraft
from lodestar_live.training.calibrate.noise import NoiseTexture
from lodestar_live.training.calibrate.snapshot import (
    FAR_BELOW,
    GAP_SHARE,
    Judged,
    learn_threshold,
)
from lodestar_live.training.calibrate.synthetic_frames import (
    blank_frame,
    crowded_frames,
    practice_frame,
)
from lodestar_live.training.model import LOOK_RADII, Model
from lodestar_live.training.particle.measure import Particle
from lodestar_live.training.particle.suspects import Suspects

FloatArray = npt.NDArray[np.float64]

FALSE_ALARMS_PER_MPX = 1.0  # expected in pure noise, at the lowest allowed threshold
CLEAR_GAP = 0.25  # share of the range between the two that a gap must have to count
CLEARANCE = 0.2  # of the way from noise and ghosts to the training particle
ONE_MARK_RADII, VARIED_MARK_RADII = 0.8, (0.5, 1.0)
SMALL_PAIR = 1.3  # radii between the smallest of varying particles
_N_LEVELS, _PRACTICE_SIDE_PX = 6, 560
_BLANK_SIDE_PX, _N_BLANK = 256, 32
_FEW_MAXIMA = 200  # fewer of them have no tail to fit
_N_TOP = 60  # maxima of highest score, that say how many of them have contrast
_EVERYTHING = -1e30  # a threshold every local maximum passes
_SPREAD_MARGIN = 1.25  # real particles are not copies of one
_MATCH_SHARE = 0.975  # of the correlation that real particles have at least
_LEAST_ROWS = 5  # of a level, to say what is usual there
_NEIGHBOURS_COST = 0.25  # of the log score, three radii away; practised ones are alone


def calibrate(
    model: Model,
    snapshot: Pixels,
    suspects: Suspects,
    *,
    seed: int = 0,
    wanted: Mask | None = None,
) -> dict[str, Any]:
    """Measure what the model's card says about detections.

    Parameters
    ----------
    model
        A freshly trained model.
    snapshot
        The image it was trained on, (y, x).
    suspects
        What may be particles there.
    seed
        Fixes the practice frames.
    wanted
        (y, x): where in the snapshot particles are. None: anywhere.

    Returns
    -------
    Card entries: ``centre_px`` (the point of the first crop that detections name,
    (y, x)), ``crops`` (with that of each),
    ``threshold`` (log score), ``apart_px`` (nearer marks are of one particle),
    ``sigma`` (factors of the predicted error),
    ``like`` (limits of the shape filter) and ``calibration`` (how they came about).
    """
    rng = np.random.default_rng([seed, 77])
    detector = Detector(
        write_model(model.weights, _at_network_scale(model.card)),
        threshold=_EVERYTHING,
        least_contrast=0.0,
    )
    stretch = suspects.stretch
    practice, centres = _practise(detector, model, rng, stretch)
    texture = NoiseTexture.of(snapshot, suspects, model.particle)
    noise, heights = _noise_scores(detector, model.particle, texture, rng)
    company, ghosts = _scores_in_company(detector, model, rng, stretch)
    seen = detector(snapshot).rows
    if wanted is not None:
        places_px = np.column_stack([seen["y_px"], seen["x_px"]])
        inside = Inclusion(wanted, None)
        seen = seen[inside.keeps(places_px, snapshot.shape)]
    noise_floor = 1.0
    unit = detector.levels(snapshot).noise
    if texture is not None:
        noise_floor = _noise_floor(heights, np.abs(seen["intensity"]) / unit, suspects)
    visible = noise[heights >= noise_floor * NOISE_FLOOR]
    threshold, facts = choose_threshold(
        practice,
        noise,
        ghosts,
        seen["score"],
        company=company,
        noise_score=None if texture is None else _noise_score(noise, visible),
    )
    radius_px = max(particle.radius_px for particle in model.particles)
    learnt = learn_threshold(
        seen,
        suspects,
        radius_px,
        facts["noise_score"] if texture is not None else _seen_score(noise, heights),
        snapshot.shape,
        Judged(company, ghosts),
        floor=NOISE_FLOOR * noise_floor * unit,
    )
    if learnt is not None:
        threshold = learnt
        facts["n_snapshot"] = int((seen["score"] >= threshold).sum())
    tail = NoiseTail(**facts["noise_tail"])
    if texture is not None:
        tail = _visible_tail(tail, noise, visible)
    facts["noise_tail"] = asdict(tail)
    facts["false_alarms_per_mpx"] = tail.rate_per_mpx(threshold)
    facts["from_snapshot"] = learnt is not None
    return {
        "centre_px": centres[0],
        "crops": [
            {**crop.to_json(), "centre_px": centre}
            for crop, centre in zip(model.card.crops, centres, strict=True)
        ],
        "threshold": threshold,
        "apart_px": least_distance_px(radius_px, stretch),
        "noise_floor": noise_floor,
        "sigma": fit_sigma(practice),
        "like": like_limits(practice),
        "calibration": facts,
    }


def _at_network_scale(card: CardDraft) -> CardDraft:
    """Return a card whose detector takes pictures as small as the network sees."""
    return card.updated(downsample=1)


def least_distance_px(radius_px: float, stretch: tuple[float, float] | None) -> float:
    """Return how near two marks may be to each other.

    Touching particles of one size are 2 radii apart, but long ones lie side by side,
    and the smallest of varying size are nearer to each other.
    """
    if stretch is None:
        return ONE_MARK_RADII * radius_px
    return radius_px * float(np.clip(SMALL_PAIR * stretch[0], *VARIED_MARK_RADII))


def noise_levels(particle: Particle) -> FloatArray:
    """Return the practised noise in units of the crop's: SNR 2.5 to at least 30."""
    best = max(2.0 * particle.snr, 30.0)
    levels: FloatArray = particle.snr / np.geomspace(2.5, best, _N_LEVELS)
    return levels


#: One row per found particle of the practice frames.
PRACTICE_DTYPE = np.dtype(
    [(n, "f8") for n in ("error2_px2", "consistency_px", "snr", "score", "match")]
    + [("noise_level", "f8"), ("crop", "i8")]
)


def _practise(
    detector: Detector,
    model: Model,
    rng: np.random.Generator,
    stretch: tuple[float, float] | None,
) -> tuple[Rows, list[list[float]]]:
    """Practise each crop's particle, at noise levels of its own.

    Returns the rows, and for each crop the point (y, x) that detections name, px: the
    tracked point and the mean offset of what was found from it.
    """
    blocks, centres = [], []
    for index, (particle, centre) in enumerate(
        zip(model.particles, _centres(model), strict=True)
    ):
        practice, offset = _practise_one(detector, particle, centre, rng, stretch)
        practice["crop"] = index
        blocks.append(practice)
        centres.append([float(c) for c in centre + offset])
    return np.concatenate(blocks), centres


def _centres(model: Model) -> list[tuple[float, float]]:
    """Return the tracked point (y, x) in each crop, px."""
    return [crop.centre_px for crop in model.card.crops]


def _practise_one(
    detector: Detector,
    particle: Particle,
    centre: tuple[float, float],
    rng: np.random.Generator,
    stretch: tuple[float, float] | None,
) -> tuple[Rows, FloatArray]:
    """Locate copies of one particle at every noise level; the nearest maximum counts.

    Returns the rows, and the mean offset (y, x) of what was found from the tracked
    point, in the crop, px. Errors are about that mean: it is a constant of the model.
    """
    gate_px = max(0.5 * particle.radius_px, 2.0)
    n_side = int(np.clip(_PRACTICE_SIDE_PX // particle.size_px, 3, 8))
    blocks, offsets, errors, turns, seen = [], [], [], [], []
    for level in noise_levels(particle):
        frame = practice_frame(
            particle,
            centre,
            n_side=n_side,
            noise_level=level,
            rng=rng,
            stretch=stretch,
        )
        rows = detector(frame.pixels).rows
        found = np.column_stack([rows["y_px"], rows["x_px"]])
        distance = cdist(frame.positions_px, found)
        # among the maxima within the gate the one of best score is the detection
        ranked = np.where(distance <= gate_px, rows["score"][None], -np.inf)
        chosen = ranked.argmax(axis=1)
        ok = np.isfinite(ranked.max(axis=1))
        best = rows[chosen[ok]]
        error = found[chosen[ok]] - frame.positions_px[ok]
        turned_back = np.linalg.solve(frame.turns[ok], error[..., None])[..., 0]
        offsets.append(turned_back)
        errors.append(error)
        turns.append(frame.turns[ok])
        block = np.zeros(len(best), PRACTICE_DTYPE)
        block["consistency_px"] = best["consistency_px"]
        # As a detector measures it: light particles raise the noise of a full frame.
        block["snr"] = np.abs(best["intensity"]) / detector.levels(frame.pixels).noise
        block["score"] = best["score"]
        block["noise_level"] = level
        blocks.append(block)
        seen.append((frame.pixels, found[chosen[ok]]))
    practice, offset = np.concatenate(blocks), np.concatenate(offsets)
    calm = offset[practice["noise_level"] <= 1.0]
    mean = calm.mean(axis=0) if len(calm) else np.zeros(2)
    usual = np.concatenate(turns) @ mean
    practice["error2_px2"] = ((np.concatenate(errors) - usual) ** 2).sum(axis=1) / 2
    practice["match"] = np.concatenate(_matches(particle, centre + mean, seen))
    return practice, mean


def _matches(
    particle: Particle,
    centre_px: FloatArray,
    seen: list[tuple[FloatArray, FloatArray]],
) -> list[FloatArray]:
    """Return how well places in frames look like a particle around `centre_px`."""
    y, x = centre_px.tolist()
    shown = shown_around(particle.signal, (y, x), LOOK_RADII * particle.radius_px)
    look = Look.of([shown])
    return [look.match(pixels, places) for pixels, places in seen]


def _noise_scores(
    detector: Detector,
    particle: Particle,
    texture: NoiseTexture | None,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Return the scores of all maxima in blank frames, highest first.

    Then their contrasts, in units of the frame's noise.
    """
    frames = (
        blank_frame(particle, _BLANK_SIDE_PX, noise_level=1.0, rng=rng)
        if texture is None
        else particle.background + texture.draw(_BLANK_SIDE_PX, rng)
        for _ in range(_N_BLANK)
    )
    scores, heights = [], []
    for frame in frames:
        rows = detector(frame).rows
        scores.append(rows["score"])
        heights.append(np.abs(rows["intensity"]) / detector.levels(frame).noise)
    score, height = np.concatenate(scores), np.concatenate(heights)
    order = np.argsort(-score, kind="stable")
    return score[order], height[order]


def _noise_floor(noise: FloatArray, seen: FloatArray, suspects: Suspects) -> float:
    """Return the contrast that correlated noise hardly ever reaches.

    At most half of what all but few particles of the snapshot have: these come first.
    """
    n_allowed = int(FALSE_ALARMS_PER_MPX * _N_BLANK * _BLANK_SIDE_PX**2 / 1e6)
    floor = float(np.sort(noise)[::-1][min(n_allowed, len(noise) - 1)])
    n_particles = int(suspects.is_particle.sum())
    if n_particles:
        strongest = np.sort(seen)[::-1][: max(1, int(0.9 * n_particles))]
        floor = min(floor, 0.5 * float(strongest[-1]))
    return max(floor, 1.0)


def _visible_tail(
    every: NoiseTail, noise: FloatArray, visible: FloatArray
) -> NoiseTail:
    """Return the tail of the maxima whose contrast a run does not leave out.

    Few have the shape of all; none counts as half a one.
    """
    mpx = _N_BLANK * _BLANK_SIDE_PX**2 / 1e6
    if len(visible) >= _FEW_MAXIMA:
        return NoiseTail.fit(visible, mpx)
    start = float(visible[-1]) if len(visible) else float(np.median(noise))
    return NoiseTail(start, every.scale, every.shape, max(len(visible), 0.5) / mpx)


def _noise_score(noise: FloatArray, visible: FloatArray) -> float:
    """Return the score that noise, as visible in a run, exceeds as often as allowed."""
    mpx = _N_BLANK * _BLANK_SIDE_PX**2 / 1e6
    n_allowed = int(FALSE_ALARMS_PER_MPX * mpx)
    if len(visible) <= n_allowed:  # the least contrast keeps it out
        return float(np.median(noise))
    if len(visible) < _FEW_MAXIMA:
        return float(visible[n_allowed])
    return NoiseTail.fit(visible, mpx).score_at(FALSE_ALARMS_PER_MPX)


def _seen_score(noise: FloatArray, heights: FloatArray) -> float:
    """Return the score that white noise exceeds as often as allowed, where it shows.

    Few of its maxima of high score reach the least contrast of a run.
    """
    tail = NoiseTail.fit(noise, _N_BLANK * _BLANK_SIDE_PX**2 / 1e6)
    top = heights[:_N_TOP]
    share = (np.sum(top >= NOISE_FLOOR) + 1) / (len(top) + 1)
    return tail.score_at(min(FALSE_ALARMS_PER_MPX / share, tail.start_rate))


def _scores_in_company(
    detector: Detector,
    model: Model,
    rng: np.random.Generator,
    stretch: tuple[float, float] | None,
) -> tuple[FloatArray, FloatArray]:
    """Return the scores in crowded frames: of particles, and of marks on none."""
    radius_px = max(particle.radius_px for particle in model.particles)
    side_px = int(np.clip(70 * radius_px, 256, 768))  # some 700 copies
    frames = crowded_frames(
        model.particles,
        _centres(model),
        side_px=side_px,
        noise_levels=(0.5, 1.0, 2.0),
        rng=rng,
        stretch=stretch,
    )
    gate_px = max(0.5 * radius_px, 2.0)
    scores, ghosts = [], []
    for frame in frames:
        rows = detector(frame.pixels).rows
        found = np.column_stack([rows["y_px"], rows["x_px"]])
        distance = cdist(frame.positions_px, found)
        ghosts.append(rows["score"][distance.min(axis=0) > radius_px])
        near = np.where(distance <= gate_px, rows["score"], _EVERYTHING)
        best = near.max(axis=1, initial=_EVERYTHING)
        depth = np.minimum(frame.positions_px, side_px - 1 - frame.positions_px)
        scores.append(best[depth.min(axis=1) > radius_px])
    return np.concatenate(scores), np.concatenate(ghosts)


def choose_threshold(
    practice: Rows,
    noise: FloatArray,
    ghosts: FloatArray,
    seen: FloatArray,
    company: FloatArray | None = None,
    noise_score: float | None = None,
) -> tuple[float, dict[str, Any]]:
    """Choose the least score of a detection and say what it means.

    The lowest allowed threshold lets noise pass `FALSE_ALARMS_PER_MPX` times per
    million pixels and no ghost, a maximum between neighbours or on a particle's rim;
    the highest still passes 98 % of the practice particles, copies of one particle or
    of each of several. Between the two lies the threshold: in the middle of the widest
    gap of the snapshot's own scores, if one stands out, or higher in it if that is
    `FAR_BELOW` the particles. Real particles may differ so much that their scores fill
    the range; then it lies `CLEARANCE` above the lowest.
    Where lowest and highest overlap, particles come first: the highest threshold holds,
    and the card states how many false alarms that costs.

    Parameters
    ----------
    practice
        Rows of `PRACTICE_DTYPE`.
    noise
        Scores of all maxima of the blank frames, highest first.
    ghosts
        Scores of the maxima on no particle of the crowded frames.
    seen
        Scores of all maxima of the snapshot.
    company
        Scores of particles in the crowded frames: 95 % of them pass as well, if that is
        not below the lowest.
    noise_score
        What noise exceeds as often as allowed; None: by its scores.
    """
    tail = NoiseTail.fit(noise, _N_BLANK * _BLANK_SIDE_PX**2 / 1e6)
    ghost = float(ghosts.max(initial=-np.inf))
    if noise_score is None:
        noise_score = tail.score_at(FALSE_ALARMS_PER_MPX)
    lowest = max(noise_score, ghost)
    usual = _usual(practice)
    highest = min(
        float(np.percentile(usual["score"][usual["crop"] == crop], 2))
        for crop in np.unique(usual["crop"])
    )
    alone = highest
    if company is not None and len(company):
        among_others = float(np.percentile(company, 5))
        highest = min(alone, max(among_others, lowest + CLEARANCE * (alone - lowest)))
    threshold = highest
    if highest > lowest:
        inside = seen[(seen > lowest) & (seen < highest)]
        marks = np.sort(np.concatenate([[lowest], inside, [highest]]))
        gaps = np.diff(marks) / (highest - lowest)
        widest = int(np.argmax(gaps))
        if gaps[widest] >= CLEAR_GAP:
            low, high = (float(mark) for mark in marks[widest : widest + 2])
            last = low + GAP_SHARE * (high - low)
            threshold = float(np.clip(highest - FAR_BELOW, (low + high) / 2, last))
        else:
            threshold = lowest + CLEARANCE * (highest - lowest)
    return threshold, {
        "false_alarms_per_mpx": tail.rate_per_mpx(threshold),
        "noise_score": noise_score,
        "ghost_score": ghost if np.isfinite(ghost) else None,
        "particle_score": alone,
        "practised_snr": [float(v) for v in practised_snr(practice)],
        "n_snapshot": int((seen >= threshold).sum()),
        "separated": bool(alone > lowest),
        "noise_tail": asdict(tail),
    }


def _usual(practice: Rows) -> Rows:
    """Return the rows at up to 4 times the crop's noise: what a movie may show."""
    chosen: Rows = practice[practice["noise_level"] <= 4.0]
    return chosen


def practised_snr(practice: Rows) -> FloatArray:
    """Return the mean measured contrast/noise per practised level (and crop)."""
    return np.array([rows["snr"].mean() for rows in _per_level(practice)])


def _per_level(practice: Rows) -> list[Rows]:
    """Part the rows by crop, then by noise level, ascending."""
    by_crop = [practice[practice["crop"] == c] for c in np.unique(practice["crop"])]
    return [
        rows[rows["noise_level"] == level]
        for rows in by_crop
        for level in np.unique(rows["noise_level"])
    ]


def fit_sigma(practice: Rows) -> dict[str, float]:
    """Fit the factors of `detection.rows.sigma_px`.

    Non-negative least squares on the squared errors, each noise level of each crop in
    units of its own mean so that all count alike; gross errors (beyond 3.5 robust
    standard deviations) are left out.
    """
    terms, targets = [], []
    for rows in _per_level(practice):
        usual = np.median(rows["error2_px2"]) / np.log(2)  # mean of an exponential
        rows = rows[rows["error2_px2"] < 3.5**2 * usual]
        mean = rows["error2_px2"].mean()
        columns = [
            np.ones(len(rows)),
            rows["consistency_px"] ** 2,
            1 / rows["snr"] ** 2,
            1 / rows["snr"] ** 4,
        ]
        terms.append(np.column_stack(columns) / mean)
        targets.append(rows["error2_px2"] / mean)
    matrix = np.concatenate(terms)
    norm = matrix.mean(axis=0)  # the columns differ by orders of magnitude
    factors, _ = nnls(matrix / norm, np.concatenate(targets))
    names = ("floor_px", "spread", "noise_px", "faint_px")
    return dict(zip(names, np.sqrt(factors / norm).tolist(), strict=True))


def like_limits(practice: Rows) -> dict[str, list[float]]:
    """Return what a detection of the trained shape shows at each contrast/noise.

    Its image correlates with the particle's at least as well as those of 98 % of the
    practice particles, less a margin for what real ones vary. Its votes scatter at most
    1.25 times as much as theirs, and its score is at least what 98 % of them exceed,
    less what neighbours cost. One limit for all would be that of the faintest
    particles: too wide for bright ones, among which shapes differ most clearly. Of
    several crops the most lenient counts.

    Returns
    -------
    The fields of `detection.rows.Likeness`.
    """
    every = _per_level(practice)
    levels = [rows for rows in every if len(rows) >= _LEAST_ROWS] or every
    curves = {
        int(crop): np.array([_like(rows) for rows in levels if rows["crop"][0] == crop])
        for crop in np.unique([rows["crop"][0] for rows in levels])
    }
    snr = np.unique(np.concatenate([curve[:, 0] for curve in curves.values()]))
    spread, score, match = (
        np.array([_along(curve, snr, column) for curve in curves.values()])
        for column in (1, 2, 3)
    )
    # Who is fainter agrees less and scores lower: what departs from that is chance.
    spread = np.maximum.accumulate(spread.max(axis=0)[::-1])[::-1]
    score = np.minimum.accumulate(score.min(axis=0)[::-1])[::-1]
    match = np.minimum.accumulate(match.min(axis=0)[::-1])[::-1]
    limits = {"snr": snr, "consistency_px": spread, "score": score, "match": match}
    return {name: values.tolist() for name, values in limits.items()}


def _like(rows: Rows) -> tuple[float, float, float, float]:
    """Return contrast/noise and limits of scatter (px), score, match of some rows."""
    spread = _SPREAD_MARGIN * np.quantile(rows["consistency_px"], 0.98)
    score = np.quantile(rows["score"], 0.02) - _NEIGHBOURS_COST
    match = _MATCH_SHARE * np.quantile(rows["match"], 0.02)
    return float(rows["snr"].mean()), float(spread), float(score), float(match)


def _along(curve: FloatArray, snr: FloatArray, column: int) -> FloatArray:
    order = np.argsort(curve[:, 0])
    values = np.interp(np.log(snr), np.log(curve[order, 0]), curve[order, column])
    return np.asarray(values)
