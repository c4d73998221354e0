"""Plain linear sum assignment with a distance threshold, as in the LodeSTAR paper."""

from __future__ import annotations

import numpy as np

from lodestar_live.data import Rows
from lodestar_live.linking.assignment import Pairs
from lodestar_live.linking.gate import BoolArray, IntArray, pairs_within
from lodestar_live.linking.learning import first_step_variance
from lodestar_live.linking.states import AXES, measured_position
from lodestar_live.motion import Motion

GATE_SD = 3.0  # of the guessed displacement, where no radius is given


class NearestModel:
    """Minimise the summed squared distance; no motion, no probabilities.

    A track that stays alone costs the squared threshold, as in trackpy, so the two
    find the same optimum.
    """

    def __init__(self, search_radius_px: float | None) -> None:
        self.radius_px = search_radius_px

    def law(self, unit: str) -> Motion | None:
        """Return the law of motion: none."""
        return None

    def predict(self, states: Rows, dt: int) -> None:
        """Leave every track where it was last seen."""

    def candidates(self, states: Rows, rows: Rows) -> Pairs:
        """Return every pair closer than the threshold."""
        points = measured_position(rows, "px")
        if not len(states) or not len(rows):
            return Pairs.none()
        if self.radius_px is None:
            variance = first_step_variance(states["position_px"], points)
            self.radius_px = GATE_SD * float(np.sqrt(variance))
        reach = np.full(len(states), self.radius_px)
        track, found = pairs_within(states["position_px"], reach, points)
        step = states["position_px"][track] - points[found]
        gain = self.radius_px**2 - (step**2).sum(axis=1)
        # A pair exactly at the threshold is worth as much as none: it is left out.
        keep = np.flatnonzero(gain > 0)
        return Pairs(track[keep], found[keep], gain[keep])

    def update(
        self, states: Rows, hit: IntArray, rows: Rows, elapsed: IntArray
    ) -> None:
        """Move the tracks `hit` to their detections."""
        for unit in AXES:
            points = measured_position(rows, unit)
            step = points - states[f"position_{unit}"][hit]
            states[f"velocity_{unit}"][hit] = step / elapsed[hit, None]
            states[f"position_{unit}"][hit] = points

    def birth(self, states: Rows, rows: Rows, *, is_first: bool) -> None:
        """Start tracks at detections that belong to none."""
        for unit in AXES:
            states[f"position_{unit}"] = measured_position(rows, unit)
            states[f"variance_{unit}"] = np.nan
        states["existence"] = np.nan

    def is_confirmed(self, states: Rows) -> BoolArray:
        """Return which tracks are more than a chance detection."""
        return np.asarray(states["n_seen"] > 1)

    def is_over(self, states: Rows) -> BoolArray:
        """Return which tracks have ended for a reason of their own: none."""
        return np.zeros(len(states), np.bool_)

    def learn(self, states: Rows, over: BoolArray, births: Rows) -> None:
        """Learn nothing."""
