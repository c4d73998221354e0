"""The snapshot's own maxima, judged by what the image says before any training.

A threshold set on copies of one lone particle hides what the network sees: real
particles differ, and score lower in company. The snapshot holds both particles and
everything else that has a shape; `find_suspects` says which is which, well enough for
most. The threshold that makes the fewest errors among them is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from lodestar_live.data import FloatArray, Rows
from lodestar_live.detection.detector import LEAST_CONTRAST
from lodestar_live.training.particle.suspects import Suspects

FAR_BELOW = 1.75  # of the particles' score: what lies there is texture or dirt
GAP_SHARE = 0.85  # of a gap that may be given up
FEWEST = 8  # certain particles from which a snapshot decides
_NEAR_RADII, _NEAR_PX = 0.7, 3.0  # from a suspect: a maximum belongs to it
_ASIDE_RADII = 1.5  # up to there it may be another mark on it: not judged
_PASS_PERCENT = 10.0  # of the particles may be lost to keep noise out
_USUAL_PERCENT = 5.0
_UNFOUND = -1e30


def learn_threshold(
    rows: Rows,
    suspects: Suspects,
    radius_px: float,
    lowest: float,
    shape: tuple[int, ...],
    company: Judged | None = None,
    *,
    floor: float = 0.0,
) -> float | None:
    """Return the snapshot's own threshold; None if it has few particles.

    At least `lowest`, unless that would lose more than a tenth of them. Where
    particles in company score lower than the snapshot's own, as low as they need, if
    that costs nothing in the snapshot.

    Parameters
    ----------
    rows
        All maxima of the snapshot, whatever their score and contrast. What a run would
        drop for its contrast is left out.
    suspects
        What may be particles there.
    radius_px
        Of the training particle.
    lowest
        Score that noise hardly ever reaches.
    shape
        Of the snapshot; particles that its edge cuts say nothing.
    company
        What practice frames show of particles that touch.
    floor
        Contrast below which a run drops every row, camera counts.
    """
    threshold = None
    contrast = np.abs(rows["intensity"])
    least = floor
    for _ in range(3):  # the least contrast follows from what the threshold passes
        judged = judge(rows[contrast >= least], suspects, radius_px, shape)
        if not judged.decides:
            return threshold
        # Where noise and particles overlap, particles come first.
        found = judged.particles[judged.particles > _UNFOUND]
        faintest = float(np.percentile(found, _PASS_PERCENT)) if len(found) else lowest
        least_score = min(lowest, faintest)
        below = judged.others[judged.others < faintest]
        if faintest < lowest and len(below):  # nothing of the snapshot lies between
            least_score = (faintest + float(below.max())) / 2
        wanted = None
        if company is not None and len(company.particles):
            wanted = fewest_errors(company, least_score)
        threshold = fewest_errors(judged, least_score, wanted)
        if len(found):  # what lies far below has not been seen yet, but may come
            usual = float(np.percentile(found, _USUAL_PERCENT))
            threshold = max(threshold, usual - FAR_BELOW)
        passed = contrast[rows["score"] >= threshold]
        usual = float(np.percentile(passed, 75)) if len(passed) else 0.0
        least = max(floor, LEAST_CONTRAST * usual)
    return threshold


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Scores of a snapshot's maxima.

    `particles` (n,): the best on each certain particle, very low where there is none.
    `others` (m,): of maxima far from all that may be a particle.
    """

    particles: FloatArray
    others: FloatArray

    @property
    def decides(self) -> bool:
        """Whether there are particles enough to set a threshold by."""
        return len(self.particles) >= FEWEST


def judge(
    rows: Rows, suspects: Suspects, radius_px: float, shape: tuple[int, ...]
) -> Judged:
    """Tell a snapshot's maxima, as a detector without threshold marks them, apart."""
    places = np.column_stack([rows["y_px"], rows["x_px"]])
    if not len(places) or not len(suspects.positions_px):
        return Judged(np.empty(0), np.asarray(rows["score"], float))
    distance = cdist(suspects.positions_px, places)
    near = distance <= max(_NEAR_RADII * radius_px, _NEAR_PX)
    best = np.where(near, rows["score"][None], _UNFOUND).max(axis=1)
    may_be = distance[suspects.may_be]
    is_other = (may_be > _ASIDE_RADII * radius_px + _NEAR_PX / 2).all(axis=0)
    return Judged(
        best[suspects.is_particle], np.asarray(rows["score"][is_other], float)
    )


def fewest_errors(judged: Judged, lowest: float, wanted: float | None = None) -> float:
    """Return the threshold, at least `lowest`, that errs least on what was judged.

    Among those that err as little, up to one particle in fifty, the middle of the
    widest gap; or what is `wanted`, if that lies lower in that gap.
    """
    particles, others = np.sort(judged.particles), np.sort(judged.others)
    marks = np.unique(np.concatenate([[lowest], particles, others]))
    marks = marks[(marks >= lowest) & (marks > _UNFOUND)]
    if len(marks) < 2:
        return lowest
    middle = (marks[1:] + marks[:-1]) / 2
    missed = np.searchsorted(particles, middle)
    wrong = len(others) - np.searchsorted(others, middle)
    errors: npt.NDArray[np.int64] = missed + wrong
    good = np.flatnonzero(errors <= errors.min() + len(particles) // 50)
    widest = good[np.argmax(np.diff(marks)[good])]
    if wanted is None:
        return float(middle[widest])
    last = marks[widest + 1] - GAP_SHARE * (marks[widest + 1] - marks[widest])
    return float(np.clip(wanted, last, middle[widest]))
