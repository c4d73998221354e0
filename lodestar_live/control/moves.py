"""Where the stage was at any instant: a log of our own moves and of readings.

A position read after a frame arrives is up to several frames too new, which costs a
factor two to ten in centring error. So every move is noted when it is sent, with a
model of the stage's response, and every reading with its own time.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from lodestar_live.data import UNKNOWN_POSITION, FloatArray, StagePosition

SETTLED_UM = 0.01


@dataclass(frozen=True, slots=True)
class StageResponse:
    """How the stage answers a move, as measured by `calibrate`.

    After `dead_s` it approaches the commanded place exponentially with time constant
    `tau_s`, never faster than `speed_um_per_s`.
    """

    dead_s: float = 0.0
    tau_s: float = 0.0
    speed_um_per_s: float = float("inf")

    @property
    def settle_s(self) -> float:
        """Time after which less than 2 % of a short move remains."""
        return self.dead_s + 4.0 * self.tau_s

    def lasts_s(self, distance_um: FloatArray) -> float:
        """Return the time after which a move is over to one part in 10^5."""
        travel_s = float(np.abs(distance_um).max()) / self.speed_um_per_s
        return self.dead_s + 12 * self.tau_s + travel_s

    def remaining_um(
        self, distance_um: FloatArray, elapsed_s: float | FloatArray
    ) -> FloatArray:
        """Return what is left of a move of `distance_um`, per axis.

        Speed-limited while the distance exceeds ``speed * tau``, exponential below.
        Both arguments may be arrays that broadcast.
        """
        distance = np.asarray(distance_um, dtype=float)
        time_s = np.maximum(np.asarray(elapsed_s, dtype=float) - self.dead_s, 0.0)
        left, ramp_s = np.abs(distance), 0.0
        if np.isfinite(self.speed_um_per_s):
            ramp_s = np.maximum(left / self.speed_um_per_s - self.tau_s, 0.0)
            left = left - self.speed_um_per_s * np.minimum(time_s, ramp_s)
        rest_s = np.maximum(time_s - ramp_s, 0.0)
        if self.tau_s:
            left = left * np.exp(-rest_s / self.tau_s)
        elif np.isinf(self.speed_um_per_s):
            left = np.where(time_s > 0, 0.0, left)
        return np.asarray(np.sign(distance) * left)


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """From `t_s` on the stage is at, or on its way to, `goal` (z, y, x)."""

    t_s: float
    goal: FloatArray
    step: FloatArray  # change of goal by an own move; zeros for a reading
    is_move: bool
    lasts_s: float = 0.0


class MoveLog:
    """Time-stamped moves and readings of one stage; thread-safe and bounded.

    Parameters
    ----------
    response
        The stage's answer to a move.
    n_entries
        How much is remembered; the oldest is forgotten first.
    """

    def __init__(
        self, response: StageResponse = StageResponse(), *, n_entries: int = 4096
    ) -> None:
        self.response = response
        self._entries: deque[_Entry] = deque(maxlen=n_entries)
        self._lock = threading.Lock()

    def moved(self, t_s: float, target: StagePosition) -> None:
        """Note a move sent at `t_s`; NaN axes of `target` stay where they were."""
        goal = np.asarray(target, dtype=float)
        with self._lock:
            before = self._entries[-1].goal if self._entries else goal
            goal = np.where(np.isnan(goal), before, goal)
            step = np.nan_to_num(goal - before)
            self._append(_Entry(t_s, goal, step, True, self.response.lasts_s(step)))

    def read(self, t_s: float, position: StagePosition) -> None:
        """Note a position read at `t_s`.

        A reading while an own move still settles is ignored: many stages report the
        goal, not the way there.
        """
        here = np.asarray(position, dtype=float)
        with self._lock:
            if self._entries and np.any(np.abs(self._remaining(t_s)) > SETTLED_UM):
                return
            self._forget_middle(here)
            self._append(_Entry(t_s, here, np.zeros(3), False))

    def stopped(self, t_s: float, position: StagePosition) -> None:
        """Note that the stage was made to stand still at `position`."""
        here = np.asarray(position, dtype=float)
        with self._lock:
            self._append(_Entry(t_s, here, np.zeros(3), False))

    def position_at(self, t_s: float) -> StagePosition:
        """Return the position at `t_s`; NaN before the first entry."""
        with self._lock:
            entries = self._entries
            if not entries or not t_s >= entries[0].t_s:
                return UNKNOWN_POSITION
            return StagePosition(*(float(v) for v in self._at(t_s)))

    @property
    def goal(self) -> StagePosition:
        """Where the last entry leads."""
        with self._lock:
            if not self._entries:
                return UNKNOWN_POSITION
            return StagePosition(*(float(v) for v in self._entries[-1].goal))

    def _append(self, entry: _Entry) -> None:
        if not self._entries or entry.t_s >= self._entries[-1].t_s:
            self._entries.append(entry)  # late news is no news

    def _forget_middle(self, here: FloatArray) -> None:
        """Keep only the first and the latest of many equal readings."""
        last_two = list(self._entries)[-2:]
        same = [
            not e.is_move and np.array_equal(e.goal, here, equal_nan=True)
            for e in last_two
        ]
        if same == [True, True]:
            self._entries.pop()

    def _remaining(self, t_s: float) -> FloatArray:
        """Sum of what is left, at `t_s`, of the own moves since the last reading.

        Moves overlap; a linear stage adds their responses.
        """
        ages_s, steps = [], []
        for entry in reversed(self._entries):
            age_s = t_s - entry.t_s
            if age_s < 0:
                continue
            if not entry.is_move or age_s > entry.lasts_s:
                break
            ages_s.append(age_s)
            steps.append(entry.step)
        if not steps:
            return np.zeros(3)
        left = self.response.remaining_um(np.array(steps), np.array(ages_s)[:, None])
        return np.asarray(left.sum(axis=0))

    def _at(self, t_s: float) -> FloatArray:
        now, after = self._entries[0], None
        for entry in reversed(self._entries):
            if entry.t_s <= t_s:
                now = entry
                break
            after = entry
        if now.is_move:
            return np.asarray(now.goal - self._remaining(t_s))
        if after is None or after.is_move:
            return now.goal
        share = (t_s - now.t_s) / (after.t_s - now.t_s)
        return np.asarray(now.goal + share * (after.goal - now.goal))
