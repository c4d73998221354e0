"""Whom to follow: choosing a target, keeping it, losing it, finding it again.

The rule behind all of this: the stage never jumps to another particle unasked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lodestar_live.control.estimate import Estimate, TargetFilter
from lodestar_live.data import Event, FloatArray, Rows
from lodestar_live.settings import ControlSettings

DEFAULT_SIGMA_PX = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One frame as control sees it, in stage coordinates.

    Parameters
    ----------
    frame_index, t_s, period_s
        The frame, the middle of its exposure, the learnt frame period.
    rows, positions_um
        Tracks and their places in the sample, (n, 2), (y, x).
    stage_um
        (2,): stage at exposure, which is where the centre of the view lies.
    um_per_px, view_um
        Scale, and shorter side of the view.
    """

    frame_index: int
    t_s: float
    period_s: float
    rows: Rows
    positions_um: FloatArray
    stage_um: FloatArray
    um_per_px: float
    view_um: float


class Target:
    """The followed particle: its identity, its motion filter and its state.

    States: ``idle`` (nobody to follow), ``following``, ``coasting`` (missed for a few
    frames, followed on its prediction), ``searching`` (the stage rests, the predicted
    disc is watched), ``waiting`` (for the same track only), ``ended``.
    """

    def __init__(
        self, settings: ControlSettings, tell: Callable[[Event], None]
    ) -> None:
        self.settings, self._tell = settings, tell
        self.state = "idle"
        self.track_id: int | None = None
        self.choice: str | None = settings.target if settings.follow else None
        self._filter: TargetFilter | None = None
        self._last_seen_frame = -1
        self._rival: tuple[int, int] | None = None  # track, consistent frames

    def follow(self, choice: str | int) -> None:
        """Follow a track id, or whom ``nearest``, ``brightest``, ``fastest`` names."""
        self.release()
        if isinstance(choice, str):
            self.choice = choice
        else:
            self.track_id, self.state = choice, "following"

    def release(self) -> None:
        """Follow nobody."""
        self.track_id, self.choice, self.state = None, None, "idle"
        self._filter, self._rival = None, None

    def observe(self, sight: Sight) -> None:
        """Take one frame: choose if asked to, then update filter and state."""
        if self.track_id is None and self.choice is not None:
            self._choose(sight)
        if self.track_id is None or self.state == "ended":
            return
        row = self._row_of_target(sight)
        if row is None:
            self._miss(sight)
            return
        if self._filter is None:
            self._filter = TargetFilter(_noise_um(sight, row), dt=sight.period_s)
        self._filter.update(
            sight.positions_um[row], sight.t_s, noise_sd=_noise_um(sight, row)
        )
        self._last_seen_frame = sight.frame_index
        self._enter("following", sight)

    def aim(self, t_s: float) -> Estimate | None:
        """Return where the target will be at `t_s`; None: the stage should rest."""
        if self._filter is None or not self._filter.is_started:
            return None
        if self.state not in ("following", "coasting"):
            return None
        return self._filter.predict(t_s)

    def _row_of_target(self, sight: Sight) -> int | None:
        """Index of the row that is the target in this frame, by id and by motion."""
        rows = sight.rows
        seen = rows["missed_frames"] == 0
        mine = np.flatnonzero((rows["track_id"] == self.track_id) & seen)
        own = int(mine[0]) if len(mine) else None
        if self._filter is None or not self._filter.is_started:
            return own
        if own is not None and self.state in ("following", "coasting", "waiting"):
            return own
        if own is not None or self.settings.lost != "search":
            return own
        return self._found_again(sight, np.flatnonzero(seen))

    def _found_again(self, sight: Sight, seen: Any) -> int | None:
        """Index of a new track that keeps appearing where the target can be."""
        assert self._filter is not None  # noqa: S101
        new = [
            i
            for i in seen
            if sight.rows["age_frames"][i] <= sight.frame_index - self._last_seen_frame
            and self._filter.is_plausible(sight.positions_um[i], sight.t_s)
        ]
        if not new:
            self._rival = None
            return None
        ahead = self._filter.predict(sight.t_s).position
        gaps = [np.linalg.norm(sight.positions_um[i] - ahead) for i in new]
        best = int(new[int(np.argmin(gaps))])
        track_id = int(sight.rows["track_id"][best])
        frames = self._rival[1] + 1 if self._rival and self._rival[0] == track_id else 1
        self._rival = (track_id, frames)
        if frames < self.settings.reacquire_frames:
            return None
        self._adopt(track_id, sight, "found again")
        return best

    def _choose(self, sight: Sight) -> None:
        rows = sight.rows
        seen = np.flatnonzero(rows["missed_frames"] == 0)
        if not len(seen):
            return
        away = np.linalg.norm(sight.positions_um[seen] - sight.stage_um, axis=1)
        speed = np.hypot(rows["vy_px_per_frame"][seen], rows["vx_px_per_frame"][seen])
        wish = {
            "nearest": -away,
            "brightest": np.nan_to_num(rows["intensity"][seen], nan=-np.inf),
            "fastest": np.nan_to_num(speed, nan=-np.inf),
        }[str(self.choice)]
        best = seen[int(np.argmax(wish))]
        self._adopt(int(rows["track_id"][best]), sight, str(self.choice))

    def _adopt(self, track_id: int, sight: Sight, why: str) -> None:
        facts = {"track_id": track_id, "was": self.track_id, "why": why}
        self._tell(Event("control.target", sight.t_s, sight.frame_index, facts))
        self.track_id, self._rival = track_id, None

    def _miss(self, sight: Sight) -> None:
        if self._filter is None:
            return
        missed = sight.frame_index - self._last_seen_frame
        spread_um = float(self._filter.predict(sight.t_s).position_sd.max())
        if missed <= self.settings.coast_frames and spread_um < sight.view_um / 6:
            self._enter("coasting", sight)
            return
        if self.state in ("following", "coasting"):
            facts = {"track_id": self.track_id, "missed_frames": missed}
            self._tell(Event("control.lost", sight.t_s, sight.frame_index, facts))
        after = {"search": "searching", "hold": "waiting", "stop": "ended"}
        self._enter(after[self.settings.lost], sight)

    def _enter(self, state: str, sight: Sight) -> None:
        if state == self.state:
            return
        facts = {"state": state, "was": self.state, "track_id": self.track_id}
        self._tell(Event("control.state", sight.t_s, sight.frame_index, facts))
        self.state = state


def _noise_um(sight: Sight, row: int) -> float:
    sigma_px = float(sight.rows["sigma_px"][row])
    if not np.isfinite(sigma_px) or sigma_px <= 0:
        sigma_px = DEFAULT_SIGMA_PX
    return sigma_px * sight.um_per_px
